"""`mvrec demo-detection`: from images and a COCO file to the box, mask and name of every digit, and pictures of it."""

import time
from pathlib import Path

from mvrec.cli.lightning import run
from mvrec.commands import recognize
from mvrec.files import at_home
from mvrec.messages import CommandParser
from mvrec.recipes import find_config

CONFIG = "demo_detection"
SHOWN = 6  # test images with an overlay


def main(arguments: list[str]) -> None:
    """Generate scenes of digits with boxes and masks, train a small Mask R-CNN, test, and draw what is found."""
    parser = CommandParser(prog="mvrec demo-detection", description=main.__doc__)
    parser.add_argument("--config", default=CONFIG, help="the run's configuration (default: %(default)s)")
    parser.add_argument("--run_dir", type=at_home, default=Path("runs/demo_detection"), help="default: %(default)s")
    options, overrides = parser.parse_known_args(arguments)
    common = ["--config", find_config(options.config), "--run_dir", str(options.run_dir), *overrides]

    begin = time.monotonic()
    fit = run(["fit", *common])
    minutes = (time.monotonic() - begin) / 60
    checkpoint = str(fit.run_dir / "checkpoints/best.ckpt")
    tested = run(["test", *common, "--ckpt_path", checkpoint])
    scores = tested.model.scores
    index = tested.datamodule.index("test")
    images = [index[row].path for row in range(min(SHOWN, len(index)))]
    overlays = options.run_dir / "overlays"
    recognize.main([*map(str, images), "--ckpt", checkpoint, "--overlays", str(overlays)])

    parameters = sum(parameter.numel() for parameter in fit.model.backbone.parameters())
    metrics = {name: f"{100 * value:.1f}" for name, value in scores.metrics().items()}
    report = [
        f"scenes: {len(fit.datamodule.index('train'))} training images with boxes and masks of digits in "
        f"{fit.datamodule.root}",
        f"trained Mask R-CNN on an MViT, {parameters / 1e6:.2f} M parameters, for {fit.trainer.max_epochs} epochs in "
        f"{minutes:.1f} minutes",
        f"test box AP: {metrics['map']} %, at IoU 0.5: {metrics['map_50']} % ({len(scores.images)} images, "
        f"{scores.facts()['objects']} objects)",
        f"test mask AP: {metrics['mask_map']} %, at IoU 0.5: {metrics['mask_map_50']} %",
        f"what it sees in {len(images)} test images: {overlays}; everything else: {options.run_dir}",
    ]
    print("\n" + "\n".join(report))  # noqa: T201
