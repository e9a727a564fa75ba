"""CPU cost of a training clip, from the closed file to the model's process: mvrec and its peers.

python benchmarks/training_clip.py [--quick] [--json [PATH]]

mvrec is the training data set of configs/mvit_b_16x4.yaml, once with RandAugment in the worker, which is the default,
and once with `data.augment_on=device`, which leaves only cropping, scaling and flipping to the worker. Normalising and
erasing are the device's in both; "all on the CPU" adds them here, so that it ends where the peers end. The recipe draws
two views of every decoded clip (`repeats: 2`); figures are per view, next to those of one view per clip.

- pytorchvideo: `EncodedVideo`, uniform temporal subsampling, / 255, normalise, random short side scale (256 to 320),
  random crop, flip, in the order of its tutorials. Its package of transforms does not import with current torchvision,
  so these are its lines' torch operations. It has neither RandAugment nor views that share a decode.
- SlowFast-style: every frame from the key frame on to RGB with PyAV, those of the clip's span in one array of which the
  clip is taken, rand-m7-n4-mstd0.5-inc1 on PIL images (bilinear, as mvrec's), to float, normalise, random resized crop,
  flip, random erasing.

All pipelines take turns in one process on one thread, from the same frames, boxes, flips and operations. The frames
must be equal bit for bit; with augmentations off the whole pipelines must give the same pixels; the operations of
both RandAugments must agree to a level on average; with all on, so must shape, type, mean and deviation of the
model's input. Peers read the source also where mvrec reads a copy by `mvrec prep resize`. EncodedVideo converts
colours on as many threads as there are cores, which is why its time on the clock is below its CPU time.
"""

import argparse
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import decord
import numpy as np
import torch
import yaml
from decode import FPS, PACKAGES, naive_pyav, now, write
from peers.rand_augment import PIL_OPERATIONS, SIGNED, rand_augment_pil
from PIL import Image
from pytorchvideo.data.encoded_video import EncodedVideo
from results.figures import Figures, Row, add_option
from torch import Tensor
from torchvision.transforms.functional import to_pil_image, to_tensor

from mvrec.data.listing.index import Sample, SampleIndex
from mvrec.data.loading.clips import TrainClips
from mvrec.data.loading.step_times import stage
from mvrec.data.video.opening import open_video
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.geometry import random_crop_box
from mvrec.data.views.normalisation import Normalisation
from mvrec.data.views.rand_augment import MAX_MAGNITUDE, OPERATIONS, RandAugment
from mvrec.data.views.sampling import Window, frame_indices
from mvrec.data.views.targets import NoTarget
from mvrec.data.views.transforms import Augment, RandomErasing, erase
from mvrec.prep.transcode import Recipe, Task, resize
from mvrec.seeds import derive_seed

ROOT = Path(__file__).resolve().parent.parent

SECONDS = 10
GOALS = {"source": 6.0, "fastdecode": 15.0}
RANDOM_SHORT_SIDE = (256, 320)
FILES = {"340x256, GOP 12": 12, "340x256, GOP 250": 250}


@dataclass(frozen=True)
class Settings:
    """The data half of a training configuration."""

    clip: ClipSpec
    size: int
    augment: Augment
    normalisation: Normalisation
    repeats: int

    @classmethod
    def read(cls, path: Path) -> "Settings":
        values = yaml.safe_load(path.read_text())["data"]["init_args"]
        augment = dict(values["augment"])
        augment["rand_augment"] = RandAugment(**augment["rand_augment"])
        augment["random_erasing"] = RandomErasing(**augment["random_erasing"])
        normalisation = Normalisation(**{name: tuple(numbers) for name, numbers in values["normalisation"].items()})
        return cls(ClipSpec(**values["clip"]), values["size"], Augment(**augment), normalisation, values["repeats"])

    @property
    def off(self) -> "Settings":
        """Return the settings without augmentation and without scaling of crops of the result's size."""
        side = self.size / 256
        augment = Augment(crop_side=(side, side), flip_probability=0, rand_augment=None, random_erasing=None)
        return replace(self, augment=augment)


class Clip(NamedTuple):
    """A clip to read."""

    path: Path
    start: int
    seeds: tuple[int, ...]


class Result(NamedTuple):
    """Views, CPU seconds up to the frames, and the frames, uint8 (T, H, W, C), if a pipeline returns them."""

    views: Tensor
    decode_seconds: float
    frames: np.ndarray | None = None


Pipeline = Callable[[Clip, Settings], Result]


def chosen_frames(clip: Clip, settings: Settings) -> list[int]:
    span = settings.clip.span(FPS)
    return frame_indices(float(clip.start), span, Window(clip.start, round(span)), settings.clip).tolist()


# -- mvrec -----------------------------------------------------------------------------------------------------------


def mvrec_worker(clip: Clip, settings: Settings) -> Result:
    """Return the output of a loader process, uint8 (V, T, C, H, W)."""
    span = settings.clip.span(FPS)
    # A time span of the length of a clip, so that the random start is the peers' start.
    sample = Sample(clip.path, 0, clip.start / FPS, (clip.start + span) / FPS)
    data = TrainClips(EMPTY, settings.clip, settings.size, settings.augment, repeats=len(clip.seeds))
    stage.start()
    frames = data.frames(sample, random.Random(0))
    return Result(data.views(frames, NoTarget(), clip.seeds)[0], stage.seconds["decode"])


def mvrec_device(clip: Clip, settings: Settings) -> Result:
    """Return the output of a loader process with `augment_on=device`, without RandAugment."""
    return mvrec_worker(clip, replace(settings, augment=replace(settings.augment, rand_augment=None)))


def mvrec_all(clip: Clip, settings: Settings) -> Result:
    """Return the worker's part and the device's, on the CPU: float (V, C, T, H, W)."""
    result = mvrec_worker(clip, settings)
    views = settings.normalisation(result.views.transpose(1, 2))
    if settings.augment.random_erasing is not None:
        erase(views, torch.tensor(clip.seeds), settings.augment.random_erasing)
    return result._replace(views=views)


# -- pytorchvideo ----------------------------------------------------------------------------------------------------


def pytorchvideo_pipeline(clip: Clip, settings: Settings) -> Result:
    """Return float (1, C, T, H, W)."""
    begin = time.process_time()
    video = EncodedVideo.from_path(str(clip.path), decode_audio=False)
    half = 0.5 / FPS  # so that no rounding of times adds a neighbour
    end = (clip.start + settings.clip.span(FPS)) / FPS - half
    whole = video.get_clip(max(0, clip.start / FPS - half), end)["video"]  # (C, t, H, W) float
    video.close()
    places = torch.linspace(0, whole.shape[1] - 1, settings.clip.num_frames).long()
    clip_frames = torch.index_select(whole, 1, places)
    decode_seconds = time.process_time() - begin
    view = _pytorchvideo_view(clip_frames / 255, settings, random.Random(clip.seeds[0]))
    return Result(view[None], decode_seconds, clip_frames.permute(1, 2, 3, 0).to(torch.uint8).numpy())


def _pytorchvideo_view(pixels: Tensor, settings: Settings, rng: random.Random) -> Tensor:
    """Make a view of (C, T, H, W) in 0..1."""
    pixels = _normalised(pixels.permute(1, 0, 2, 3), settings).permute(1, 0, 2, 3)
    height, width = pixels.shape[-2:]
    augment, size = settings.augment, settings.size
    if augment.crop_side is not None:  # off
        box = random_crop_box(height, width, augment, rng)
        return pixels[..., box.top : box.top + size, box.left : box.left + size]
    side = rng.randint(*RANDOM_SHORT_SIDE)
    scaled = (side, width * side // height)  # wide frames
    pixels = torch.nn.functional.interpolate(pixels, scaled, mode="bilinear", align_corners=False)
    top, left = rng.randint(0, scaled[0] - size), rng.randint(0, scaled[1] - size)
    pixels = pixels[..., top : top + size, left : left + size]
    return pixels.flip(-1) if rng.random() < augment.flip_probability else pixels


def _normalised(frames: Tensor, settings: Settings) -> Tensor:
    """Normalise (T, C, H, W) into a new tensor."""
    mean = torch.tensor(settings.normalisation.mean).view(-1, 1, 1)
    std = torch.tensor(settings.normalisation.std).view(-1, 1, 1)
    return (frames - mean) / std


# -- SlowFast-style --------------------------------------------------------------------------------------------------


def slowfast_style(clip: Clip, settings: Settings) -> Result:
    """Return float (V, C, T, H, W), all views from one decode."""
    begin = time.process_time()
    span = round(settings.clip.span(FPS))
    whole = naive_pyav(clip.path, list(range(clip.start, clip.start + span)))  # (span, H, W, C)
    frames = whole[[number - clip.start for number in chosen_frames(clip, settings)]]
    decode_seconds = time.process_time() - begin
    views = torch.stack([_slowfast_view(frames, settings, seed) for seed in clip.seeds])
    return Result(views, decode_seconds, frames)


def _slowfast_view(frames: np.ndarray, settings: Settings, seed: int) -> Tensor:
    augment, rng = settings.augment, random.Random(seed)
    images = [to_pil_image(frame) for frame in frames]
    if augment.rand_augment is not None:
        images = rand_augment_pil(images, augment.rand_augment, random.Random(derive_seed("rand augment", seed)))
    pixels = _normalised(torch.stack([to_tensor(image) for image in images]), settings)  # (T, C, H, W)
    height, width = pixels.shape[-2:]
    box = random_crop_box(height, width, augment, rng)
    pixels = pixels[..., box.top : box.top + box.height, box.left : box.left + box.width]
    if augment.crop_side is None:
        size = (settings.size, settings.size)
        pixels = torch.nn.functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
    if rng.random() < augment.flip_probability:
        pixels = pixels.flip(-1)
    view = pixels.transpose(0, 1).contiguous()  # (C, T, H, W)
    if augment.random_erasing is not None:
        erase(view[None], torch.tensor([seed]), augment.random_erasing)
    return view


# -- measuring -------------------------------------------------------------------------------------------------------


class Contestant(NamedTuple):
    """A pipeline, the file it reads and its number of views per clip."""

    name: str
    run: Pipeline
    reads: str = "source"
    views: int = 1

    @property
    def key(self) -> str:
        return f"{self.name}, {self.reads}, {self.views}"


def contestants(repeats: int) -> list[Contestant]:
    pipelines = {"mvrec, device": mvrec_device, "mvrec, worker": mvrec_worker, "mvrec, all on the CPU": mvrec_all}
    rows = [Contestant("pytorchvideo", pytorchvideo_pipeline)]
    rows += [Contestant("SlowFast-style", slowfast_style, views=views) for views in (1, repeats)]
    return rows + [
        Contestant(name, run, reads, views)
        for reads in GOALS
        for name, run in pipelines.items()
        for views in (1, repeats)
    ]


def check(source: Path, start: int, settings: Settings, outputs: dict[str, np.ndarray]) -> None:
    """Check that frames are bit-equal, and with augmentations off the whole pipelines too."""
    clip = Clip(source, start, (start + 1,))
    with open_video(source) as video:
        frames = video.frames(chosen_frames(clip, settings))
    for name, output in outputs.items():
        assert np.array_equal(frames, output), f"{name}'s frames differ on {source.name} from frame {start}"
    off = settings.off
    height, width = frames.shape[1:3]
    box = random_crop_box(height, width, off.augment, random.Random(clip.seeds[0]))
    cut = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    pixels = torch.from_numpy(cut.copy()).permute(3, 0, 1, 2)[None]  # (1, C, T, H, W)
    assert torch.equal(mvrec_worker(clip, off).views.transpose(1, 2), pixels), "mvrec's pixels are not its frames'"
    mean, std = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (off.normalisation.mean, off.normalisation.std))
    for name, run in (
        ("mvrec", mvrec_all),
        ("pytorchvideo", pytorchvideo_pipeline),
        ("SlowFast-style", slowfast_style),
    ):
        views = run(clip, off).views
        levels = ((views * std + mean) * 255).round().to(torch.uint8)
        assert torch.equal(levels, pixels), f"{name}'s pixels differ with augmentations off"
        torch.testing.assert_close(views, mvrec_all(clip, off).views, rtol=0, atol=2e-6)


def check_operations(source: Path, recipe: RandAugment) -> None:
    """Check that the operations on PIL images equal mvrec's, but for the rounding at the borders of pixels."""
    assert list(PIL_OPERATIONS) == list(OPERATIONS), "the same draws mean other operations"
    strength = recipe.magnitude / MAX_MAGNITUDE
    with open_video(source) as video:
        frame = video.frames([0])[0]
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    for name, operation in OPERATIONS.items():
        for seed in range(4):
            sign = -1.0 if name in SIGNED and random.Random(seed).random() < 0.5 else 1.0
            expected = np.asarray(PIL_OPERATIONS[name](Image.fromarray(frame), strength, sign, recipe.fill))
            result = operation(pixels, strength, random.Random(seed), recipe.fill)[0].permute(1, 2, 0).numpy()
            apart = np.abs(result.astype(int) - expected).mean()
            assert apart < 1, f"{name}: mvrec and PIL are {apart:.1f} levels apart"


def check_views(contestant: Contestant, views: Tensor, settings: Settings) -> Tensor:
    """Check shape, type and range; return mean and standard deviation of the normalised values."""
    if views.dtype == torch.uint8:
        views = settings.normalisation(views.transpose(1, 2))
    shape = (contestant.views, 3, settings.clip.num_frames, settings.size, settings.size)
    assert views.shape == shape, f"{contestant.key}: {tuple(views.shape)}, not {shape}"
    assert views.dtype == torch.float32, f"{contestant.key}: {views.dtype}"
    assert views.isfinite().all(), f"{contestant.key}: values that are not finite"
    return torch.stack([views.mean(), views.std()])


def measure(files: dict[str, Path], settings: Settings, rows: list[Contestant], *, repeats: int) -> dict[str, Any]:
    """Return CPU and wall milliseconds per view of each contestant, which take turns in an order that changes."""
    rng = random.Random(0)
    times: dict[str, list[tuple[float, ...]]] = {row.key: [] for row in rows}
    statistics_of: dict[str, list[Tensor]] = {row.key: [] for row in rows}
    for repeat in range(repeats + 1):
        start = rng.randrange(SECONDS * FPS - round(settings.clip.span(FPS)) + 1)
        outputs: dict[str, np.ndarray] = {}
        for row in rng.sample(rows, len(rows)):
            clip = Clip(files[row.reads], start, tuple(derive_seed("view", repeat, view) for view in range(row.views)))
            begin = now()
            result = row.run(clip, settings)
            end = now()
            if repeat:  # the first repeat is a warm-up
                spent = (end[0] - begin[0], end[1] - begin[1], result.decode_seconds)
                times[row.key].append(tuple(1000 * seconds / row.views for seconds in spent))
            if result.frames is not None:
                outputs[row.key] = result.frames
            statistics_of[row.key].append(check_views(row, result.views, settings))
        check(files["source"], start, settings, outputs)
    means = {key: torch.stack(values).mean(0) for key, values in statistics_of.items()}
    _check_statistics(means)
    return {"times": times, "statistics": {key: value.tolist() for key, value in means.items()}}


def _check_statistics(means: dict[str, Tensor]) -> None:
    """Check that the same boxes, flips and operations give about the peer's mean and deviation."""
    mvrec, peer = means["mvrec, all on the CPU, source, 1"], means["SlowFast-style, source, 1"]
    assert (mvrec - peer).abs().max() < 0.15, f"mean and deviation {mvrec.tolist()}, SlowFast-style {peer.tolist()}"


def report(name: str, results: dict[str, Any], rows: list[Contestant]) -> dict[str, Any]:
    """Print the rows of one file."""
    figures = {}
    for row in rows:
        cpu, wall, decode = (list(column) for column in zip(*results["times"][row.key], strict=True))
        low, high = (float(value) for value in np.quantile(cpu, (0.1, 0.9)))
        figures[row.key] = figure = {
            "cpu_ms": statistics.median(cpu),
            "cpu_ms_10_90": [low, high],
            "cpu_ms_mean": statistics.mean(cpu),
            "decode_cpu_ms": statistics.median(decode),
            "wall_ms": statistics.median(wall),
            "mean_and_std": results["statistics"][row.key],
        }
        print(
            f"| {name} | {row.name} | {row.reads} | {row.views} | {figure['cpu_ms']:.1f} | {low:.1f} to {high:.1f} "
            f"| {figure['cpu_ms_mean']:.1f} | {figure['decode_cpu_ms']:.1f} | {figure['wall_ms']:.1f} |"
        )
    return {"file": name, "pipelines": figures}


def verdicts(row: dict[str, Any], repeats: int) -> list[Row]:
    """Return ratios of medians, with the goal for the recipe as it stands and for one view per clip."""
    figures, rows = row["pipelines"], []
    places = {"device": "augmented on the device", "worker": "all in the worker"}
    for reads, goal in GOALS.items():
        for (where, words), views in itertools.product(places.items(), (repeats, 1)):
            mvrec = figures[f"mvrec, {where}, {reads}, {views}"]["cpu_ms"]
            peers = {"pytorchvideo": "pytorchvideo, source, 1", "SlowFast-style": f"SlowFast-style, source, {views}"}
            for peer, key in peers.items():
                other = figures[key]["cpu_ms"]
                measure = f"{reads}, {words}, {views} view{'s' if views > 1 else ''} per decode"
                rows.append(Row(row["file"], measure, peer=peer, mvrec=mvrec, other=other, unit="CPU ms",
                                ratio=other / mvrec, goal=goal))  # fmt: skip
    return rows


def in_words(row: Row) -> str:
    reached = "reached" if row.ratio >= row.goal else "missed"
    return (
        f"goal: {row.subject}, {row.measure}: {row.peer} {row.ratio:.1f} times mvrec's CPU time, {row.goal:g} {reached}"
    )


def psnr(files: dict[str, Path]) -> float:
    """Return the similarity of the copy to the source, in dB."""
    with open_video(files["source"]) as source, open_video(files["fastdecode"]) as copy:
        places = list(range(0, source.num_frames, 10))
        error = source.frames(places).astype(float) - copy.frames(places)
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few clips")
    add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    decord.logging.set_level(decord.logging.QUIET)
    settings = Settings.read(ROOT / "configs" / "mvit_b_16x4.yaml")
    rows = contestants(settings.repeats)
    figures = Figures.of(options, "training_clip", packages=(*PACKAGES, "Pillow"))
    print(f"{figures.title}; one thread; opening included, per view\n")
    print("| file | pipeline | reads | views per decode | CPU ms | 10 to 90 % | mean | of it decoding | wall ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, gop in FILES.items():
            files = {reads: Path(folder) / f"{gop}.{reads}.mp4" for reads in GOALS}
            write(files["source"], size=(256, 340), gop=gop, b_frames=3, seconds=SECONDS)
            resize(Task(files["source"], files["fastdecode"], "video"), recipe=Recipe(gop=12, fast_decode=True))
            assert settings.augment.rand_augment is not None
            check_operations(files["source"], settings.augment.rand_augment)
            result = report(name, measure(files, settings, rows, repeats=5 if options.quick else 40), rows)
            result["fastdecode_psnr_db"] = psnr(files)
            result["bytes"] = {reads: path.stat().st_size for reads, path in files.items()}
            results.append(result)
            figures.add(*verdicts(result, settings.repeats))
    print()
    for result in results:
        sizes = " and ".join(f"{size // 1000} kB" for size in result["bytes"].values())
        print(f"{result['file']}: source and fastdecode copy {sizes}, {result['fastdecode_psnr_db']:.1f} dB apart")
    print(*map(in_words, figures.rows), sep="\n")


EMPTY = SampleIndex([], root=ROOT, class_names=["none"])

if __name__ == "__main__":
    main()
