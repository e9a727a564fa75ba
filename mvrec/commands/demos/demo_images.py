"""`mvrec demo-images`: every family of networks learns from files of images, from nothing to a test score."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvrec.cli.lightning import run
from mvrec.files import at_home
from mvrec.messages import CommandParser
from mvrec.recipes import find_config
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
    for config in [Path(find_config(name)) for name in options.configs]:
        results.append(_train_and_test(config, options.run_dir / config.stem, overrides))
        print("\n" + "\n".join(table(results)), flush=True)  # noqa: T201
    print(f"everything about the runs: {options.run_dir}")  # noqa: T201


def _train_and_test(config: Path, run_dir: Path, overrides: Sequence[str]) -> Result:
    common = ["--config", str(config), "--run_dir", str(run_dir), *overrides]
    begin = time.monotonic()
    fit = run(["fit", *common])
    minutes = (time.monotonic() - begin) / 60
    checkpoint = str(fit.run_dir / "checkpoints/best.ckpt")
    scores = run(["test", *common, "--ckpt_path", checkpoint]).model.scores
    assert isinstance(scores, SingleLabelScores)
    backbone = fit.model.backbone
    return Result(type(backbone).__name__, sum(p.numel() for p in backbone.parameters()), minutes, scores)


def table(results: Sequence[Result]) -> list[str]:
    """Return the results as lines, one per network, with the number of scored images next to the accuracy."""
    lines = [f"{'network':<10}  parameters  minutes  test top-1"]
    for result in results:
        lines.append(
            f"{result.network:<10}  {result.parameters / 1e6:>8.2f} M  {result.minutes:>7.1f}  "
            f"{100 * result.scores.top_k(1):.1f} % ({result.scores.counts('images')})"
        )
    return lines
