"""The network is built for the frames and pixels of the data, unless somebody says otherwise."""

import pytest
from config_builds import ROOT, one_parser, stopped_at

CHECKPOINT = ROOT / "tests/golden/earlier_run/checkpoints/last.ckpt"
DATA = ["--data.clip.num_frames=4", "--data.size=32"]


@pytest.fixture(scope="module", autouse=True)
def parser_once():
    with one_parser():
        yield


def stopped(*arguments: object) -> tuple[dict, list[str]]:
    cli = stopped_at("before_instantiate_classes", *arguments)
    return cli.config.fit.model.backbone.init_args.as_dict(), cli.input_size.overrides


def network(*arguments: object) -> dict:
    return stopped(*arguments)[0]


@pytest.mark.parametrize(
    ("flags", "frames", "size", "said"),
    [
        ([], 4, 32, []),
        (["--model.backbone.num_frames=4", "--model.backbone.image_size=[32, 32]"], 4, (32, 32), []),
        (
            ["--model.backbone.num_frames=8"],
            8,
            32,
            ["--model.backbone.num_frames 8 overrides the 4 frames of the"],
        ),
        (["--model.backbone.image_size=64"], 4, 64, ["--model.backbone.image_size 64 overrides the 32 pixels of the"]),
        (["--model.backbone.num_frames=null"], None, 32, ["num_frames null overrides the 4 frames"]),
    ],
)
def test_the_data_decide_unless_the_user_does(flags, frames, size, said):
    sizes, lines = stopped(f"--config={ROOT / 'configs/demo.yaml'}", *DATA, *flags)
    assert (sizes["num_frames"], sizes["image_size"]) == (frames, size)
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))


def test_what_the_class_of_the_data_says_counts_too():
    sizes = network(f"--config={ROOT / 'configs/demo.yaml'}")
    assert (sizes["num_frames"], sizes["image_size"]) == (8, 64)


def test_an_image_network_on_clips_is_built_for_their_pixels():
    framewise = ["--model.backbone=mvrec.models.Framewise", "--model.backbone.num_frames=4"]
    inner = network("--data=VideoFolder", "--data.root=.", *DATA, *framewise, "--model.backbone.backbone=shunted_t")
    assert inner["num_frames"] == 4
    assert inner["backbone"]["init_args"]["image_size"] == 32


def test_networks_of_other_libraries_keep_their_own():
    sizes = network("--data=ImageFolder", "--data.root=.", "--data.size=32", "--model.backbone=torchvision/swin_t")
    assert sizes["image_size"] is None


def test_a_size_that_the_network_cannot_have_is_refused_where_it_stands(command):
    code, _, err = command("fit", "--data=ImageFolder", "--data.root=.", "--data.size=5", "--model.backbone=mvit_v2_t")
    assert code == 2
    assert err.splitlines()[-1].startswith("mvrec: error: --data.size: model.backbone.image_size: image_size must be")


def test_a_checkpoint_knows_its_size():
    sizes, lines = stopped(f"--ckpt_path={CHECKPOINT}", "--data.root=.", "--data.size=96")
    assert (sizes["num_frames"], sizes["image_size"]) == (4, 64)
    assert not lines
