"""Reading files: what holds the network, what is refused, and that nothing in a file ever runs."""

import argparse
import os
import pathlib
import shlex
import sys
from collections import Counter, UserDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from zoo_builds import inputs, small

from mvrec.errors import UserError
from mvrec.models import MViT, load_weights
from mvrec.models.checkpoints.files import each_file_once, forget_files, read_weights


@pytest.fixture
def model() -> MViT:
    return small("mvit_v1_video")


def check_loads(source: Any, model: MViT) -> None:
    other, x = small("mvit_v1_video", seed=9), inputs(model)
    report = load_weights(other, source)
    assert (report.complete, report.unexpected) == (True, ())
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)


def saved(tree: Any, path: Path) -> Path:
    torch.save(tree, path)
    return path


WRAPPERS = {
    "SlowFast": lambda state: {"epoch": 3, "model_state": state, "optimizer_state": {"state": {}}, "cfg": "A: 1\n"},
    "timm or DeiT": lambda state: {"model": state, "args": argparse.Namespace(lr=1.0, out=["a"]), "epoch": 1},
    "Lightning": lambda state: {"state_dict": {f"backbone.{n}": t for n, t in state.items()}, "callbacks": {}},
    "compiled blocks": lambda state: {n.replace("blocks.1.", "blocks.1._orig_mod."): t for n, t in state.items()},
    "everything at once": lambda state: {
        "model": {"state_dict": {f"module.model._orig_mod.encoder.{n}": t for n, t in state.items()}}
    },
    "a loss next to it": lambda state: {
        "state_dict": {"criterion.weight": torch.ones(5), **{f"net.{n}": t for n, t in state.items()}}
    },
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_network_is_found_inside_every_wrapper(wrapper: str, model: MViT, tmp_path: Path) -> None:
    check_loads(saved(WRAPPERS[wrapper](model.state_dict()), tmp_path / "x.pth"), model)


def test_half_precision_becomes_the_precision_of_the_network(model: MViT) -> None:
    other = small("mvit_v1_video", seed=9)
    load_weights(other, {name: tensor.half() for name, tensor in model.state_dict().items()})
    assert {tensor.dtype for tensor in other.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(other(inputs(model)), model(inputs(model)), rtol=0.05, atol=0.05)


def test_state_dicts_safetensors_under_any_name_and_old_serialisation_load(model: MViT, tmp_path: Path) -> None:
    check_loads({"model": model.state_dict()}, model)
    save_file(model.state_dict(), tmp_path / "x.bin")
    check_loads(str(tmp_path / "x.bin"), model)
    torch.save({"model_state": model.state_dict()}, tmp_path / "x.pyth", _use_new_zipfile_serialization=False)
    check_loads(tmp_path / "x.pyth", model)


def test_averaged_weights_win_over_the_raw_ones_of_a_file(model: MViT, tmp_path: Path) -> None:
    raw = small("mvit_v1_video", seed=5).state_dict()
    for name in ("state_dict_ema", "model_ema", "ema"):
        path = saved({"state_dict": raw, "model": raw, name: model.state_dict()}, tmp_path / "x.pth")
        check_loads(path, model)
        assert read_weights(path).entry == name
    averaged = AveragedModel(model, use_buffers=True)
    check_loads(saved(averaged.state_dict(), tmp_path / "x.pth"), model)
    both = {f"net.{n}": t for n, t in raw.items()} | {f"ema_net.{n}": t for n, t in model.state_dict().items()}
    check_loads({"state_dict": both}, model)
    twins = {f"student.{n}": t for n, t in raw.items()} | {f"teacher.{n}": t for n, t in raw.items()}
    with pytest.raises(UserError, match=r"several networks in one file, under 'student\.', 'teacher\.'"):
        load_weights(model, twins)


def test_file_is_read_once_until_it_changes(model: MViT, tmp_path: Path, reads: Counter[Path]) -> None:
    path = saved(model.state_dict(), tmp_path / "x.pth")
    (tmp_path / "link.pth").symlink_to(path)
    with each_file_once():
        with each_file_once():
            first = read_weights(path)
        assert read_weights(path).tensors is first.tensors
        assert read_weights(tmp_path / "link.pth").source == str(tmp_path / "link.pth")
        assert reads.pop(path) == 1
        saved(small("mvit_v1_video", seed=5).state_dict(), path)
        other = read_weights(path).tensors
        assert any(not torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items())
        forget_files()
        read_weights(path)
    read_weights(path)
    assert reads == {path: 3}


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not reset peaks")
def test_file_takes_its_size_in_memory_once(model: MViT, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"  # not mapped, as it is no zip
    tree = {"model": model.state_dict(), "optimizer": torch.zeros(2 * 10**7)}
    torch.save(tree, path, _use_new_zipfile_serialization=False)
    del tree
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is in use now
    before = peak_bytes()
    with each_file_once():
        read_weights(path)
        load_weights(model, path)
    assert peak_bytes() - before < 1.5 * path.stat().st_size


def test_settings_and_scores_of_the_authors_files_do_not_stop_the_weights(model: MViT, tmp_path: Path) -> None:
    """The authors' files hold argparse, yacs and numpy values, none of which torch reads by itself."""
    from yacs.config import CfgNode

    settings = CfgNode({"MODEL": {"NAME": "x", "DEPTHS": [1, 2]}, "LR": 1e-3})
    settings.freeze()
    tree = {
        "model": model.state_dict(),
        "config": settings,
        "args": argparse.Namespace(lr=np.float64(3.0), nested=argparse.Namespace(a=1)),
        "max_accuracy": np.float64(82.9),
        "epoch": np.int64(3),
    }
    check_loads(saved(tree, tmp_path / "x.pth"), model)


def test_curves_in_checkpoints_of_mmengine_do_not_stop_the_weights(
    model: MViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every checkpoint that mmdetection 3 or mmsegmentation 1 writes while training has them."""
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    modules = {name: ModuleType(name) for name in names}
    kind = type("HistoryBuffer", (), {"__module__": names[-1]})
    modules[names[-1]].HistoryBuffer = kind
    curve = kind()
    curve.__dict__.update(_max_length=10, _log_history=np.array([0.5, 0.25]), _count_history=np.array([1, 1]))
    with monkeypatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        path = saved(
            {"state_dict": model.state_dict(), "message_hub": {"log_scalars": {"loss": curve}}}, tmp_path / "a.pth"
        )
    check_loads(path, model)


class Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(str(self.marker))}",)


def test_file_with_code_is_refused_and_the_code_never_runs(model: MViT, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = saved({"model": model.state_dict(), "extra": Harmful(marker)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: holds a (posix|nt)\.system .* could run code") as error:
        load_weights(model, path)
    assert "\n" not in str(error.value)
    assert not marker.exists()


def test_refusal_names_a_command_that_extracts_the_weights(
    model: MViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it's here.pth"
    for tree, kind in (
        ({"epoch": 3, "model": model.state_dict(), "extra": pathlib.PurePosixPath("a")}, "pathlib.PurePosixPath"),
        ({"epoch": 3, "model": model.state_dict(), "extra": UserDict(a=1)}, "collections.UserDict"),
        (model, "mvrec.models.mvit.mvit.MViT"),
    ):
        with pytest.raises(UserError, match=f"holds a {kind} besides its weights") as error:
            load_weights(model, saved(tree, path))
        command = str(error.value).partition("if you trust them, extract the weights once: ")[2]
    program, _, code, *arguments = shlex.split(command)
    assert program == "python"
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(code, {})
    check_loads(tmp_path / "it's here.weights.pth", model)


def check_refused(path: Path, model: MViT, message: str) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as error:
        load_weights(model, path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_truncated_file_is_one_line(model: MViT, tmp_path: Path) -> None:
    for kind in ("zip", "old", "safetensors"):
        path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
        if kind == "safetensors":
            save_file(model.state_dict(), path)
        else:
            torch.save(model.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
        content = path.read_bytes()
        for share in (0.02, 0.5, 0.99):
            path.write_bytes(content[: int(len(content) * share)])
            check_refused(path, model, r"damaged|: truncated: an unfinished download or copy")


def test_file_without_a_network_is_called_what_it_is(model: MViT, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for content, message in (
        (b"\x00" * 100, "damaged, truncated or not a torch checkpoint"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{]      ", "damaged or not a safetensors file"),
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html>\n<html>", "the file is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "the file is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "the file is a pointer of Git LFS"),
        (b"/annex/objects/MD5E-s1--0.pth\n", "the file is a pointer of git-annex"),
        (b"\x1f\x8b\x08\x00rest", "the file is an archive"),
        (b"\x89HDF\r\n\x1a\n", "the file is a file of HDF5"),
        (b"\x00\x00\x00\x20ftypisom", "the file is a video or image"),
        (b'{"message": "Not Found"}', "damaged, truncated or not a torch checkpoint"),
        ([1, 2], "holds a list, not a dictionary with weights"),
        ({"epoch": 3, "scores": {"a": 1}}, "no weights found; it holds 'epoch', 'scores'"),
        ({"model": {"fc.weight": torch.ones(2, 2)}}, "no known network: its names begin with fc.weight"),
        ({}, "no weights found; it holds nothing"),
    ):
        path.write_bytes(content) if isinstance(content, bytes) else saved(content, path)
        check_refused(path, model, message)


def test_missing_file_and_folder_without_checkpoints_are_one_line(model: MViT, tmp_path: Path) -> None:
    check_refused(tmp_path / "none.pth", model, "no such file")
    with pytest.raises(UserError, match=r"is a folder without checkpoints/best\.ckpt, checkpoints/last\.ckpt or model"):
        load_weights(model, tmp_path)


def test_run_directory_gives_its_best_checkpoint(model: MViT, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("last.ckpt", "best.ckpt"):
        saved({"state_dict": model.state_dict()}, tmp_path / "checkpoints" / name)
        assert read_weights(tmp_path).source == str(tmp_path / "checkpoints" / name)


def test_weights_with_nan_are_refused(model: MViT, tmp_path: Path) -> None:
    state: dict[str, Tensor] = {**model.state_dict()}
    state["blocks.2.mlp.fc1.bias"] = state["blocks.2.mlp.fc1.bias"] * float("nan")
    message = r"1 tensors hold NaN or infinity \(blocks\.2\.mlp\.fc1\.bias\)"
    check_refused(saved(state, tmp_path / "x.pth"), model, message)
