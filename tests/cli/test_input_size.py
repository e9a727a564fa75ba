"""The network is built for the frames and pixels of the data, unless somebody says otherwise."""

import pytest
from config_builds import ROOT, one_parser, stopped_at

CHECKPOINT = ROOT / "tests/golden/earlier_run/checkpoints/last.ckpt"
DEMO = f"--config={ROOT / 'configs/demo.yaml'}"
DATA = ["--data.clip.num_frames=4", "--data.size=32"]
IMAGES = ["--data=ImageFolder", "--data.root=."]


@pytest.fixture(scope="module", autouse=True)
def parser_once():
    with one_parser():
        yield


def arguments_and_notes(*flags: object) -> tuple[dict, list[str]]:
    """Arguments of the network that `mvrec fit` would build, and what it says of them."""
    cli = stopped_at("before_instantiate_classes", *flags)
    return cli.config.fit.model.backbone.init_args.as_dict(), cli.input_size.overrides


def test_the_data_decide_unless_the_user_does():
    for flags, frames, size, expected in (
        (DATA, 4, 32, []),
        ([], 8, 64, []),  # defaults of the class of the data
        ([*DATA, "--model.backbone.num_frames=4", "--model.backbone.image_size=[32, 32]"], 4, (32, 32), []),
        ([*DATA, "--model.backbone.num_frames=8"], 8, 32, ["num_frames 8 overrides the 4 frames of the"]),
        ([*DATA, "--model.backbone.image_size=64"], 4, 64, ["image_size 64 overrides the 32 pixels of the"]),
        ([*DATA, "--model.backbone.num_frames=null"], None, 32, ["num_frames null overrides the 4 frames"]),
    ):
        arguments, notes = arguments_and_notes(DEMO, *flags)
        assert (arguments["num_frames"], arguments["image_size"]) == (frames, size), flags
        assert len(notes) == len(expected), flags
        assert all(f"--model.backbone.{text}" in note for text, note in zip(expected, notes, strict=True))


def test_the_data_take_a_size_that_only_the_network_has():
    cli = stopped_at(
        "before_instantiate_classes", DEMO, "--model.backbone.num_frames=6", "--model.backbone.image_size=48"
    )
    data = cli.config.fit.data.init_args
    assert (data.clip.num_frames, data.size) == (6, 48)
    assert cli.input_size.overrides == [
        "--model.backbone.num_frames 6: the data get 6 frames too",
        "--model.backbone.image_size 48: the data get 48 pixels too",
    ]


def test_an_image_network_on_clips_is_built_for_their_pixels_and_one_of_another_library_keeps_its_own():
    framewise = ["--model.backbone=mvrec.models.Framewise", "--model.backbone.num_frames=4"]
    inner = ["--data=VideoFolder", "--data.root=.", *DATA, "--model.backbone.backbone=shunted_t"]
    arguments, _ = arguments_and_notes(*framewise, *inner)
    assert arguments["num_frames"] == 4
    assert arguments["backbone"]["init_args"]["image_size"] == 32
    arguments, _ = arguments_and_notes(*IMAGES, "--data.size=32", "--model.backbone=torchvision/swin_t")
    assert arguments["image_size"] is None


def test_a_size_that_the_network_cannot_have_is_refused_where_it_stands(command):
    code, _, err = command("fit", *IMAGES, "--data.size=5", "--model.backbone=mvit_v2_t")
    assert code == 2
    assert err.splitlines()[-1].startswith("mvrec: error: --data.size: model.backbone.image_size: image_size must be")


def test_a_checkpoint_knows_its_size():
    arguments, notes = arguments_and_notes(f"--ckpt_path={CHECKPOINT}", "--data.root=.", "--data.size=96")
    assert (arguments["num_frames"], arguments["image_size"]) == (4, 64)
    assert not notes
