"""The moving digits as a data module: generated locally, then read like Kinetics."""

from typing import Any

from mvrec.data.generated.moving_digits_video import generate_moving_digits
from mvrec.data.sets.video_data import VideoData
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import Views
from mvrec.data.views.transforms import Augment


class MovingDigits(VideoData):
    """`VideoData` on generated videos: handwritten digits that move, turn, orbit and grow.

    A toy to see that training works, not a benchmark. The classes come in pairs that differ only in the direction of
    time.

    Args:
        root: The folder of the videos, generated if it does not exist.
        clips_per_class: Videos of each class in the training split.
        eval_clips_per_class: Videos of each class in the validation and in the test split.
        clip: See `VideoData`.
        size: Side of the clips in pixels, and of the videos.
        augment: See `VideoData`. Flips are refused: left and right are classes.
        val_views: See `VideoData`.
        test_views: See `VideoData`.
        batch_size: See `VideoData`.
        max_bad_fraction: See `VideoData`.
        **knobs: See `VideoData`.
    """

    def __init__(
        self,
        root: str = "data/moving_digits",
        *,
        clips_per_class: int = 60,
        eval_clips_per_class: int = 20,
        clip: ClipSpec = ClipSpec(num_frames=8, stride_frames=4, target_fps=None),  # noqa: B008
        size: int = 64,
        augment: Augment = Augment(  # noqa: B008
            crop_area=(0.8, 1.0), flip_probability=0.0, rand_augment=None, random_erasing=None
        ),
        val_views: Views = Views(num_clips=1, short_side=64),  # noqa: B008
        test_views: Views = Views(num_clips=1, short_side=64),  # noqa: B008
        batch_size: int = 16,
        max_bad_fraction: float = 0.0,
        **knobs: Any,
    ) -> None:
        super().__init__(
            root,
            clip=clip,
            size=size,
            augment=augment,
            val_views=val_views,
            test_views=test_views,
            batch_size=batch_size,
            max_bad_fraction=max_bad_fraction,
            **knobs,
        )
        self.clips_per_class, self.eval_clips_per_class = clips_per_class, eval_clips_per_class

    def prepare_data(self) -> None:
        """Generate the videos unless they exist."""
        counts = {
            "train": self.clips_per_class,
            "val": self.eval_clips_per_class,
            "test": self.eval_clips_per_class,
        }
        generate_moving_digits(self.root, clips_per_class=counts, size=self.size)
