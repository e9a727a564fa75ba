import pytest
import torch
from exported_runs import network_node, save_run

from mvrec.commands import export as command
from mvrec.commands.export import main
from mvrec.errors import UserError
from mvrec.inference.recogniser import load_recogniser
from mvrec.models import create_model


def test_a_run_is_its_best_checkpoint(image_run, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/best.ckpt").symlink_to(image_run / "checkpoints/best.ckpt")
    save_run(run / "checkpoints/last.ckpt", network_node("smallest"), names=["later", "on"])
    main([str(run), "-o", str(tmp_path / "out" / "m.safetensors")])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}/out/m.safetensors: CloFormer, 0.0")
    assert first.endswith(" MB, BCHW (batch, 3, 32, 32) to logits (batch, 5)")
    assert second.startswith("largest difference of a logit in torch ")
    assert "0.0e+00 in batches of 1 and 0.0e+00 in batches of 3 (limit" in second
    assert len(load_recogniser(tmp_path / "out" / "m.safetensors").class_names) == 5


def test_the_opset_and_an_ending_in_capitals_reach_the_export(image_run, tmp_path, monkeypatch, capsys) -> None:
    calls = []
    monkeypatch.setattr(command, "export", lambda recogniser, path, *, opset: calls.append((path, opset)) or "said")
    main([str(image_run), "-o", str(tmp_path / "M.ONNX"), "--opset", "23"])
    assert calls == [(tmp_path / "M.ONNX", 23)]
    assert capsys.readouterr().out == "said\n"


WRONG = [
    ("run", ["-o", "m.pt"], r"must end in .onnx, .pt2, .safetensors, got 'm.pt'; did you mean '.pt2'\?"),
    ("run", ["-o", "m.onnx", "--opset", "9"], r"--opset must lie in 18..23, got 9"),
    ("nix.ckpt", ["-o", "m.onnx"], r"CKPT: there is no checkpoint 'nix.ckpt'"),
    ("leer", ["-o", "m.onnx"], r"CKPT: leer is a folder without checkpoints/best.ckpt, .* or model.safetensors"),
    ("w.safetensors", ["-o", "w.safetensors"], r"--output is the source itself: w.safetensors"),
    ("text.ckpt", ["-o", "m.onnx"], r"CKPT: text.ckpt: damaged, truncated or not a torch checkpoint"),
    ("leer.pth", ["-o", "m.onnx"], r"CKPT: leer.pth: the file is empty"),
    ("few.pth", ["-o", "m.pt2"], r"few.pth has 3 classes and does not name them: --classes FILE"),
    ("run", ["-o", "m.pt2", "--classes", "two.txt"], r"--classes=two.txt has 2 names, .*best.ckpt has 5 classes"),
    ("run", ["-o", "m.pt2", "--classes", ""], r"data.classes=: there is no such file"),
    ("hf://a", ["-o", "m.onnx"], r"'hf://a' is not a model of the Hub"),
]


def test_wrong_requests_are_one_line_and_leave_nothing(image_run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(image_run)
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
