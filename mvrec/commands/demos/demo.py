"""`mvrec demo`: from nothing to a trained video model, and the proof that it looks at time."""

from typing import Any

from mvrec.commands.demos.training import train_by_options


def main(arguments: list[str]) -> None:
    """Generate moving digits, train, test, test again with shuffled frames, and sum up in five lines."""
    trained = train_by_options("demo", main.__doc__, arguments)
    # The control comes first, so that the files it writes are not what stays.
    control: Any = trained.test("--data.test_views.frame_order", "shuffled").model.scores
    scores: Any = trained.test().model.scores
    data = trained.fit.datamodule
    report = [
        f"moving digits: {scores.num_classes} motions, {len(data.index('train'))} training videos in {data.root}",
        trained.text("an MViT"),
        f"test top-1: {100 * scores.top_k(1):.1f} % ({scores.counts()})",
        f"control, the same weights on the same videos with their frames shuffled: {100 * control.top_k(1):.1f} %",
        f"everything about the run: {trained.fit.run_dir}",
    ]
    print("\n" + "\n".join(report))  # noqa: T201
