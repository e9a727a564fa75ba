from exported_runs import network_node, save_run

from mvrec.commands import export as command
from mvrec.commands.export import main
from mvrec.inference.recogniser import load_recogniser


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


def test_flags_and_an_ending_in_capitals_reach_the_export(image_run, tmp_path, monkeypatch, capsys) -> None:
    calls = []
    monkeypatch.setattr(command, "export", lambda recogniser, path, **flags: calls.append((path, flags)) or "said")
    main([str(image_run), "-o", str(tmp_path / "M.ONNX"), "--opset=23", "--form=raw", "--sides", "64", "96"])
    assert calls == [(tmp_path / "M.ONNX", {"opset": 23, "form": "raw", "sides": (64, 96)})]
    assert capsys.readouterr().out == "said\n"
