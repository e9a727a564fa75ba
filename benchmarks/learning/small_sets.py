"""Fine-tuning on few files: the recipe `finetune` and the settings of `mvrec.plan.learning`, top-1 of three seeds.

python benchmarks/learning/small_sets.py [--quick] [--kinds videos,images] [--files 5,10,30] [--seeds 0,1,2]
                                         [--json FILE]

Videos: a small MViT learns eight motions of handwritten digits, and is fine-tuned on the four others. Images: one
learns handwritten digits, and is fine-tuned on digits printed in fonts, with a new head. Every run is scored on the
same test files, with the weights of its last step. Rows "no weights" start from random weights. One thread.
"""

import argparse
import json
import logging
import random
import statistics
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import matplotlib
import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw, ImageFont

from mvrec.class_paths import imported
from mvrec.data import ImageFolder, VideoFolder
from mvrec.data.generated.digit_images import generate_digit_images
from mvrec.data.generated.moving_digits_video import OPPOSITES, Motion, generate_moving_digits, render
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import Views
from mvrec.data.views.transforms import Augment
from mvrec.models import MViT
from mvrec.plan.learning import learning
from mvrec.recipes import find_config
from mvrec.tasks import Classification
from mvrec.training.optim import WarmupCosine

SIZE = 64
TEST_FILES = 60  # per class
MOTIONS = [name for pair in OPPOSITES.items() for name in pair]
# A plan's augmentation of few files whose class names tell of directions or are digits.
MILD = Augment(crop_area=(0.5, 1.0), flip_probability=0.0, rand_augment=None, random_erasing=None)
BASE_AUGMENT = Augment(crop_area=(0.8, 1.0), flip_probability=0.0, rand_augment=None, random_erasing=None)
SMALL = {"embed_dim": 32, "num_heads": 1, "kv_stride": 4, "image_size": SIZE}
FONTS = ("DejaVuSans", "DejaVuSerif-Bold", "DejaVuSansMono-Oblique", "STIXGeneral", "cmr10", "cmtt10", "cmss10")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Settings = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """The runs of one table row: `top1` in percent per seed, `minutes` of one run on average."""

    kind: str
    files: int
    settings: str
    top1: list[float]
    steps: int
    minutes: float


# -- data ---------------------------------------------------------------------------------------------------------


def make_motions(folder: Path) -> tuple[Path, Path]:
    """Write the moving digits; return the set to learn first and the set to take few files from."""
    whole = folder / "digits"
    generate_moving_digits(whole, clips_per_class={"train": 60, "val": 20, "test": TEST_FILES}, size=SIZE)
    for name, motions in (("base", MOTIONS[:8]), ("new", MOTIONS[8:])):
        for split in ("train", "val", "test"):
            for motion in motions:
                link(folder / name / split / motion, whole / split / motion)
    return folder / "base", folder / "new"


def make_digits(folder: Path) -> tuple[Path, Path]:
    """Write handwritten and printed digits; return the set to learn first and the set to take few files from."""
    generate_digit_images(folder / "written", images_per_class={"train": 100, "val": 20, "test": 20}, size=SIZE)
    printed = folder / "printed"
    for split, count in (("train", 40), ("test", TEST_FILES)):
        for digit, word in enumerate(WORDS):
            for number in range(count):
                path = printed / split / word / f"{number:03d}.png"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(printed_digit(digit, seed=(split == "test", digit, number))).save(path)
    return folder / "written", printed


def printed_digit(digit: int, *, seed: tuple[int, ...]) -> np.ndarray:
    """Draw a digit in a random font, place, size, slant and colour; uint8 (H, W, C)."""
    rng = np.random.default_rng(seed)
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(fonts / f"{rng.choice(FONTS)}.ttf"), 56)
    ink = Image.new("L", (64, 64))
    ImageDraw.Draw(ink).text((32, 32), str(digit), fill=255, font=font, anchor="mm")
    extent = rng.uniform(0.5, 0.8)
    x, y = rng.uniform(extent / 2, 1 - extent / 2, 2)
    pose = Motion(x=x, y=y, extent=extent, angle=rng.uniform(-0.04, 0.04), speed=0.0, radius=0.0)
    return render("grow", pose, np.asarray(ink, np.float32) / 255, rng, num_frames=1, size=SIZE)[0]


def few_files(source: Path, folder: Path, *, files: int, seed: int) -> Path:
    """Link `files` random training files of each class, and all test files."""
    root = folder / f"{source.name}_{files}_{seed}"
    for classes in sorted((source / "train").iterdir()):
        paths = sorted(classes.iterdir())
        for path in random.Random(f"{seed} {classes.name}").sample(paths, files):
            link(root / "train" / classes.name / path.name, path)
        link(root / "val" / classes.name, source / "test" / classes.name)  # scored once, after the training
    return root


def link(path: Path, target: Path) -> None:
    """Make a symbolic link unless it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(target.resolve())


# -- runs ---------------------------------------------------------------------------------------------------------


def recipe_settings() -> Settings:
    """Return the recipe `finetune` by keys of the command line."""
    recipe = yaml.safe_load(Path(find_config("finetune")).read_text())
    settings = {f"model.{key}": value for key, value in recipe["model"].items()}
    settings |= {f"model.schedule.{key}": value for key, value in settings.pop("model.schedule").items()}
    settings["data.batch_size"] = recipe["data"]["init_args"]["batch_size"]
    return settings | {f"trainer.{key}": recipe["trainer"][key] for key in ("max_epochs", "gradient_clip_val")}


def plan_settings(*, files: int, classes: int, has_weights: bool, is_video: bool) -> Settings:
    """Return the settings of a plan, with the mild augmentation that it has for small sets."""
    choices = learning(num_train=files * classes, num_classes=classes, has_weights=has_weights, is_video=is_video)
    return {"data.augment": MILD} | {choice.key: choice.value for choice in choices}


def network(kind: str) -> MViT:
    """Build the network of the demo of a kind, with random weights and as many classes as the first set has."""
    if kind == "videos":
        plan: dict[str, Any] = {"depth": 4, "num_frames": 8, "dim_mults": {1: 2, 2: 2}, "head_mults": {1: 2, 2: 2}}
        return MViT(num_classes=8, q_strides={1: 2, 2: 2}, **plan, **SMALL)
    plan = {"depth": 5, "num_frames": None, "dim_mults": {1: 2, 3: 2}, "head_mults": {1: 2, 3: 2}, "rel_pos": True}
    plan |= {"pool_kernel": (1, 3, 3), "pool_every_q": True, "dim_change": "attention", "cls_token": False}
    return MViT(num_classes=10, q_strides={1: 2, 3: 2}, pos_embed="none", residual_pooling=True, **plan, **SMALL)


def data_module(kind: str, root: Path, **settings: Any) -> VideoFolder | ImageFolder:
    """Return the files of a folder as the demos read them."""
    shared = {"size": SIZE, "num_workers": 0, "decode_timeout": None, "decode_memory": None, "seed": 0, **settings}
    if kind == "images":
        return ImageFolder(str(root), crop_fraction=1.0, **shared)
    clip, views = ClipSpec(num_frames=8, stride_frames=4, target_fps=None), Views(num_clips=1, short_side=SIZE)
    return VideoFolder(str(root), clip=clip, val_views=views, test_views=views, eval_batch_size=16, **shared)


def train(kind: str, root: Path, settings: Settings, *, weights: Path | None, seed: int) -> tuple[Classification, int]:
    """Train with settings by keys of the command line; return the task and its number of steps."""
    L.seed_everything(seed, verbose=False)
    data = {key.removeprefix("data."): value for key, value in settings.items() if key.startswith("data.")}
    model = {key.removeprefix("model."): value for key, value in settings.items() if key.startswith("model.")}
    schedule = {key.removeprefix("schedule."): model.pop(key) for key in list(model) if key.startswith("schedule.")}
    node = model.pop("optimizer")
    task = Classification(
        network(kind),
        weights=None if weights is None else str(weights),
        new_head=True,
        optimizer=lambda params: imported(node["class_path"])(params, **node["init_args"]),
        schedule=WarmupCosine(**schedule),
        **model,
    )
    shown = dict.fromkeys(["enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"], False)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **shown,
        **{key.removeprefix("trainer."): value for key, value in settings.items() if key.startswith("trainer.")},
    )
    trainer.fit(task, data_module(kind, root, **({"seed": seed} | data)))
    return task, trainer.global_step


def top1(task: Classification, kind: str, root: Path) -> float:
    """Return the top-1 of a task on the test files of a folder, in percent."""
    scores = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False).validate(
        task, data_module(kind, root), verbose=False
    )
    return 100 * scores[0]["val/top1"]


def base_weights(kind: str, root: Path, folder: Path, *, epochs: int) -> None:
    """Train the network to start from, unless the folder has it."""
    path = folder / f"{kind}.ckpt"
    if not path.exists():
        optimizer = {"lr": 2e-3 if kind == "videos" else 1e-3, "weight_decay": 0.05}
        settings: Settings = {
            "model.optimizer": {"class_path": "torch.optim.AdamW", "init_args": optimizer},
            "model.schedule.warmup_epochs": 1,
            "model.label_smoothing": 0.1,
            "data.batch_size": 8,
            "data.augment": BASE_AUGMENT,
            "trainer.max_epochs": epochs,
            "trainer.gradient_clip_val": 1.0,
        }
        task, _ = train(kind, root, settings, weights=None, seed=0)
        print(f"{kind}: the weights to start from have {top1(task, kind, root):.1f} % on their own classes", flush=True)
        torch.save({"state_dict": task.state_dict()}, path)


def measure(
    kind: str, name: str, source: Path, folder: Path, *, files: int, seeds: Iterable[int], changes: Settings
) -> Row:
    """Train with the settings of a name on few files per class, once for each seed."""
    weights = None if name == "no weights" else folder / f"{kind}.ckpt"
    classes = len(list((source / "train").iterdir()))
    is_video, has_weights = kind == "videos", weights is not None
    settings = recipe_settings()
    if name != "recipe":
        settings = plan_settings(files=files, classes=classes, has_weights=has_weights, is_video=is_video)
    scores, steps, begin = [], 0, time.process_time()
    for seed in seeds:
        root = few_files(source, folder / "few", files=files, seed=seed)
        task, steps = train(kind, root, settings | changes, weights=weights, seed=seed)
        scores.append(top1(task, kind, root))
        print(f"{kind}, {files} per class, {name}, seed {seed}: {scores[-1]:.2f} % in {steps} steps", file=sys.stderr)
    return Row(kind, files, name, scores, steps, (time.process_time() - begin) / 60 / len(scores))


def as_text(row: Row) -> str:
    """Return a row of the table."""
    spread = f"{min(row.top1):.1f} to {max(row.top1):.1f}"
    mean = f"{statistics.mean(row.top1):.1f}"
    return f"| {row.kind} | {row.files} | {row.settings} | {mean} | {spread} | {row.steps} | {row.minutes:.1f} |"


def numbers(text: str) -> list[int]:
    """Return numbers that are separated by commas."""
    return [int(word) for word in text.split(",")]


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of the table, each as soon as it is measured."""
    folder = arguments.folder
    for kind in arguments.kinds.split(","):
        base, new = make_motions(folder) if kind == "videos" else make_digits(folder)
        base_weights(kind, base, folder, epochs=1 if arguments.quick else 12)
        for files in arguments.files:
            for name in arguments.settings.split(","):
                yield measure(kind, name, new, folder, files=files, seeds=arguments.seeds, changes=arguments.set)


def main() -> None:
    """Print the table, and write its numbers if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five files, one seed, one epoch for the first weights")
    parser.add_argument("--kinds", default="videos,images")
    parser.add_argument("--settings", default="recipe,plan,no weights")
    parser.add_argument("--files", type=numbers, default=[5, 10, 30], help="training files per class")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--set", type=json.loads, default={}, help="settings to change in all rows, as JSON")
    parser.add_argument("--folder", type=Path, default=Path("data/small_sets"), help="where data and weights are kept")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.files, arguments.seeds, arguments.folder = [5], [0], arguments.folder / "quick"
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print("| kind | files per class | settings | top-1 % | least to greatest | steps | CPU minutes |")
    print("|---|---|---|---|---|---|---|", flush=True)
    table = []
    for row in rows(arguments):
        table.append(row)
        print(as_text(row), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(row) for row in table], indent=2) + "\n")


if __name__ == "__main__":
    main()
