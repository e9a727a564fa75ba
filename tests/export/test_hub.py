import errno
import json
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from exported_runs import NAMES, network_node, save_run
from fake_hub import TOKEN, FakeHub
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load_file, save_file
from warm import run

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
    """A Hub on this machine's loopback interface, with a cache of the test's own."""
    server = FakeHub()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    yield server
    server.shutdown()
    server.server_close()


def check_same(a: Recogniser, b: Recogniser) -> None:
    assert (a.class_names, a.protocol, a.outputs.facts()) == (b.class_names, b.protocol, b.outputs.facts())
    x = torch.randn(2, 3, 4, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(a.backbone(x), b.backbone(x), rtol=0, atol=0)


def several_classes(recogniser: Recogniser) -> Recogniser:
    return replace(recogniser, outputs=ClassificationOutputs("abcde", multi_label=True))


def test_folder_holds_a_model_as_the_hub_has_it_and_loads_without_its_package(recogniser, tmp_path, monkeypatch):
    folder = save_pretrained(recogniser, tmp_path / "mein modell", repo_id="me/digits")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["class_names"] == NAMES
    card = ModelCard.load(folder / "README.md")  # the Hub's own reader
    assert card.data.to_dict() == {
        "library_name": "mvrec",
        "pipeline_tag": "video-classification",
        "tags": ["mvrec", "video-classification", "mvit"],
    }
    assert 'load_recogniser("hf://me/digits")' in card.text
    assert "jump, high" in card.text
    check_same(load_recogniser(folder, device="cpu"), recogniser)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    check_same(from_pretrained(folder, device="cpu"), recogniser)
    check_same(from_pretrained(save_pretrained(recogniser, tmp_path / "m"), device="cpu"), recogniser)


def test_folder_keeps_its_readme_and_is_not_saved_over_itself(recogniser: Recogniser, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "config.json").write_text("{}")
    save_pretrained(recogniser, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert json.loads((tmp_path / "config.json").read_text())["library_name"] == "mvrec"
    with pytest.raises(UserError, match="the network was loaded from there"):
        save_pretrained(from_pretrained(tmp_path, device="cpu"), tmp_path)


@pytest.mark.parametrize("fault", ["weights", "last file"])
def test_full_disk_leaves_a_folder_as_it_was(fault, recogniser, tmp_path, monkeypatch):
    save_pretrained(recogniser, tmp_path)
    if fault == "last file":
        (tmp_path / "README.md").unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(card: dict, repo_id: str) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if fault == "weights":  # which are above the limit, the other files below
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    else:
        monkeypatch.setattr(hub_module, "readme", full)  # the last of three, when the others are written
    try:
        with pytest.raises(UserError, match=r"cannot be written: .*(File too large|No space left on device)"):
            save_pretrained(several_classes(recogniser), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pushed_model_is_pulled_as_it_was(hub: FakeHub, recogniser: Recogniser, tmp_path: Path) -> None:
    address = push_to_hub(recogniser, "me/digits", commit_message="first", private=True)
    assert address == f"{hub.address}/me/digits/commit/{'1' * 40}"
    assert sorted(hub.models["me/digits"]["main"]) == FILES
    assert (hub.messages, hub.private) == (["first"], {"me/digits"})
    check_same(load_recogniser("hf://me/digits", device="cpu"), recogniser)
    check_same(load_recogniser(Path("hf://me/digits"), device="cpu"), recogniser)
    check_same(from_pretrained("me/digits", device="cpu"), recogniser)
    folder, names = pull("me/digits", tmp_path / "neu" / "hier")
    assert sorted(names) == FILES == sorted(path.name for path in folder.iterdir())
    assert not any(path.is_symlink() for path in folder.iterdir())
    check_same(load_recogniser(folder, device="cpu"), recogniser)


def test_push_keeps_a_readme_edited_on_the_hub(hub: FakeHub, recogniser: Recogniser) -> None:
    hub.models["me/digits"] = {"main": {"README.md": b"edited"}}
    push_to_hub(recogniser, "me/digits")
    assert hub.models["me/digits"]["main"]["README.md"] == b"edited"
    assert sorted(hub.models["me/digits"]["main"]) == FILES


def test_pull_request_gives_its_address(hub: FakeHub, recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {}

    def upload_folder(self, **knobs):
        request.update(knobs, files=sorted(path.name for path in Path(knobs["folder_path"]).iterdir()))
        return SimpleNamespace(pr_url="https://x/discussions/1", commit_url="https://x/commit/1")

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    assert push_to_hub(recogniser, "me/digits", create_pr=True) == "https://x/discussions/1"
    assert (request["create_pr"], request["revision"], request["files"]) == (True, None, FILES)


def test_revision_is_another_model(hub: FakeHub, recogniser: Recogniser) -> None:
    push_to_hub(recogniser, "me/digits")
    other = several_classes(recogniser)
    hub.models["me/digits"]["v2"] = {}
    push_to_hub(other, "me/digits", branch="v2")
    check_same(load_recogniser("hf://me/digits@v2", device="cpu"), other)
    check_same(from_pretrained("me/digits", revision="v2", device="cpu"), other)
    check_same(load_recogniser("hf://me/digits", device="cpu"), recogniser)


def test_upload_without_a_card_or_damaged_is_one_line(hub, recogniser, tmp_path):
    """No card and no configuration: what `load_recogniser` says of such a file."""
    folder = save_pretrained(recogniser, tmp_path / "m")
    save_file(load_file(folder / "model.safetensors"), tmp_path / "bare.safetensors")
    hub.models["other/net"] = {"main": {"model.safetensors": (tmp_path / "bare.safetensors").read_bytes()}}
    folder, names = pull("other/net", tmp_path / "pulled")
    assert names == ("model.safetensors",)
    with pytest.raises(UserError, match="no variant has these weights"):
        load_recogniser("hf://other/net", device="cpu")
    hub.models["bad/net"] = {"main": {"model.safetensors": b"\x10\0\0\0\0\0\0\0{nothing"}}
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        pull("bad/net", tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


def test_cached_model_needs_no_network(hub: FakeHub, recogniser: Recogniser, tmp_path: Path) -> None:
    push_to_hub(recogniser, "me/digits")
    pull("me/digits", tmp_path / "a")
    hub.requests.clear()
    _, names = pull("me/digits", tmp_path / "b", local_files_only=True)
    assert sorted(names) == FILES
    check_same(from_pretrained("me/digits", local_files_only=True, device="cpu"), recogniser)
    with pytest.raises(UserError, match=r"hf://me/other: model.safetensors is not in the Hub's cache .* is offline$"):
        pull("me/other", tmp_path / "c", local_files_only=True)
    assert hub.requests == []
    assert not (tmp_path / "c").exists()


def test_fault_of_fetching_is_one_line(hub: FakeHub, recogniser: Recogniser) -> None:
    push_to_hub(recogniser, "me/digits")
    with pytest.raises(UserError, match=r"^hf://me/none: no such model, or one that is not public: check the name"):
        fetch("me/none")
    with pytest.raises(UserError, match=r"^hf://me/digits: there is no revision 'v9'$"):
        fetch("me/digits", revision="v9")
    with pytest.raises(UserError, match=r"^hf://me/digits: has no weights.bin$"):
        fetch("me/digits", "weights.bin")
    hub.gated.add("me/digits")
    with pytest.raises(UserError, match=r"^hf://me/digits: access has to be asked for on its page"):
        fetch("me/digits")
    hub.broken = True
    with pytest.raises(UserError, match=r"^hf://me/digits: the Hub cannot be reached: Server error '501"):
        fetch("me/digits")


def test_fault_of_pushing_is_one_line(hub, recogniser, tmp_path, monkeypatch):
    refused = r"the Hub refuses: the token is wrong or may not do this"
    with pytest.raises(UserError, match=rf"^hf://you/digits: {refused}"):
        push_to_hub(recogniser, "you/digits")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=rf"^hf://me/digits: {refused}"):
        push_to_hub(recogniser, "me/digits")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    hub.requests.clear()
    with pytest.raises(UserError, match=r"to push needs a token that may write: hf auth login, or HF_TOKEN"):
        push_to_hub(recogniser, "me/digits")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set, and to push needs the network"):
        push_to_hub(recogniser, "me/digits")
    assert hub.requests == []
    assert hub.models == {}


GUARDED = """
import os, socket, sys, time
import mvrec.inference.recogniser

def refuse(*arguments, **knobs):
    print("NETWORK", arguments[-1])
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.socket.sendto = refuse
socket.create_connection = refuse
time.sleep = lambda seconds: None
assert "huggingface_hub" not in sys.modules  # which reads the environment when it is imported
for way in ("variable", "flag", "online"):
    print(f"[{way}]", flush=True)
    if os.fork() == 0:
        os.environ["HF_HUB_OFFLINE"] = "1" if way == "variable" else "0"
        from mvrec.errors import UserError, install_hint
        from mvrec.export.hub import pull
        for name in ("me/digits", "me/none"):
            try:
                print(pull(name, f"{sys.argv[1]} {way}", local_files_only=way == "flag")[1])
            except UserError as error:
                print(error)
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_offline_by_variable_or_flag_takes_the_cache_and_never_touches_the_network(hub, recogniser, tmp_path):
    """Every way to the network is closed and watched, in processes of their own; online it is tried."""
    push_to_hub(recogniser, "me/digits")
    pull("me/digits", tmp_path / "a")
    env = {"HF_HUB_CACHE": tmp_path / "cache", "HF_ENDPOINT": hub.address, "HF_HOME": tmp_path}
    result = run(tmp_path / "b", program=GUARDED, env=env)
    assert result.returncode == 0, result.stderr
    _, *answers = re.split(r"\[\w+\]\n", result.stdout)
    for way, answer in zip(("variable", "flag"), answers[:2], strict=True):
        assert answer.splitlines() == [
            "('model.safetensors', 'config.json', 'README.md')",
            "hf://me/none: model.safetensors is not in the Hub's cache on this machine, and this is offline",
        ]
        assert sorted(path.name for path in (tmp_path / f"b {way}").iterdir()) == FILES
    assert "NETWORK" in answers[2]
    assert "me/none: the Hub cannot be reached: no network in this test" in answers[2]


def test_names_of_models_are_read_and_wrong_ones_refused(tmp_path: Path) -> None:
    assert hub_name("hf://me/a.b-c_d") == ("me/a.b-c_d", None)
    assert hub_name(Path("hf://me/digits@refs/pr/1")) == ("me/digits", "refs/pr/1")
    assert hub_name("me/digits") is hub_name("/hf:/me/digits") is None
    assert repository("me/digits") == ("me/digits", None)
    for wrong in ("hf://me", "hf://me/a/b", "hf://me/", "hf:///a", "hf://me/a@", "hf://me/../x", "hf://mé/a"):
        with pytest.raises(UserError, match=r"is not a model of the Hub: write hf://user/name"):
            hub_name(wrong)
    for wrong in ("digits", "a/b/c", "../x"):
        with pytest.raises(UserError, match="is neither a folder nor a model of the Hub"):
            repository(wrong)


def test_missing_huggingface_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape(f"this needs huggingface_hub: {install_hint('hub')}")):
        load_recogniser("hf://me/digits")


def test_file_in_place_of_a_folder_is_refused(recogniser: Recogniser, hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, give a folder"):
        save_pretrained(recogniser, tmp_path / "file")
    with pytest.raises(UserError, match="is a file, give a folder"):
        pull("me/digits", tmp_path / "file")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert hub.requests == []
