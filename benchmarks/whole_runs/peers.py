"""The peers' networks and data: torchvision's folder of images, and pytorchvideo's labelled videos."""

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler
from torchvision import datasets, transforms

from mvrec.class_paths import imported

FPS, STRIDE = 30, 4
CLASSES = 10
SHORT_SIDES = (256, 320)  # of which a crop takes 224 pixels


def plain_network(spec: dict[str, Any]) -> nn.Module:
    """Return the plain form of our network, or torchvision's of the same architecture."""
    network: nn.Module = imported(spec["peer_class_path"])(num_classes=CLASSES, **spec["peer_arguments"])
    return network


def image_dataset(spec: dict[str, Any], normalisation: dict[str, list[float]]) -> tuple[Dataset[Any], bool]:
    """Return the training images with the transforms of torchvision's reference script."""
    steps = [
        transforms.RandomResizedCrop(spec["size"]),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float),
        transforms.Normalize(**normalisation),
    ]
    return datasets.ImageFolder(str(Path(spec["root"]) / "train"), transforms.Compose(steps)), False


def clip_dataset(spec: dict[str, Any], normalisation: dict[str, list[float]]) -> tuple[Dataset[Any], bool]:
    """Return a random clip of each training video with the transforms of pytorchvideo's tutorial."""
    from pytorchvideo.data import labeled_video_dataset, make_clip_sampler

    return labeled_video_dataset(
        str(Path(spec["root"]) / "train"),
        make_clip_sampler("random", spec["frames"] * STRIDE / FPS),
        video_sampler=RandomSampler,
        transform=ClipTransform(spec["frames"], spec["size"], normalisation),
        decode_audio=False,
    ), True


class Views(Dataset[Tensor]):
    """The views of videos for scoring, each of which opens its file, as PySlowFast's loader for tests does.

    Args:
        spec: `frames`, `size`, `short_side`, `clips` and `crops`, of the files `paths`.
        normalisation: Mean and standard deviation.
    """

    def __init__(self, spec: dict[str, Any], paths: list[Path], normalisation: dict[str, list[float]]) -> None:
        self.spec, self.paths = spec, paths
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1, 1) for values in normalisation.values())

    def __len__(self) -> int:
        return len(self.paths) * self.spec["clips"] * self.spec["crops"]

    def __getitem__(self, number: int) -> Tensor:
        """Return a view, float (C, T, size, size); views of a video are neighbours."""
        from pytorchvideo.data.encoded_video import EncodedVideo

        spec = self.spec
        number, crop = divmod(number, spec["crops"])
        file, clip = divmod(number, spec["clips"])
        video = EncodedVideo.from_path(str(self.paths[file]), decode_audio=False)
        seconds = spec["frames"] * STRIDE / FPS
        start = (float(video.duration) - seconds) * clip / (spec["clips"] - 1)
        pixels = video.get_clip(start, start + seconds)["video"]
        video.close()
        pixels = uniform_subsample(pixels, spec["frames"]) / 255
        pixels = short_side_scale((pixels - self.mean) / self.std, spec["short_side"])
        top, left = ((side - spec["size"]) // 2 for side in pixels.shape[-2:])
        left = (0, left, pixels.shape[-1] - spec["size"])[crop] if spec["crops"] == 3 else left  # wide videos
        return pixels[..., top : top + spec["size"], left : left + spec["size"]]


class ClipTransform:
    """The steps of `pytorchvideo.transforms`, which does not import with current torchvision: all in float.

    Args:
        frames: Frames of a clip.
        size: Side of the square crop.
        normalisation: Mean and standard deviation.
        short_sides: Least and greatest short side before the crop; scaled with `size` below 224 pixels.
    """

    def __init__(self, frames: int, size: int, normalisation: dict[str, list[float]]) -> None:
        self.frames, self.size = frames, size
        self.short_sides = tuple(side * size // 224 for side in SHORT_SIDES)
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1, 1) for values in normalisation.values())

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Replace "video", float (C, t, H, W) in 0..255, by a random view (C, T, size, size)."""
        video = uniform_subsample(sample["video"], self.frames) / 255
        video = short_side_scale((video - self.mean) / self.std, random.randint(*self.short_sides))
        top, left = (random.randint(0, side - self.size) for side in video.shape[-2:])
        video = video[..., top : top + self.size, left : left + self.size]
        return {**sample, "video": video.flip(-1) if random.random() < 0.5 else video}


def uniform_subsample(video: Tensor, frames: int) -> Tensor:
    """Return frames of (C, t, H, W) at equal distances."""
    return torch.index_select(video, 1, torch.linspace(0, video.shape[1] - 1, frames).long())


def short_side_scale(video: Tensor, side: int) -> Tensor:
    """Return (C, T, H, W) scaled to a short side."""
    height, width = video.shape[-2:]
    size = (side, width * side // height) if height < width else (height * side // width, side)
    return nn.functional.interpolate(video, size, mode="bilinear", align_corners=False)
