"""`mvrec demo-actions`: from videos and boxes to who does what, with proofs that time and place decide it."""

from typing import Any

from mvrec.commands import recognize
from mvrec.commands.demos.training import train_by_options
from mvrec.tasks.action_detection.scores import ActionScores

PLAY = ("play.mp4", "play.csv")  # of the generated data: a longer video, and its boxes
EVERY = "0.25"  # seconds between the boxes of it
LEAST = "0.3"  # score of an action that is drawn


def main(arguments: list[str]) -> None:
    """Generate moving digits with boxes, train, test, test with two wrong inputs, and draw what is found."""
    trained = train_by_options("demo-actions", main.__doc__, arguments)
    # The controls come first, so that the files they write are not what stays.
    shuffled = trained.test("--data.frame_order", "shuffled").model.scores
    tested = trained.test()
    misplaced = _scored_misplaced(tested)
    scores: ActionScores = tested.model.scores
    video, boxes = (tested.datamodule.root / name for name in PLAY)
    run_dir, data = trained.fit.run_dir, trained.fit.datamodule
    overlays = run_dir / "overlays"
    flags = ["--every", EVERY, "--smooth", "0", "--min_action", LEAST, "--overlays", str(overlays)]
    flags += ["-o", str(run_dir / "play.csv")]
    recognize.main([str(video), "--ckpt", trained.checkpoint, "--boxes", str(boxes), *flags])

    names, precisions = tested.model.class_names, scores.average_precisions
    width = max(map(len, names))
    report = [
        f"moving digits: {len(data.index('train'))} training videos of two or three digits with a box each "
        f"in {data.root}",
        trained.text("an MViT"),
        f"test mAP: {_percent(scores)} ({scores.counts('key frames')}); equal scores for all boxes: "
        f"{100 * scores.chance()['map']:.1f} %",
        f"control, the same weights on the same videos with their frames shuffled: {_percent(shuffled)}",
        f"control, the same weights with boxes at twice their places: {_percent(misplaced)}",
        *(f"  {name:<{width}} {100 * precision:.1f} %" for name, precision in zip(names, precisions, strict=True)),
        f"what it sees in a longer video: {overlays / video.name}; everything else: {run_dir}",
    ]
    print("\n" + "\n".join(report))  # noqa: T201


def _scored_misplaced(tested: Any) -> ActionScores:
    """Score as if the last map had half its stride, then once more as it is, so that these files stay.

    Boxes lie at twice their places then. A stride that a setting says may be wrong like this: SlowFast's default for
    AVA is half of MViT's stride.
    """
    head, scores = tested.model.head, []
    for stride in (head.stride // 2, head.stride):
        head.stride = stride
        tested.trainer.test(tested.model, datamodule=tested.datamodule, verbose=False)
        scores.append(tested.model.scores)
    return scores[0]


def _percent(scores: ActionScores) -> str:
    return f"{100 * scores.metrics()['map']:.1f} %"
