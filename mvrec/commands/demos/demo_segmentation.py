"""`mvrec demo-segmentation`: from two folders of files to the class of every pixel, and pictures of it."""

import time
from pathlib import Path

from mvrec.cli.lightning import run
from mvrec.commands import recognize
from mvrec.files import at_home
from mvrec.messages import CommandParser
from mvrec.recipes import find_config
from mvrec.tasks.segmentation.scores import MaskScores

CONFIG = "demo_segmentation"
SHOWN = 6  # test images with an overlay


def main(arguments: list[str]) -> None:
    """Generate scenes of digits on textures, train on their masks, test, and draw what is found."""
    parser = CommandParser(prog="mvrec demo-segmentation", description=main.__doc__)
    parser.add_argument("--config", default=CONFIG, help="the run's configuration (default: %(default)s)")
    parser.add_argument("--run_dir", type=at_home, default=Path("runs/demo_segmentation"), help="default: %(default)s")
    options, overrides = parser.parse_known_args(arguments)
    common = ["--config", find_config(options.config), "--run_dir", str(options.run_dir), *overrides]

    begin = time.monotonic()
    fit = run(["fit", *common])
    minutes = (time.monotonic() - begin) / 60
    checkpoint = str(fit.run_dir / "checkpoints/best.ckpt")
    tested = run(["test", *common, "--ckpt_path", checkpoint])
    scores = tested.model.scores
    assert isinstance(scores, MaskScores)
    index = tested.datamodule.index("test")
    images = [index[row].path for row in range(min(SHOWN, len(index)))]
    recognize.main([*map(str, images), "--ckpt", checkpoint, "--overlays", str(options.run_dir / "overlays")])

    parameters = sum(parameter.numel() for parameter in fit.model.backbone.parameters())
    report = [
        f"scenes: {len(fit.datamodule.index('train'))} training images with masks in {fit.datamodule.root}",
        f"trained an MViT with Semantic FPN, {parameters / 1e6:.2f} M parameters, for {fit.trainer.max_epochs} epochs "
        f"in {minutes:.1f} minutes",
        f"test mIoU: {100 * scores.metrics()['miou']:.1f} % ({scores.counts('images')}); the most frequent class "
        f"everywhere: {100 * scores.chance()['miou']:.1f} %",
        *(f"  {name:<20} {100 * iou:.1f} %" for name, iou in zip(tested.model.class_names, scores.ious(), strict=True)),
        f"what it sees in {len(images)} test images: {options.run_dir}/overlays; everything else: {options.run_dir}",
    ]
    print("\n" + "\n".join(report))  # noqa: T201
