import sys
from pathlib import Path

import pytest
import torch

from mvrec.commands import export as command
from mvrec.commands.export import main
from mvrec.errors import UserError
from mvrec.inference.recogniser import load_recogniser
from mvrec.models import create_model

sys.path.insert(0, str(Path(__file__).parent.parent / "export"))
from exported_runs import network_node, save_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a best checkpoint and a later one."""
    folder = tmp_path / "ein lauf"
    save_run(folder / "checkpoints" / "best.ckpt", network_node("smallest"))
    save_run(folder / "checkpoints" / "last.ckpt", network_node("smallest"), names=["later", "on"])
    return folder


def test_a_run_is_its_best_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main([str(run), "-o", str(tmp_path / "out" / "m.safetensors")])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}/out/m.safetensors: CloFormer, 0.0")
    assert first.endswith(" MB, BCHW (batch, 3, 32, 32) to logits (batch, 5)")
    assert second.startswith("largest difference of a logit in torch ")
    assert "0.0e+00 in batches of 1 and 0.0e+00 in batches of 3 (limit" in second
    assert len(load_recogniser(tmp_path / "out" / "m.safetensors").class_names) == 5


def test_the_opset_and_an_ending_in_capitals_reach_the_export(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    calls = []
    monkeypatch.setattr(command, "export", lambda recogniser, path, *, opset: calls.append((path, opset)) or "said")
    main([str(run / "checkpoints" / "last.ckpt"), "-o", str(tmp_path / "M.ONNX"), "--opset", "23"])
    assert calls == [(tmp_path / "M.ONNX", 23)]
    assert capsys.readouterr().out == "said\n"


@pytest.mark.slow  # tests/export holds the difference of every format
def test_onnx_says_how_near_it_is(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main([str(run / "checkpoints" / "last.ckpt"), "-o", str(tmp_path / "M.ONNX"), "--opset", "23"])
    out = capsys.readouterr().out
    assert "largest difference of a logit in onnxruntime " in out
    assert "(opset 23): " in out
    assert "to logits (batch, 2)" in out
    assert (tmp_path / "M.ONNX").stat().st_size > 1000


WRONG = [
    (
        "ein lauf",
        ["-o", "m.pt"],
        r"--output must end in .onnx, .pt2, .safetensors, got 'm.pt'; did you mean '.pt2'\?",
    ),
    ("ein lauf", ["-o", "m.onnx", "--opset", "9"], r"--opset must lie in 18..23, got 9"),
    ("nix.ckpt", ["-o", "m.onnx"], r"CKPT: there is no checkpoint 'nix.ckpt'"),
    ("leer", ["-o", "m.onnx"], r"CKPT: leer is a folder without checkpoints/best.ckpt, .* or model.safetensors"),
    ("w.safetensors", ["-o", "w.safetensors"], r"--output is the source itself: w.safetensors"),
    ("text.ckpt", ["-o", "m.onnx"], r"CKPT: text.ckpt: damaged, truncated or not a torch checkpoint"),
    ("leer.pth", ["-o", "m.onnx"], r"CKPT: leer.pth: the file is empty"),
    ("few.pth", ["-o", "m.pt2"], r"few.pth has 3 classes and does not name them: --classes FILE"),
    ("ein lauf", ["-o", "m.pt2", "--classes", "two.txt"], r"--classes=two.txt has 2 names, .*best.ckpt has 5 classes"),
    ("ein lauf", ["-o", "m.pt2", "--classes", ""], r"data.classes=: there is no such file"),
    ("hf://a", ["-o", "m.onnx"], r"'hf://a' is not a model of the Hub"),
]


def test_wrong_requests_are_one_line_and_leave_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leer").mkdir()
    (tmp_path / "leer.pth").touch()
    (tmp_path / "text.ckpt").write_text("no checkpoint at all")
    (tmp_path / "w.safetensors").write_text("{}")
    (tmp_path / "two.txt").write_text("a\nb\n")
    torch.save(create_model("cloformer_xxs", num_classes=3).state_dict(), tmp_path / "few.pth")
    before = sorted(tmp_path.rglob("*"))
    for source, arguments, message in WRONG:
        with pytest.raises(UserError, match=message) as raised:
            main([source, *arguments])
        assert "\n" not in str(raised.value)
        assert sorted(tmp_path.rglob("*")) == before
