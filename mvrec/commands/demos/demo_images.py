"""`mvrec demo-images`: every family of networks learns from files of images, from nothing to a test score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvrec.commands.demos.training import train
from mvrec.files import at_home
from mvrec.messages import CommandParser
from mvrec.tasks.classification.scores import SingleLabelScores

CONFIGS = tuple(f"demo_images_{name}" for name in ("shunted", "sgformer", "cloformer", "mvit"))


@dataclass(frozen=True)
class Result:
    """The result of one network.

    Attributes:
        network: Its name.
        parameters: Their number.
        minutes: Time that training took, with validation.
        scores: Those of the test split.
    """

    network: str
    parameters: int
    minutes: float
    scores: SingleLabelScores


def main(arguments: list[str]) -> None:
    """Generate images of digits, train a network of each family on them, test it, and sum up in a table."""
    parser = CommandParser(prog="mvrec demo-images", description=main.__doc__)
    parser.add_argument(
        *("--configs",),
        nargs="+",
        default=CONFIGS,
        help=f"one per network (default: {' '.join(CONFIGS)})",
    )
    parser.add_argument("--run_dir", type=at_home, default=Path("runs/demo_images"), help="default: %(default)s")
    options, overrides = parser.parse_known_args(arguments)
    results = []
    for config in options.configs:
        results.append(_train_and_test(config, options.run_dir / Path(config).stem, overrides))
        print("\n" + "\n".join(table(results)), flush=True)  # noqa: T201
    print(f"everything about the runs: {options.run_dir}")  # noqa: T201


def _train_and_test(config: str, run_dir: Path, overrides: Sequence[str]) -> Result:
    trained = train(config, run_dir, overrides)
    scores = trained.test().model.scores
    assert isinstance(scores, SingleLabelScores)
    return Result(type(trained.fit.model.backbone).__name__, trained.parameters, trained.minutes, scores)


def table(results: Sequence[Result]) -> list[str]:
    """Return the results as lines, one per network, with the number of scored images next to the accuracy."""
    lines = [f"{'network':<10}  parameters  minutes  test top-1"]
    for result in results:
        lines.append(
            f"{result.network:<10}  {result.parameters / 1e6:>8.2f} M  {result.minutes:>7.1f}  "
            f"{100 * result.scores.top_k(1):.1f} % ({result.scores.counts('images')})"
        )
    return lines
