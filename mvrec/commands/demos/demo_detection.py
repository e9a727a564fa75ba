"""`mvrec demo-detection`: from images and a COCO file to the box, mask and name of every digit, and pictures of it."""

from typing import Any

from mvrec.commands import recognize
from mvrec.commands.demos.training import train_by_options

SHOWN = 6  # test images with an overlay


def main(arguments: list[str]) -> None:
    """Generate scenes of digits with boxes and masks, train a small Mask R-CNN, test, and draw what is found."""
    trained = train_by_options("demo-detection", main.__doc__, arguments)
    tested = trained.test()
    scores: Any = tested.model.scores
    index = tested.datamodule.index("test")
    images = [index[row].path for row in range(min(SHOWN, len(index)))]
    run_dir, data = trained.fit.run_dir, trained.fit.datamodule
    overlays = run_dir / "overlays"
    recognize.main([*map(str, images), "--ckpt", trained.checkpoint, "--overlays", str(overlays)])

    metrics = {name: f"{100 * value:.1f}" for name, value in scores.metrics().items()}
    report = [
        f"scenes: {len(data.index('train'))} training images with boxes and masks of digits in {data.root}",
        trained.text("Mask R-CNN on an MViT"),
        f"test box AP: {metrics['map']} %, at IoU 0.5: {metrics['map_50']} % ({len(scores.images)} images, "
        f"{scores.facts()['objects']} objects)",
        f"test mask AP: {metrics['mask_map']} %, at IoU 0.5: {metrics['mask_map_50']} %",
        f"what it sees in {len(images)} test images: {overlays}; everything else: {run_dir}",
    ]
    print("\n" + "\n".join(report))  # noqa: T201
