"""What `mvrec fit` and its siblings refuse before they import torch, Lightning or torchvision."""

import shlex
import subprocess
import sys

import pytest

from mvrec.cli.options import check
from mvrec.cli.options.check import check_early
from mvrec.errors import UserError

# A command line, with FOLDER for a folder that exists, and what its message must have.
WRONG = [
    ("fit --config none.yaml", "config file 'none.yaml' does not exist"),
    ("fit --config demo --trainer.max_epoch 3", "--trainer.max_epoch: unknown key 'trainer.max_epoch'; did you mean"),
    ("fit --config demo --lr 3", "--lr: unknown key 'lr'; did you mean 'model.optimizer.lr'?"),
    ("fit --config demo --data.clp.num_frames 3", "unknown key 'data.clp'; did you mean 'clip'?"),
    ("fit --config demo --model.backbone.drop_path 0.1", "unknown key 'model.backbone.drop_path'"),
    ("fit --config demo --model.mixing.mixup 0.1", "unknown key 'model.mixing.mixup'"),
    ("fit --config demo --checkpoint.top_k 1", "unknown key 'checkpoint.top_k'"),
    ("fit --config demo --trainer.max_epochs abc", "--trainer.max_epochs: 'abc' is not a whole number or null"),
    ("fit --config demo --trainer.max_steps 1.5", "--trainer.max_steps: '1.5' is not a whole number"),
    ("fit --config demo --trainer.precision fp16", "did you mean '16-mixed'?"),
    ("fit --config demo --model.compile maybe", "--model.compile: 'maybe' is not true or false"),
    ("fit --config demo --data.batch_size 0", "--data.batch_size must be at least 1, got 0"),
    ("fit --config demo --data Kinetics --data.decoder x --data.root FOLDER", "'x' is not one of 'auto', 'decord'"),
    ("fit --config demo --data VideoFoldr", "mvrec.data has no 'VideoFoldr'; did you mean 'VideoFolder'?"),
    ("fit --config demo --data VideoFolder --data.root /no/such", "--data.root: '/no/such' does not exist"),
    ("fit --config demo --model.backbone mvit_b_16x5", "the zoo has no 'mvit_b_16x5'; did you mean 'mvit_b_16x4'?"),
    ("fit --config demo --model.weights none.pt", "--model.weights: none.pt: no such file"),
    ("fit --config demo --ckpt_path none.ckpt", "--ckpt_path: checkpoint 'none.ckpt' does not exist"),
    ("fit --config demo --protocol slowfast-5x1", "a protocol is for test and predict"),
    ("fit --model.backbone mvit_b_16x4", "which data? --data VideoFolder"),
    ("fit my.yaml", "a configuration is named by --config my.yaml"),
    ("test none.ckpt", "there is no checkpoint 'none.ckpt'"),
    ("test --config demo --protocol slowfast-5x2", "there is no protocol 'slowfast-5x2'; did you mean"),
]
# What only the classes of others, or a file's, can tell.
LEFT_FOR_LATER = [
    "fit --config demo --model my_tasks.Task --model.anything 3",
    "fit --config demo --model.backbone my_models.net --model.backbone.anything 3",
    "fit --config demo --data my_data.Videos --data.anything 3 --data.root /no/such",
    "fit --config demo --trainer.callbacks my.Callback --trainer.callbacks.anything 3",
    "fit --config demo --trainer.callbacks EarlyStopping --trainer.callbacks.monitor val/loss",
    "fit --config demo --model.optimizer SGD --model.optimizer.lr 0.1 --model.optimizer.momentum 0.9",
    "fit --config demo --model.optimizer torch.optim.SGD --model.optimizer.nesterov true",
    "fit --config demo --model.backbone timm/resnet18 --model.backbone.head_dropout 0.1",
    "fit --config demo --trainer.limit_val_batches 1.0 --trainer.max_epochs=null --trainer.devices 2,3",
    "fit --config demo --trainer.precision 16 --trainer.fast_dev_run yes --model.freeze backbone --resume auto",
    "fit --config demo --model.class_weights [1,2] --seed_everything true --data.clip '{num_frames: 8}'",
    "fit --config demo --trainer.accumulate_grad_batches 1_000 --trainer.val_check_interval 00:00:10:00",
    "fit --print_config --config demo --data VideoFolder --data.root /no/such",
    "validate --data.help VideoFolder",
]


def arguments(line, folder):
    return shlex.split(line.replace("FOLDER", str(folder)))


def test_wrong_input_is_one_line_before_torch_is_imported(tmp_path):
    lines = [arguments(line, tmp_path) for line, _ in WRONG]
    program = f"""
import sys
from mvrec.cli.main import main
for line in {lines!r}:
    try:
        main(line)
    except SystemExit as leaving:
        assert leaving.code == 2, line
heavy = [name for name in ("torch", "lightning", "torchvision", "torchmetrics", "numpy") if name in sys.modules]
assert not heavy, heavy
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    told = process.stderr.splitlines()
    assert process.returncode == 0, process.stderr
    assert len(told) == len(WRONG), process.stderr
    for (line, message), text in zip(WRONG, told, strict=True):
        assert message in text, line


def test_what_only_other_classes_can_tell_is_left_for_later(tmp_path):
    for line in LEFT_FOR_LATER:
        check_early(arguments(line, tmp_path))


def test_keys_of_a_library_of_another_version_are_left_for_later(monkeypatch):
    line = ["fit", "--config", "demo", "--trainer.new", "3", "--model.optimizer.new", "3"]
    with pytest.raises(UserError, match=r"trainer\.new"):
        check_early(line)
    monkeypatch.setattr(check, "is_installed", lambda library: False)
    check_early(line)
    with pytest.raises(UserError, match=r"data\.new"):
        check_early([*line, "--data.new", "3"])


def test_a_wrong_value_in_a_file_is_told_with_its_line(tmp_path):
    config = tmp_path / "my.yaml"
    config.write_text("trainer:\n  max_epochs: 3\n  deterministic: perhaps\n")
    with pytest.raises(
        UserError, match=r"my\.yaml:3: trainer\.deterministic: 'perhaps' is not true or false or 'warn'"
    ):
        check_early(["fit", "--config", "demo", "--config", str(config)])
