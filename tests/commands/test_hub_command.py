import sys
from pathlib import Path

import pytest

from mvrec.commands import hub as command
from mvrec.commands.hub import main
from mvrec.errors import UserError
from mvrec.inference.recogniser import load_recogniser

sys.path.insert(0, str(Path(__file__).parent.parent / "export"))
from exported_runs import network_node, save_run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_run(tmp_path / "run" / "checkpoints" / "best.ckpt", network_node("smallest"))


def test_pushing_into_a_folder_needs_no_network(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "push_to_hub", None)
    (tmp_path / "there" / "already").mkdir(parents=True)
    for destination in ("./neu", "neu/tief/ordner", "flat", "there/already", str(tmp_path / "whole")):
        main(["push", str(source.parent.parent), destination])
        assert capsys.readouterr().out == f"{Path(destination)}: README.md, config.json, model.safetensors\n"
        assert load_recogniser(tmp_path / destination, device="cpu").class_names[0] == "grüßen"


@pytest.mark.parametrize(
    ("destination", "arguments", "wanted"),
    [
        ("me/digits", [], ("me/digits", None, None, False, "Upload model with mvrec")),
        ("hf://me/digits@v2", ["--message", "zwei"], ("me/digits", "v2", None, False, "zwei")),
        ("hf://me/digits", ["--private", "--create_pr", "--branch", "b"], ("me/digits", "b", True, True, None)),
    ],
)
def test_everything_else_goes_to_the_hub(
    destination, arguments, wanted, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls = []

    def push_to_hub(recogniser, repo_id, *, commit_message, private, branch, create_pr):
        calls.append((repo_id, branch, private, create_pr, commit_message))
        return "https://hub/commit/1"

    monkeypatch.setattr(command, "push_to_hub", push_to_hub)
    main(["push", str(source), destination, *arguments])
    (found,) = calls
    assert found == (*wanted[:4], wanted[4] or "Upload model with mvrec")
    out = capsys.readouterr().out
    assert out == "pushed: https://hub/commit/1\nto load it: load_recogniser('hf://me/digits')\n"


def test_pulling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    calls = []

    def pull(name, folder, **knobs):
        calls.append((name, folder, knobs))
        return folder, ("model.safetensors",)

    monkeypatch.setattr(command, "pull", pull)
    main(["pull", "me/digits", "-o", "ordner", "--revision", "v2", "--offline"])
    assert calls == [("me/digits", Path("ordner"), {"revision": "v2", "local_files_only": True})]
    assert capsys.readouterr().out == "ordner: model.safetensors\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push", "nix.ckpt", "me/digits"], r"CKPT: there is no checkpoint 'nix.ckpt'"),
        (["push", ".", "me/digits"], r"CKPT: . is a folder without checkpoints/best.ckpt"),
        (["push", "best.ckpt", "hf://digits"], r"'hf://digits' is not a model of the Hub: write hf://user/name"),
        (["push", "best.ckpt", "best.ckpt"], r"best.ckpt: is a file, give a folder"),
        (
            ["push", "best.ckpt", "./x", "--branch", "b"],
            r"--branch is for a repository of the Hub, and ./x is a folder",
        ),
        (["pull", "digits", "-o", "x"], r"'digits' is neither a folder nor a model of the Hub, which is user/name"),
    ],
)
def test_wrong_requests_are_one_line(
    arguments: list[str], message: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source.rename(tmp_path / "best.ckpt") if "best.ckpt" in arguments else source.unlink()
    with pytest.raises(UserError, match=message) as raised:
        main(arguments)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "x").exists()
