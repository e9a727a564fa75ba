import json
import re

import pytest

from mvrec.errors import UserError
from mvrec.published import PUBLISHED
from mvrec.weights.cache import fetched_path, place_of
from mvrec.weights.table import FILES, UNPUBLISHED, published_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MVREC_CACHE", str(tmp_path))


def test_every_network_has_files_of_a_layout_that_loads_or_is_said_to_have_none() -> None:
    assert {file.network for file in FILES.values()} | UNPUBLISHED.keys() == PUBLISHED.keys()
    for file in FILES.values():
        assert file.layout in PUBLISHED[file.network].layouts, file.name
        assert file.address is None or re.match(r"https://.*\.(pth|pyth|safetensors)$", file.address)
        assert (file.address is None) == (file.shelf is not None)
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", file.sha256)
        assert file.page.startswith("https://")


def test_torchvisions_addresses_sizes_and_scores_are_those_of_the_library() -> None:
    from torchvision.models import video

    for name, weights in (
        ("mvit_b_16x4.torchvision", video.MViT_V1_B_Weights.KINETICS400_V1),
        ("mvit_v2_s_16x4.torchvision", video.MViT_V2_S_Weights.KINETICS400_V1),
    ):
        file = FILES[name]
        assert file.address == weights.url
        assert file.sha256 is not None
        assert f"-{file.sha256}." in weights.url
        assert file.top1 == weights.meta["_metrics"]["Kinetics-400"]["acc@1"]
        assert file.megabytes == pytest.approx(weights.meta["_file_size"] * 1.048576)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # pytorchvideo
def test_the_addresses_of_pytorchvideo_and_timm_are_those_of_the_libraries() -> None:
    from pytorchvideo.models.hub.vision_transformers import checkpoint_paths
    from timm.models.mvitv2 import default_cfgs

    addresses = {file.address for file in FILES.values()}
    assert addresses >= set(checkpoint_paths.values())
    for size in ("tiny", "small", "base", "large"):
        assert default_cfgs[f"mvitv2_{size}"].default.url in addresses


def test_the_table_has_a_row_per_file_and_a_name_shows_all_that_is_known(command, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = command("weights")
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()[:1]}
    assert code == 0
    assert rows.keys() >= FILES.keys() | UNPUBLISHED.keys()
    assert rows["mvit_v2_s_16x4.torchvision"].split() == [
        *("mvit_v2_s_16x4.torchvision", "Kinetics-400", "80.8", "138", "torchvision", "get")
    ]
    assert rows["cloformer_s"].endswith("not published")
    _, out, _ = command("weights", "mvit_b_16x4")
    assert [line for line in out.splitlines() if line[:1].strip()] == [name for name in FILES if "_b_16x4." in name]
    assert "https://download.pytorch.org/models/mvit_v1_b-dbeb1030.pth" in out
    assert "dbeb1030..." in out
    assert "BSD-3-Clause" in out
    _, out, _ = command("weights", "shunted_t", "--json")
    (facts,) = json.loads(out)
    assert facts["network"] == "shunted_t"
    assert facts["address"] is None
    assert facts["here"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get", "mvit_v2_s16x4"], "no weights are named 'mvit_v2_s16x4'; did you mean 'mvit_v2_s_16x4'?"),
        (["get", "cloformer_s"], "no weights of cloformer_s are published"),
        (["get", "shunted_t"], "is a folder on Google Drive, which a browser must fetch: open https://drive.google"),
        (["nothing*"], "no weights match 'nothing*'"),
        (["get"], "required: NAME (mvrec weights get --help)"),
    ],
)
def test_a_wrong_request_is_one_line(command, arguments: list[str], message: str) -> None:
    code, _, err = command("weights", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_name_whose_file_is_not_here_says_how_to_fetch_it(command, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"mvrec weights get mvit_v2_t\.authors"):
        fetched_path("mvit_v2_t")
    code, _, err = command("fit", "--data.root", str(tmp_path), "--model.weights", "mvit_v2_t")
    assert code == 2
    assert "--model.weights: the weights mvit_v2_t.authors are not on this machine: mvrec weights get" in err
    (tmp_path / "mvit_v2_t").touch()  # a file of one's own is meant first
    assert fetched_path("mvit_v2_t") is None


def test_weights_are_used_by_their_name_and_recorded(tmp_path, command) -> None:
    import torch

    from mvrec.models import create_model
    from mvrec.runs.weights_origin import weights_record

    file = published_file("mvit_v2_t")
    assert file is not None
    network = create_model("mvit_v2_t")
    place_of(file).parent.mkdir()
    torch.save({"model_state": network.state_dict()}, place_of(file))
    loaded = create_model("mvit_v2_t", weights="mvit_v2_t.authors")
    assert torch.equal(loaded.head.projection.weight, network.head.projection.weight)
    record = weights_record("mvit_v2_t")
    assert record["name"] == "mvit_v2_t.authors"
    assert record["page"] == file.page
    assert len(record["sha256"]) == 64
    assert "MB, SHA-256" in command("weights", "get", "mvit_v2_t")[1]
