"""Helpers of the tests of `mvrec prep`: data sets, tools run in this process, in another one, and killed."""

import contextlib
import importlib
import io
import json

import numpy as np
from data_trees import make, tar_of
from PIL import Image
from video_files import write_video

from mvrec.prep import console


def called(name, arguments):
    """The exit code of a tool."""
    tool = importlib.import_module(f"mvrec.prep.{name}")
    return console.run_tool(f"mvrec prep {name}", tool.main, [str(argument) for argument in arguments])


def run(name, *arguments):
    """Run a tool in this process, with one process for the work; returns exit code, stdout and stderr."""
    arguments = arguments if "--workers" in arguments else (*arguments, "--workers", 1)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = called(name, arguments)
        except SystemExit as leave:
            code = leave.code
    return code, out.getvalue(), err.getvalue()


def tree(folder, *, without=()):
    """Bytes of all files below a folder by their paths."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".jsonl") and path.name not in without
    }


def hidden(folder):
    return [path.name for path in folder.rglob(".*")]


def stamps(folder):
    """Return when each file below a folder was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def read_json(path):
    return json.loads(path.read_text())


def soft_noise(seed, size):
    """An image of (height, width)."""
    noise = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), np.uint8)
    return Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC)


def write_image(path, *, size=(40, 60), seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soft_noise(seed, size).save(path, **options)
    return path


def write_videos(root, *, classes=("run", "walk"), count=3, **options):
    paths = []
    for label in classes:
        folder = root / "train" / label
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            frames = 10 + 3 * number + 7 * len(paths) % 5
            paths.append(write_video(folder / f"{number}.mp4", **{"num_frames": frames, **options}))
    return paths


WNIDS = ("n00000001", "n00000002", "n00000003")
# By ILSVRC2012_ID: not in the order of the WordNet ids, as in the real one.
KIT_IDS = {1: "n00000003", 2: "n00000001", 3: "n00000002", 4: "n00000009"}  # the last is a group of classes


def write_imagenet(root, *, val_ids=(1, 2, 3, 3, 2, 1)):
    """Three tars like ImageNet's, of three classes."""
    images = {wnid: {f"{wnid}_{n}.JPEG": jpeg(seed=hash_of(wnid, n)) for n in range(4)} for wnid in reversed(WNIDS)}
    train = {f"{wnid}.tar": tar_of(images[wnid]) for wnid in images}
    val = {f"ILSVRC2012_val_{n:08d}.JPEG": jpeg(seed=1000 + n) for n in range(len(val_ids), 0, -1)}
    make(root, {"ILSVRC2012_img_train.tar": tar_of(train), "ILSVRC2012_img_val.tar": tar_of(val)})
    write_devkit(root, val_ids)
    return root


def hash_of(wnid, number):
    return int(wnid[1:]) * 100 + number


def write_devkit(root, val_ids):
    from scipy.io import savemat

    kinds = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
    synsets = np.array([(n, w, "thing", 2 if n == 4 else 0) for n, w in KIT_IDS.items()], dtype=kinds)[:, None]
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{number}\n" for number in val_ids).encode()
    files = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth}
    kit = tar_of({f"ILSVRC2012_devkit_t12/data/{name}": content for name, content in files.items()}, "w:gz")
    make(root, {"ILSVRC2012_devkit_t12.tar.gz": kit})


def jpeg(*, seed):
    buffer = io.BytesIO()
    soft_noise(seed, (24, 32)).save(buffer, "JPEG")
    return buffer.getvalue()
