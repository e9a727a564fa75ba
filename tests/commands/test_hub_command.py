from pathlib import Path

from mvrec.commands import hub as command
from mvrec.commands.hub import main
from mvrec.inference.recogniser import load_recogniser


def test_pushing_into_a_folder_needs_no_network(image_run, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "push_to_hub", None)
    (tmp_path / "there" / "already").mkdir(parents=True)
    for destination in ("./neu", "neu/tief/ordner", "flat", "there/already", str(tmp_path / "whole")):
        main(["push", str(image_run), destination])
        assert capsys.readouterr().out == f"{Path(destination)}: README.md, config.json, model.safetensors\n"
        assert load_recogniser(tmp_path / destination, device="cpu").class_names[0] == "grüßen"


def test_everything_else_goes_to_the_hub(image_run, monkeypatch, capsys) -> None:
    calls = []

    def push_to_hub(recogniser, repo_id, *, commit_message, private, branch, create_pr):
        calls.append((repo_id, branch, private, create_pr, commit_message))
        return "https://hub/commit/1"

    monkeypatch.setattr(command, "push_to_hub", push_to_hub)
    usual = "Upload model with mvrec"
    for destination, arguments, call in (
        ("me/digits", [], ("me/digits", None, None, False, usual)),
        ("hf://me/digits@v2", ["--message", "zwei"], ("me/digits", "v2", None, False, "zwei")),
        ("hf://me/digits", ["--private", "--create_pr", "--branch", "b"], ("me/digits", "b", True, True, usual)),
    ):
        main(["push", str(image_run / "checkpoints/best.ckpt"), destination, *arguments])
        assert calls.pop() == call
        out = capsys.readouterr().out
        assert out == "pushed: https://hub/commit/1\nto load it: mvrec.load('hf://me/digits')\n"


def test_pull_names_the_folder_and_its_files(monkeypatch, capsys) -> None:
    calls = []

    def pull(name, folder, **knobs):
        calls.append((name, folder, knobs))
        return folder, ("model.safetensors",)

    monkeypatch.setattr(command, "pull", pull)
    main(["pull", "me/digits", "-o", "ordner", "--revision", "v2", "--offline"])
    assert calls == [("me/digits", Path("ordner"), {"revision": "v2", "local_files_only": True})]
    assert capsys.readouterr().out == "ordner: model.safetensors\n"
