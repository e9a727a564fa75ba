"""Manners of the command line: speed, one-line errors, precedence."""

import csv
import io
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from config_builds import one_parser, stopped_at

from mvrec import __version__
from mvrec.cli.config_check import Entry, entries
from mvrec.cli.request import _run_dir_of
from mvrec.cli.run_defaults import checkpoint_file
from mvrec.errors import UserError


def test_a_run_directory_may_lie_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert _run_dir_of([Entry("run_dir", "~/runs/a", "--run_dir")], []) == Path("/home/me/runs/a")


def test_version_help_and_the_nearest_of_a_wrong_command(command):
    assert command("--version") == (0, f"mvrec {__version__}\n", "")
    code, out, _ = command("--help")
    assert code == 0
    assert all(word in out for word in ("fit", "validate", "test", "predict", "demo"))
    line = "mvrec: error: unknown command 'fti'; did you mean 'fit'? (mvrec --help lists them)\n"
    assert command("fti") == (2, "", line)


def only_line(result: tuple[int, str, str]) -> str:
    """The error line of a command that must have failed with exactly one."""
    code, _, err = result
    earlier = ("mvrec: the earlier run", "mvrec: decoder ", "mvrec: data: ")  # before anything has failed
    lines = [line for line in err.splitlines() if not line.startswith(earlier)]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("mvrec: error: ")
    return lines[0].removeprefix("mvrec: error: ")


def test_a_file_that_no_fit_has_written_is_no_checkpoint(command, tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "other.ckpt")
    line = only_line(command("test", "--ckpt_path", tmp_path / "other.ckpt"))
    assert "not a checkpoint that `mvrec fit` has written" in line


def resolved(command, *arguments: object) -> dict:
    code, out, err = command("fit", *arguments, "--print_config")
    assert code == 0, err
    return yaml.safe_load(out)


def test_flag_over_later_config_over_earlier_config_over_checkpoint_over_default(command, digits_run, tmp_path):
    early, late = tmp_path / "early.yaml", tmp_path / "late.yaml"
    checkpoint = digits_run.folder / "checkpoints/last.ckpt"
    early.write_text(f"ckpt_path: {checkpoint}\nmodel: {{label_smoothing: 0.3, lr_reference_batch: 10}}\n")
    late.write_text("model: {lr_reference_batch: 20}\ntrainer: {max_epochs: 4}\n")
    flags = ["--trainer.max_epochs=5", "--model.backbone.drop_path_rate=0.5"]
    settings = resolved(command, "--config", early, "--config", late, *flags)
    assert settings["trainer"]["max_epochs"] == 5  # flag
    assert settings["model"]["backbone"]["init_args"]["drop_path_rate"] == 0.5  # flag, inside what the checkpoint says
    assert settings["model"]["lr_reference_batch"] == 20  # later config
    assert settings["model"]["label_smoothing"] == 0.3  # earlier config
    assert settings["model"]["optimizer"]["init_args"]["lr"] == 0.002  # checkpoint
    assert settings["model"]["backbone"]["init_args"]["embed_dim"] == 8  # checkpoint, nested
    assert settings["data"]["init_args"]["batch_size"] == 9  # checkpoint, data
    assert settings["model"]["schedule"]["warmup_epochs"] == 1  # checkpoint (from the demo's config)
    assert settings["checkpoint"]["monitor"] == "val/top1"  # default


def test_a_run_directory_as_checkpoint_is_its_newest_for_fit_and_its_best_for_others(digits_run, tmp_path):
    run = digits_run.folder
    arguments = ["--ckpt_path", str(run)]
    for verb, name in (("fit", "last"), ("test", "best")):
        assert checkpoint_file(arguments, entries(arguments), verb)[-1] == f"{run}/checkpoints/{name}.ckpt"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.ckpt").write_bytes(b"cut")
    arguments = ["--ckpt_path", str(tmp_path)]
    with pytest.raises(UserError, match=f"--ckpt_path: {tmp_path} has no checkpoint from which training can resume"):
        checkpoint_file(arguments, entries(arguments), "fit")


def test_the_run_directory_is_found_from_the_checkpoint(command, digits_run, tmp_path):
    run_dir = shutil.copytree(digits_run.folder, tmp_path / "run")
    code, _, err = command("validate", "--ckpt_path", run_dir)
    assert code == 0, err
    assert (run_dir / "metrics_validate.csv").is_file()
    assert (run_dir / "config_validate.yaml").is_file()


def test_an_image_network_on_clips_is_one_line(command, tiny, tmp_path):
    network = ["--model.backbone.num_frames=null", "--model.backbone.pool_kernel=[1, 3, 3]"]
    code, _, err = command("fit", *tiny, *network, f"--run_dir={tmp_path}")
    line = (
        "mvrec: error: the backbone takes inputs of shape (3, 64, 64) without the batch, the data give (3, 4, 64, 64)"
    )
    assert (code, err.splitlines()[-1]) == (2, line)


FRAMEWISE = "{class_path: mvrec.models.Framewise, init_args: {num_frames: 8, backbone: shunted_t}}"
# A backbone in a file, flags, and the name and some arguments of what is built.
SHORT_NAMES = [
    ("mvit_b_16x4", [], "mvit_b_16x4", {"head_dropout": 0.5}),
    ("MViT", [], "MViT", {"pooling": "conv"}),
    ("torchvision/swin_t", [], "create_model", {"name": "torchvision/swin_t"}),
    ("shunted_t", ["--model.backbone.drop_path_rate=0.3"], "shunted_t", {"drop_path_rate": 0.3}),
    (
        *("torchvision/swin_t", ["--model.backbone.drop_path_rate=0.3"]),
        *("create_model", {"name": "torchvision/swin_t", "drop_path_rate": 0.3}),
    ),
    ("shunted_t", ["--model.backbone=torchvision/swin_t"], "create_model", {"name": "torchvision/swin_t"}),
    ("shunted_t", ["--model.backbone", "torchvision/swin_t"], "create_model", {"name": "torchvision/swin_t"}),
    ("torchvision/swin_t", ["--model.backbone", "shunted_t"], "shunted_t", {}),
]


def test_a_backbone_by_its_short_name_also_inside_another(tmp_path):
    config = tmp_path / "config.yaml"

    def built(text, flags):
        config.write_text(f"model:\n  backbone: {text}\n")
        data = ["--data=ImageFolder", "--data.root=."]
        cli = stopped_at("before_instantiate_classes", "--config", config, *data, *flags)
        return cli.config.fit.model.backbone.as_dict()

    with one_parser():
        for text, flags, name, arguments in SHORT_NAMES:
            backbone = built(text, flags)
            assert backbone["class_path"] == f"mvrec.models.{name}", (text, flags)
            assert backbone["init_args"].items() >= arguments.items(), (text, flags)
        inner = built(FRAMEWISE, ["--model.backbone.backbone.drop_path_rate=0.3"])["init_args"]["backbone"]
        assert (inner["class_path"], inner["init_args"]["drop_path_rate"]) == ("mvrec.models.shunted_t", 0.3)
        outer = built(FRAMEWISE, ["--model.backbone.backbone=torchvision/swin_t"])["init_args"]
        assert (outer["num_frames"], outer["backbone"]["init_args"]["name"]) == (8, "torchvision/swin_t")


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
    assert resolved(command, "--config", run_dir / "config.yaml")["model"] == before["model"]
    code, _, err = command("test", run_dir / "checkpoints/last.ckpt", "--trainer.limit_test_batches=1")
    assert code == 0, err
    assert "mvrec: test: top1" in err
    with (run_dir / "predictions.csv").open(newline="", encoding="utf-8-sig") as file:
        row = next(csv.DictReader(file))
    checkpoint = ["--ckpt", run_dir / "checkpoints/last.ckpt", "--device=cpu"]
    code, out, err = command("recognize", row["path"], "--format=csv", *checkpoint)
    assert code == 0, err
    (recognised,) = csv.DictReader(io.StringIO(out))
    assert recognised["class_1"] == row["class_1"]
    assert float(recognised["probability_1"]) == pytest.approx(float(row["probability_1"]), abs=1e-5)


def test_a_bad_data_root_is_one_line(command, tiny, tmp_path):
    (tmp_path / "classes.txt").write_text("jump\nrun\n")
    (tmp_path / "train.csv").write_text("path,label\na.mp4,jump\nb.mp4,runn\n")
    (tmp_path / "one class/train/jump").mkdir(parents=True)
    (tmp_path / "one class/train/jump/a.mp4").touch()
    arguments = [argument for argument in tiny if "clips_per_class" not in argument and "data.root" not in argument]
    for root, expected in (
        (tmp_path / "one class", "it has only the class 'jump', training needs two"),
        (tmp_path, "train.csv:3: 'runn' is not one of the 2 classes; did you mean 'run'?"),
    ):
        flags = ["--data=mvrec.data.Kinetics", f"--data.root={root}", f"--run_dir={tmp_path / 'run'}"]
        assert expected in only_line(command("fit", *arguments, *flags))
    assert not (tmp_path / "run/checkpoints").exists()
