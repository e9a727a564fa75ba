"""`mvrec demo-segmentation`: from two folders of files to the class of every pixel, and pictures of it."""

from mvrec.commands import recognize
from mvrec.commands.demos.training import train_by_options
from mvrec.tasks.segmentation.scores import MaskScores

SHOWN = 6  # test images with an overlay


def main(arguments: list[str]) -> None:
    """Generate scenes of digits on textures, train on their masks, test, and draw what is found."""
    trained = train_by_options("demo-segmentation", main.__doc__, arguments)
    tested = trained.test()
    scores = tested.model.scores
    assert isinstance(scores, MaskScores)
    index = tested.datamodule.index("test")
    images = [index[row].path for row in range(min(SHOWN, len(index)))]
    run_dir, data = trained.fit.run_dir, trained.fit.datamodule
    recognize.main([*map(str, images), "--ckpt", trained.checkpoint, "--overlays", str(run_dir / "overlays")])

    report = [
        f"scenes: {len(data.index('train'))} training images with masks in {data.root}",
        trained.text("an MViT with Semantic FPN"),
        f"test mIoU: {100 * scores.metrics()['miou']:.1f} % ({scores.counts('images')}); the most frequent class "
        f"everywhere: {100 * scores.chance()['miou']:.1f} %",
        *(f"  {name:<20} {100 * iou:.1f} %" for name, iou in zip(tested.model.class_names, scores.ious(), strict=True)),
        f"what it sees in {len(images)} test images: {run_dir}/overlays; everything else: {run_dir}",
    ]
    print("\n" + "\n".join(report))  # noqa: T201
