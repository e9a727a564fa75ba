import errno
import json
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from exported_runs import NAMES, network_node, save_run
from fake_hub import TOKEN, FakeHub
from huggingface_hub import HfApi, ModelCard, constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory
from safetensors.torch import load_file, save_file

from mvrec.errors import UserError, install_hint
from mvrec.export import hub as hub_module
from mvrec.export.hub import from_pretrained, pull, push_to_hub, repository, save_pretrained
from mvrec.inference.hub_files import fetch, hub_name
from mvrec.inference.recogniser import Recogniser, load_recogniser
from mvrec.tasks.classification.outputs import ClassificationOutputs

FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    source = save_run(tmp_path_factory.mktemp("run") / "best.ckpt", network_node("mvit_v1_video"))
    return load_recogniser(source, device="cpu")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub in place of the network, with a cache of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    server = FakeHub()
    set_client_factory(server.client)
    yield server
    set_client_factory(default_client_factory)


def check_same(recogniser: Recogniser, *sources: str | Path | Recogniser) -> None:
    x = torch.randn(2, 3, 4, 32, 32)
    for source in sources:
        other = source if isinstance(source, Recogniser) else load_recogniser(source, device="cpu")
        assert (other.class_names, other.protocol) == (recogniser.class_names, recogniser.protocol)
        assert other.outputs.facts() == recogniser.outputs.facts()
        with torch.inference_mode():
            torch.testing.assert_close(other.backbone(x), recogniser.backbone(x), rtol=0, atol=0)


def several_classes(recogniser: Recogniser) -> Recogniser:
    return replace(recogniser, outputs=ClassificationOutputs("abcde", multi_label=True))


def test_folder_holds_a_model_as_the_hub_has_it_and_loads_without_its_package(recogniser, tmp_path, monkeypatch):
    folder = save_pretrained(recogniser, tmp_path / "mein modell", repo_id="me/digits")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["class_names"] == NAMES
    card = ModelCard.load(folder / "README.md")  # the Hub's own reader
    assert card.data.to_dict() == {
        "library_name": "mvrec",
        "pipeline_tag": "video-classification",
        "tags": ["mvrec", "video-classification", "mvit"],
    }
    assert 'mvrec.load("hf://me/digits")' in card.text
    assert "jump, high" in card.text
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    check_same(recogniser, folder, from_pretrained(folder, device="cpu"))
    check_same(recogniser, save_pretrained(recogniser, tmp_path / "m"))


def test_folder_keeps_its_readme_and_is_not_saved_over_itself(recogniser: Recogniser, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "config.json").write_text("{}")
    save_pretrained(recogniser, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert json.loads((tmp_path / "config.json").read_text())["library_name"] == "mvrec"
    with pytest.raises(UserError, match="the network was loaded from there"):
        save_pretrained(from_pretrained(tmp_path, device="cpu"), tmp_path)


def test_full_disk_leaves_a_folder_as_it_was(recogniser, tmp_path, monkeypatch):
    save_pretrained(recogniser, tmp_path)
    (tmp_path / "README.md").unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(card: dict, repo_id: str) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_module, "readme", full)  # the last of three, when the others are written
    with pytest.raises(UserError, match=r"cannot be written: No space left on device"):
        save_pretrained(several_classes(recogniser), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pushed_model_is_pulled_as_it_was(hub: FakeHub, recogniser: Recogniser, tmp_path: Path) -> None:
    address = push_to_hub(recogniser, "me/digits", commit_message="first", private=True)
    assert address == f"https://huggingface.co/me/digits/commit/{'1' * 40}"
    assert sorted(hub.models["me/digits"]["main"]) == FILES
    assert (hub.messages, hub.private) == (["first"], {"me/digits"})
    folder, names = pull("me/digits", tmp_path / "neu" / "hier")
    assert sorted(names) == FILES == sorted(path.name for path in folder.iterdir())
    assert not any(path.is_symlink() for path in folder.iterdir())
    check_same(recogniser, "hf://me/digits", Path("hf://me/digits"), folder)
    check_same(recogniser, from_pretrained("me/digits", device="cpu"))


def test_push_keeps_a_readme_and_goes_to_its_branch_or_pull_request(hub, recogniser, monkeypatch):
    hub.models["me/digits"] = {"main": {"README.md": b"edited"}, "v2": {}}
    push_to_hub(recogniser, "me/digits")
    assert sorted(hub.models["me/digits"]["main"]) == FILES
    assert hub.models["me/digits"]["main"]["README.md"] == b"edited"
    other = several_classes(recogniser)
    push_to_hub(other, "me/digits", branch="v2")
    check_same(other, "hf://me/digits@v2", from_pretrained("me/digits", revision="v2", device="cpu"))
    check_same(recogniser, "hf://me/digits")
    request = {}
    answer = SimpleNamespace(pr_url="https://x/discussions/1", commit_url="https://x/commit/1")
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **knobs: request.update(knobs) or answer)
    assert push_to_hub(recogniser, "me/digits", create_pr=True) == "https://x/discussions/1"
    assert (request["create_pr"], request["revision"]) == (True, None)


def test_upload_without_a_card_or_damaged_is_one_line(hub, recogniser, tmp_path):
    """No card and no configuration: what `load_recogniser` says of such a file."""
    folder = save_pretrained(recogniser, tmp_path / "m")
    save_file(load_file(folder / "model.safetensors"), tmp_path / "bare.safetensors")
    hub.models["other/net"] = {"main": {"model.safetensors": (tmp_path / "bare.safetensors").read_bytes()}}
    assert pull("other/net", tmp_path / "pulled")[1] == ("model.safetensors",)
    with pytest.raises(UserError, match="no variant has these weights"):
        load_recogniser("hf://other/net", device="cpu")
    hub.models["bad/net"] = {"main": {"model.safetensors": b"\x10\0\0\0\0\0\0\0{nothing"}}
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        pull("bad/net", tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_offline_takes_the_cache_and_never_touches_the_network(way, hub, recogniser, tmp_path, monkeypatch):
    push_to_hub(recogniser, "me/digits")
    pull("me/digits", tmp_path / "a")
    hub.requests.clear()

    def refuse(*arguments: object) -> None:
        hub.requests.append(str(arguments))
        raise OSError("no network in this test")

    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", way == "variable")
    knobs = {"local_files_only": way == "flag"}
    assert sorted(pull("me/digits", tmp_path / "b", **knobs)[1]) == FILES
    check_same(recogniser, from_pretrained("me/digits", device="cpu", **knobs))
    with pytest.raises(UserError, match=r"hf://me/other: model.safetensors is not in the Hub's cache .* is offline$"):
        pull("me/other", tmp_path / "c", **knobs)
    assert hub.requests == []
    assert not (tmp_path / "c").exists()


def test_fault_of_fetching_is_one_line(hub: FakeHub, recogniser: Recogniser) -> None:
    def check(message: str, repo_id: str = "me/digits", *arguments: str, **knobs: str) -> None:
        with pytest.raises(UserError, match=rf"^hf://{repo_id}: {message}") as raised:
            fetch(repo_id, *arguments, **knobs)
        assert "\n" not in str(raised.value)

    push_to_hub(recogniser, "me/digits")
    check("no such model, or one that is not public: check the name", "me/none")
    check("there is no revision 'v9'$", revision="v9")
    check("has no weights.bin$", "me/digits", "weights.bin")
    hub.gated.add("me/digits")
    check("access has to be asked for on its page")
    hub.fault = "server"
    check("the Hub cannot be reached: Server error '501")
    hub.fault = "connection"
    check("the Hub cannot be reached: connection refused")


def test_fault_of_pushing_is_one_line(hub, recogniser, tmp_path, monkeypatch):
    def check(message: str, repo_id: str = "me/digits") -> None:
        with pytest.raises(UserError, match=rf"^hf://{repo_id}: {message}"):
            push_to_hub(recogniser, repo_id)

    check("the Hub refuses: the token is wrong or may not do this", "you/digits")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    check("the Hub refuses: the token is wrong or may not do this")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    hub.requests.clear()
    check("to push needs a token that may write: hf auth login, or HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check("HF_HUB_OFFLINE is set, and to push needs the network")
    assert hub.requests == []
    assert hub.models == {}


def test_names_of_models_are_read_and_wrong_ones_refused() -> None:
    assert hub_name("hf://me/a.b-c_d") == ("me/a.b-c_d", None)
    assert hub_name(Path("hf://me/digits@refs/pr/1")) == ("me/digits", "refs/pr/1")
    assert hub_name("me/digits") is hub_name("/hf:/me/digits") is None
    assert repository("me/digits") == ("me/digits", None)
    for name in ("hf://me", "hf://me/a/b", "hf://me/", "hf:///a", "hf://me/a@", "hf://me/../x", "hf://mé/a"):
        with pytest.raises(UserError, match=r"is not a model of the Hub: write hf://user/name"):
            hub_name(name)
    for name in ("digits", "a/b/c", "../x"):
        with pytest.raises(UserError, match="is neither a folder nor a model of the Hub"):
            repository(name)


def test_file_in_place_of_a_folder_or_a_missing_package_is_one_line(recogniser, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for attempt in (save_pretrained, lambda _, path: pull("me/digits", path)):
        with pytest.raises(UserError, match="is a file, give a folder"):
            attempt(recogniser, tmp_path / "file")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape(f"this needs huggingface_hub: {install_hint('hub')}")):
        load_recogniser("hf://me/digits")
