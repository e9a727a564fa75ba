"""`mvrec demo`: from nothing to a trained video model, and the proof that it looks at time."""

import time
from pathlib import Path

from mvrec.cli.lightning import run
from mvrec.files import at_home
from mvrec.messages import CommandParser
from mvrec.tasks.classification.scores import SingleLabelScores

CONFIG = "demo"


def main(arguments: list[str]) -> None:
    """Generate moving digits, train, test, test again with shuffled frames, and sum up in five lines."""
    parser = CommandParser(prog="mvrec demo", description=main.__doc__)
    parser.add_argument("--config", default=CONFIG, help="the run's configuration (default: %(default)s)")
    parser.add_argument("--run_dir", type=at_home, default=Path("runs/demo"), help="default: %(default)s")
    options, overrides = parser.parse_known_args(arguments)
    common = ["--config", options.config, "--run_dir", str(options.run_dir), *overrides]

    begin = time.monotonic()
    fit = run(["fit", *common])
    minutes = (time.monotonic() - begin) / 60
    checkpoint = str(fit.run_dir / "checkpoints/best.ckpt")
    # The control comes first, so that the files it writes are not what stays.
    control = _test([*common, "--ckpt_path", checkpoint, "--data.test_views.frame_order", "shuffled"])
    scores = _test([*common, "--ckpt_path", checkpoint])

    parameters = sum(parameter.numel() for parameter in fit.model.backbone.parameters())
    report = [
        f"moving digits: {scores.num_classes} motions, {len(fit.datamodule.index('train'))} training videos "
        f"in {fit.datamodule.root}",
        f"trained an MViT of {parameters / 1e6:.2f} M parameters for {fit.trainer.max_epochs} epochs "
        f"in {minutes:.1f} minutes",
        f"test top-1: {100 * scores.top_k(1):.1f} % ({scores.counts()})",
        f"control, the same weights on the same videos with their frames shuffled: {100 * control.top_k(1):.1f} %",
        f"everything about the run: {options.run_dir}",
    ]
    print("\n" + "\n".join(report))  # noqa: T201


def _test(arguments: list[str]) -> SingleLabelScores:
    scores = run(["test", *arguments]).model.scores
    assert scores is not None
    return scores
