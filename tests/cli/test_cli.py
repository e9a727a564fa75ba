"""Manners of the command line: speed, one-line errors, precedence."""

import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mvrec import __version__

ROOT = Path(__file__).parent.parent.parent
DEMO = ROOT / "configs/demo.yaml"


def test_a_run_directory_may_lie_at_home(monkeypatch):
    from mvrec.cli.config_check import Entry
    from mvrec.cli.request import _run_dir_of

    monkeypatch.setenv("HOME", "/home/me")
    assert _run_dir_of([Entry("run_dir", "~/runs/a", "--run_dir")], []) == Path("/home/me/runs/a")


def test_light_answers_import_nothing_heavy():
    light = [["--help"], ["--version"], ["fti"], [], ["models"], ["fit", "--help"], ["test", "--help", "data.augment"]]
    code = (
        "import sys\nfrom mvrec.cli.main import main\n"
        f"for arguments in {light!r}:\n"
        "    try:\n        main(arguments)\n    except SystemExit:\n        pass\n"
        "    heavy = {'torch', 'lightning', 'jsonargparse', 'numpy', 'av', 'decord'} & set(sys.modules)\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_version_and_help(command):
    assert command("--version") == (0, f"mvrec {__version__}\n", "")
    code, out, _ = command("--help")
    assert code == 0
    assert all(word in out for word in ("fit", "validate", "test", "predict", "demo"))


def test_a_wrong_command_names_the_nearest(command):
    code, out, err = command("fti")
    assert (code, out) == (2, "")
    assert err == "mvrec: error: unknown command 'fti'; did you mean 'fit'? (mvrec --help lists them)\n"


def only_line(result: tuple[int, str, str]) -> str:
    """The error line of a command that must have failed with exactly one."""
    code, _, err = result
    told = ("mvrec: the earlier run", "mvrec: decoder ", "mvrec: data: ")  # before anything has failed
    lines = [line for line in err.splitlines() if not line.startswith(told)]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("mvrec: error: ")
    return lines[0].removeprefix("mvrec: error: ")


def test_wrong_arguments_of_every_other_command_are_one_line_with_the_way_to_its_help(command):
    for arguments, expected in (
        (["report"], "the following arguments are required: RUN (mvrec report --help)"),
        (
            ["report", ".", "--mistakez", "3"],
            "arguments: --mistakez 3; did you mean '--mistakes'? (mvrec report --help)",
        ),
        (["hub"], "the following arguments are required: push|pull (mvrec hub --help)"),
        (["doctor", "--dist", "x"], "1 or more, and not 'x' (mvrec doctor --help)"),
    ):
        assert only_line(command(*arguments)).endswith(expected)


def test_a_file_that_is_no_checkpoint_is_named(command, tmp_path):
    (tmp_path / "text.ckpt").write_text("hello")
    assert "cannot read" in only_line(command("test", "--ckpt_path", tmp_path / "text.ckpt"))
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "other.ckpt")
    assert "not a checkpoint that `mvrec fit` has written" in only_line(
        command("test", "--ckpt_path", tmp_path / "other.ckpt")
    )


@pytest.fixture(scope="module")
def trained(digits_run, tmp_path_factory) -> Path:
    """A checkpoint whose learning rate and label smoothing are not the defaults."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    shutil.copytree(digits_run.folder, run_dir)
    return run_dir / "checkpoints/last.ckpt"


def resolved(command, *arguments: object) -> dict:
    code, out, err = command(*arguments, "--print_config")
    assert code == 0, err
    return yaml.safe_load(out)


def test_flag_over_later_config_over_earlier_config_over_checkpoint_over_default(command, trained, tmp_path):
    early, late = tmp_path / "early.yaml", tmp_path / "late.yaml"
    early.write_text("model: {label_smoothing: 0.3, lr_reference_batch: 10}\ntrainer: {max_epochs: 3}\n")
    late.write_text("model: {lr_reference_batch: 20}\ntrainer: {max_epochs: 4}\n")
    got = resolved(
        command, "fit", "--ckpt_path", trained, "--config", early, "--config", late, "--trainer.max_epochs=5"
    )
    assert got["trainer"]["max_epochs"] == 5  # flag
    assert got["model"]["lr_reference_batch"] == 20  # later config
    assert got["model"]["label_smoothing"] == 0.3  # earlier config
    assert got["model"]["optimizer"]["init_args"]["lr"] == 0.002  # checkpoint
    assert got["model"]["backbone"]["init_args"]["embed_dim"] == 8  # checkpoint, nested
    assert got["data"]["init_args"]["batch_size"] == 9  # checkpoint, data
    assert got["model"]["schedule"]["warmup_epochs"] == 1  # checkpoint (from the demo's config)
    assert got["checkpoint"]["monitor"] == "val/top1"  # default


def test_a_flag_reaches_inside_what_the_checkpoint_says(command, trained):
    got = resolved(
        command, "fit", "--ckpt_path", trained, "--model.optimizer.lr=0.125", "--model.backbone.drop_path_rate=0.5"
    )
    assert got["model"]["optimizer"]["init_args"]["lr"] == 0.125
    assert got["model"]["backbone"]["init_args"]["drop_path_rate"] == 0.5
    assert got["model"]["backbone"]["init_args"]["embed_dim"] == 8


def test_a_checkpoint_path_in_a_config_counts_too(command, trained, tmp_path):
    config = tmp_path / "resume.yaml"
    config.write_text(f"ckpt_path: {trained}\n")
    assert resolved(command, "fit", "--config", config)["model"]["label_smoothing"] == 0.1


def test_the_run_directory_is_named_after_the_config_or_found_from_the_checkpoint(command, trained, tiny):
    code, _, err = command("validate", "--ckpt_path", trained)
    assert code == 0, err
    assert (trained.parent.parent / "metrics_validate.csv").is_file()
    assert (trained.parent.parent / "config_validate.yaml").is_file()


def test_a_checkpoint_of_other_classes_is_refused(command, trained, digits, tmp_path):
    root = tmp_path / "other"
    for split in ("train", "test"):
        for name in ("grow", "shrink"):
            (root / split / name).mkdir(parents=True)
            (root / split / name / "a.mp4").symlink_to(digits / split / name / "00000.mp4")
    arguments = ["--ckpt_path", trained, "--data=mvrec.data.Kinetics", "--data.root", root]
    line = only_line(command("test", *arguments))
    assert line.startswith("the checkpoint knows 12 classes, the data have 2, which are among them")


def test_a_checkpoint_of_renamed_classes_is_refused(command, trained, digits, tmp_path):
    root = tmp_path / "renamed"
    for folder in sorted((digits / "test").iterdir()):
        (root / "test" / folder.name.replace("grow", "growing")).mkdir(parents=True)
        (root / "test" / folder.name.replace("grow", "growing") / "a.mp4").symlink_to(folder / "00000.mp4")
    arguments = ["--ckpt_path", trained, "--data=mvrec.data.Kinetics", "--data.root", root]
    line = only_line(command("test", *arguments))
    assert line == "1 of 12 classes differ: class 0 is 'grow' in the checkpoint and 'growing' in the data"


def test_an_image_network_on_clips_is_one_line(command, tiny, tmp_path):
    kept = [argument for argument in tiny if "model.backbone" not in argument]
    network = ["--model.backbone=mvit_v2_t", "--model.backbone.image_size=64"]
    line = only_line(command("fit", *kept, *network, f"--run_dir={tmp_path}"))
    assert line == "the backbone takes inputs of shape (3, 64, 64) without the batch, the data give (3, 4, 64, 64)"


ZOO_NAME = {"class_path": "mvrec.models.create_model", "init_args": {"name": "torchvision/swin_t"}}


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ("mvit_b_16x4", [], {"class_path": "mvrec.models.mvit_b_16x4", "init_args": {"head_dropout": 0.5}}),
        (
            "mvrec.models.mvit_b_16x4",
            [],
            {"class_path": "mvrec.models.mvit_b_16x4", "init_args": {"head_dropout": 0.5}},
        ),
        ("MViT", [], {"class_path": "mvrec.models.MViT", "init_args": {"pooling": "conv"}}),
        ("torchvision/swin_t", [], ZOO_NAME),
        ("{class_path: mvrec.models.create_model, init_args: {name: torchvision/swin_t}}", [], ZOO_NAME),
        (
            "shunted_t",
            ["--model.backbone.drop_path_rate=0.3"],
            {"class_path": "mvrec.models.shunted_t", "init_args": {"drop_path_rate": 0.3}},
        ),
        (
            "torchvision/swin_t",
            ["--model.backbone.drop_path_rate=0.3"],
            {**ZOO_NAME, "init_args": {"name": "torchvision/swin_t", "drop_path_rate": 0.3}},
        ),
        ("shunted_t", ["--model.backbone=torchvision/swin_t"], ZOO_NAME),
        ("shunted_t", ["--model.backbone", "torchvision/swin_t"], ZOO_NAME),
        ("torchvision/swin_t", ["--model.backbone", "shunted_t"], {"class_path": "mvrec.models.shunted_t"}),
    ],
)
def test_a_backbone_by_its_short_name(command, tmp_path, text, flags, expected):
    config = tmp_path / "config.yaml"
    config.write_text(f"model:\n  backbone: {text}\n")
    got = resolved(command, "fit", "--config", config, *flags)["model"]["backbone"]
    assert got["class_path"] == expected["class_path"]
    assert got["init_args"].items() >= expected.get("init_args", {}).items()


def test_a_backbone_inside_a_backbone_by_its_short_name(command, tmp_path):
    config = tmp_path / "config.yaml"
    framewise = "{class_path: mvrec.models.Framewise, init_args: {num_frames: 8, backbone: shunted_t}}"
    config.write_text(f"model:\n  backbone: {framewise}\n")
    got = resolved(command, "fit", "--config", config, "--model.backbone.backbone.drop_path_rate=0.3")
    inner = got["model"]["backbone"]["init_args"]["backbone"]
    assert (inner["class_path"], inner["init_args"]["drop_path_rate"]) == ("mvrec.models.shunted_t", 0.3)
    got = resolved(command, "fit", "--config", config, "--model.backbone.backbone=torchvision/swin_t")
    assert got["model"]["backbone"]["init_args"]["backbone"]["init_args"]["name"] == "torchvision/swin_t"
    assert got["model"]["backbone"]["init_args"]["num_frames"] == 8


def test_a_run_with_a_baseline_repeats_from_its_config_and_tests_from_its_checkpoint(command, digits, tmp_path):
    config, run_dir = tmp_path / "config.yaml", tmp_path / "run"
    inner = "{class_path: mvrec.models.create_model, init_args: {name: timm/resnet10t, image_size: 64}}"
    framewise = f"{{class_path: mvrec.models.Framewise, init_args: {{num_frames: 2, backbone: {inner}}}}}"
    data = f"{{root: {digits}, clips_per_class: 3, eval_clips_per_class: 2, clip: {{num_frames: 2}}, num_workers: 0}}"
    config.write_text(
        f"model:\n  backbone: {framewise}\ndata: {{class_path: mvrec.data.MovingDigits, init_args: {data}}}\n"
        "trainer: {max_epochs: 1, limit_train_batches: 1, limit_val_batches: 1, accelerator: cpu}\n"
    )
    code, _, err = command("fit", "--config", config, "--run_dir", run_dir)
    assert code == 0, err
    assert "Framewise" in err
    before = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert resolved(command, "fit", "--config", run_dir / "config.yaml")["model"] == before["model"]
    code, _, err = command("test", run_dir / "checkpoints/last.ckpt", "--trainer.limit_test_batches=1")
    assert code == 0, err
    assert "mvrec: test: top1" in err
    with (run_dir / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    code, out, err = command(
        *("recognize", rows[0]["path"], "--ckpt", run_dir / "checkpoints/last.ckpt", "--format=csv", "--device=cpu")
    )
    assert code == 0, err
    (found,) = csv.DictReader(io.StringIO(out))
    assert found["class_1"] == rows[0]["class_1"]
    assert float(found["probability_1"]) == pytest.approx(float(rows[0]["probability_1"]), abs=1e-5)


def bad_root(kind: str, root: Path) -> None:
    """Make a data root with one thing wrong."""
    if kind == "one class":
        (root / "train/jump").mkdir(parents=True)
        (root / "train/jump/a.mp4").touch()
    elif kind == "bad label":
        root.mkdir()
        (root / "classes.txt").write_text("jump\nrun\n")
        (root / "train.csv").write_text("path,label\na.mp4,jump\nb.mp4,runn\n")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "does not exist"),
        ("one class", "it has only the class 'jump', training needs two"),
        ("bad label", "train.csv:3: 'runn' is not one of the 2 classes; did you mean 'run'?"),
    ],
)
def test_a_bad_data_root_is_one_line(command, tiny, tmp_path, kind, expected):
    root = tmp_path / "root"
    bad_root(kind, root)
    kept = [argument for argument in tiny if "clips_per_class" not in argument and "data.root" not in argument]
    line = only_line(
        command("fit", *kept, "--data=mvrec.data.Kinetics", f"--data.root={root}", f"--run_dir={tmp_path / 'run'}")
    )
    assert expected in line
    assert not (tmp_path / "run/checkpoints").exists()
