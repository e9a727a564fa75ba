"""Requests that `mvrec fit` and its siblings refuse before they import torch, Lightning or torchvision."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mvrec.cli.options import check
from mvrec.cli.options.check import check_early
from mvrec.data import GENERATED
from mvrec.errors import UserError

LIGHT = ["", "--help", "--version", "models", "fit --help", "test --help data.augment"]
# A command line, and what its message has.
WRONG = [
    ("fti", "unknown command 'fti'; did you mean 'fit'? (mvrec --help lists them)"),
    ("fit --config none.yaml", "config file 'none.yaml' does not exist"),
    ("fit --config demo --config", "--config needs the path of a file"),
    ("fit --config demo --trainer.max_epoch 3", "--trainer.max_epoch: unknown key 'trainer.max_epoch'; did you mean"),
    ("fit --config demo --lr 3", "--lr: unknown key 'lr'; did you mean 'model.optimizer.lr'?"),
    ("fit --config demo --data.clp.num_frames 3", "unknown key 'data.clp'; did you mean 'clip'?"),
    ("fit --config demo --model '{optimiser: 1}'", "--model: unknown key 'model.optimiser'; did you mean 'optimizer'"),
    ("fit --config demo --checkpoint.top_k 1", "unknown key 'checkpoint.top_k'"),
    ("fit --config demo --trainer.max_epochs abc", "--trainer.max_epochs: 'abc' is not a whole number or null"),
    ("fit --config demo --trainer.precision fp16", "did you mean '16-mixed'?"),
    ("fit --config demo --checkpoint.save_last abc", "--checkpoint.save_last: 'abc' is not true or false"),
    ("fit --config demo --data.batch_size 0", "--data.batch_size must be at least 1, got 0"),
    ("fit --config demo --model.optimizer.lr '{a: 1}'", "must lie in 0..1000000 and not be 0, got {a: 1}"),
    (
        "fit --data Kinetics --data.decoder decort",
        "'decort' is not the class path of your own or one of 'auto', 'decord',",
    ),
    ("fit --data UCF101 --data.splt 2", "--data.splt: unknown key 'data.splt'; did you mean 'split'?"),
    ("fit --data mvrec.data.UCF101 --data.batchsize 2", "unknown key 'data.batchsize'; did you mean 'batch_size'?"),
    ("fit --config demo --data VideoFoldr", "mvrec.data has no 'VideoFoldr'; did you mean 'VideoFolder'?"),
    ("fit --config demo --data VideoFolder --data.root /no/such", "--data.root: '/no/such' does not exist"),
    ("fit --config demo --data VideoFolder --data.root empty", "--data.root: 'empty' is empty"),
    ("fit --data.root ampty", "--data.root: 'ampty' does not exist; did you mean 'empty'?"),
    ("init ampty", "--data.root: 'ampty' does not exist; did you mean 'empty'?"),
    ("init folder", "--data.root: 'folder' holds no videos and no images"),
    ("fit --data '{class_path: ImageNet, init_args: {sizes: 3}}'", "--data: unknown key 'data.sizes'"),
    ("fit --config demo --model.backbone mvit_b_16x5", "the zoo has no 'mvit_b_16x5'; did you mean 'mvit_b_16x4'?"),
    ("fit --config demo --model.weights none.pt", "--model.weights: there is no file 'none.pt'"),
    ("fit --config demo --model.weights .", "--model.weights: . is a folder without checkpoints/best.ckpt"),
    ("fit --config demo --model.weights a.mp4", "--model.weights: a.mp4: the file is a video or image"),
    ("fit --config demo --ckpt_path none.ckpt", "--ckpt_path: there is no checkpoint 'none.ckpt'"),
    ("fit --config demo --protocol slowfast-5x1", "a protocol is for test and predict"),
    ("fit --data.rot folder", "--data.rot: unknown key 'data.rot'; did you mean 'root'?"),
    ("fit --data.split 1", "which data? --data.root FOLDER"),
    ("fit --model.backbone mvit_b_16x4", "which data? --data.root FOLDER"),
    ("fit --config finetune", "which data? --data.root FOLDER"),
    ("fit --data VideoFolder --data.root .", "which network? --model.backbone NAME"),
    ("fit --data.root --model.backbone mvit_b_16x4", "--data.root needs a value"),
    ("fit --config demo --trainer.max_epochs", "--trainer.max_epochs needs a value"),
    ("fit my.yaml", "a configuration is named by --config my.yaml"),
    ("test", "which data? --data VideoFolder"),
    ("fit .", "unexpected argument '.': a folder of data is named by --data.root ."),
    ("fit --data folder", "mvrec.data has no 'folder'; a folder of data is named by --data.root folder"),
    ("folder", "unknown command 'folder'; mvrec fit --data.root folder trains on this folder"),
    ("a.mp4", "unknown command 'a.mp4'; mvrec recognize a.mp4 --ckpt RUN names"),
    ("test none.ckpt", "there is no checkpoint 'none.ckpt'"),
    ("test a.mp4", "a.mp4: the file is a video or image"),
    ("test --config demo --protocol slowfast-5x2", "there is no protocol 'slowfast-5x2'; did you mean"),
]
# What only the classes of others, or a file's, can tell.
LEFT_FOR_LATER = [
    "fit --config demo --model my_tasks.Task --model.anything 3",
    "fit --config demo --model.backbone my_models.net --model.backbone.anything 3",
    "fit --config demo --data my_data.Videos --data.anything 3 --data.root /no/such",
    "fit --config demo --trainer.callbacks my.Callback --trainer.callbacks.anything 3",
    "fit --config demo --model.optimizer SGD --model.optimizer.lr 0.1 --model.optimizer.momentum 0.9",
    "fit --config demo --model.backbone timm/resnet18 --model.backbone.head_dropout 0.1",
    "fit --config demo --trainer.precision 16 --trainer.max_epochs=null --trainer.devices 2,3 --resume auto",
    "fit --config demo --model.class_weights [1,2] --seed_everything true --data.clip '{num_frames: 8}'",
    "fit --config demo --trainer.accumulate_grad_batches 1_000 --trainer.val_check_interval 00:00:10:00",
    "fit --print_config --config demo --data VideoFolder --data.root /no/such",
    "validate --data.help VideoFolder",
]
BACKBONE = "model:\n  backbone:\n    class_path: mvrec.models."
# Text of a config file, and what the answer to it has.
WRONG_FILES = [
    ("model:\n  bakbone: 3", "bad.yaml:2: unknown key 'model.bakbone'; did you mean 'backbone'?"),
    (f"{BACKBONE}MViT\n    init_args: {{dept: 3}}", "bad.yaml:4: unknown key 'model.backbone.dept'; did you mean"),
    (
        "data:\n  class_path: mvrec.data.Kinetics\n  init_args:\n    root: x\n    clip: {num_frame: 3}",
        "bad.yaml:5: unknown key 'data.clip.num_frame'; did you mean 'num_frames'?",
    ),
    (f"{BACKBONE}mvit_b_16x5", "has no 'mvit_b_16x5'; did you mean 'mvit_b_"),
    ("model:\n  backbone: mvit_b_16x5", "bad.yaml:2: the zoo has no 'mvit_b_16x5'; did you mean 'mvit_b_16x4'?"),
    (f"{BACKBONE}create_model\n    init_args:\n      name: shunted_x", "bad.yaml:5: the zoo has no 'shunted_x'; did"),
    (f"{BACKBONE}Framewise\n    init_args: {{num_frames: 8, backbone: shuntd_t}}", "bad.yaml:4: the zoo has no 'shun"),
    (
        f"{BACKBONE}Framewise\n    init_args:\n      backbone:\n"
        "        class_path: mvrec.models.shunted_t\n        init_args: {drop_rate: 0.1}",
        "bad.yaml:7: unknown key 'model.backbone.backbone.drop_rate'; did you mean 'drop_path_rate'?",
    ),
    ("trainer:\n  max_epochs: three", "bad.yaml:2: trainer.max_epochs: 'three' is not a whole number or null"),
    ("model:\n  schedule: abc", "bad.yaml:2: model.schedule must be a mapping of keys (cooldown_epochs, "),
    (
        "model:\n  mixing:\n    mixup_alpha: null",
        "bad.yaml:3: model.mixing.mixup_alpha must not be null, it must lie in",
    ),
    ("a: [1\nb: }", "bad.yaml:2: not valid YAML"),
    ("- 1\n- 2", "bad.yaml:1: a config file must be a mapping"),
    ("# nothing\n", "bad.yaml: this config file sets nothing"),
    ("? [1]\n: 2", "bad.yaml:1: not valid YAML: found unhashable key"),
    ("trainer: !!python/name:os.system", "bad.yaml:1: not valid YAML: could not determine a constructor"),
    ("a: " + 1000 * "[", "bad.yaml: not valid YAML: maximum recursion depth exceeded"),
    ("data:\n  size: 3\nmodel: {}\ndata:\n  root: x", "bad.yaml:4: data is set twice (also"),
    ("trainer: [1, 2]", "bad.yaml:1: trainer must be a mapping of keys"),
    (f"{BACKBONE.removesuffix('mvrec.models.')}[1]", "bad.yaml:3: model.backbone.class_path must be a name"),
    (
        "model:\n  optimizer:\n    class_path: SGD\n    lr: 1",
        "bad.yaml:4: model.optimizer.lr: put the arguments of a class below init_args",
    ),
]


def test_light_answers_and_wrong_input_in_one_line_come_before_torch_is_imported(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "ampt").touch()  # no folder
    lines = [shlex.split(line) for line in (*LIGHT, *(line for line, _ in WRONG))]
    program = f"""
import sys
from mvrec.cli.main import main
for line in {lines!r}:
    try:
        main(line)
    except SystemExit as leaving:
        assert leaving.code == 2, line
    heavy = {{"torch", "lightning", "jsonargparse", "torchvision", "numpy", "av", "decord"}} & sys.modules.keys()
    assert not heavy, (line, heavy)
"""
    process = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    answers = process.stderr.splitlines()
    assert process.returncode == 0, process.stderr
    assert len(answers) == len(WRONG), process.stderr
    for (line, message), answer in zip(WRONG, answers, strict=True):
        assert message in answer, line


def test_a_wrong_file_is_one_line_with_file_and_line(tmp_path):
    config = tmp_path / "bad.yaml"
    for text, message in WRONG_FILES:
        config.write_text(text)
        with pytest.raises(UserError) as refused:
            check_early(["fit", "--config", "demo", "--config", str(config)])
        assert message in str(refused.value), text
        assert "\n" not in str(refused.value)


def test_what_only_other_classes_can_tell_is_left_for_later():
    for line in LEFT_FOR_LATER:
        check_early(shlex.split(line))


def test_every_shipped_configuration_passes():
    for config in (Path(__file__).parents[2] / "configs").glob("*.yaml"):
        start = ["--data.root=.", f"--model.weights={__file__}"] if config.stem == "finetune" else []
        check_early(["fit", "--config", str(config), *start])


@pytest.mark.parametrize("name", GENERATED)
def test_the_root_of_generated_data_need_not_exist(name, tmp_path):
    check_early(["fit", "--config", "demo", f"--data=mvrec.data.{name}", f"--data.root={tmp_path / 'new'}"])
    with pytest.raises(UserError, match="new' does not exist"):
        check_early(["fit", "--config", "demo", "--data=mvrec.data.VideoFolder", f"--data.root={tmp_path / 'new'}"])


def test_keys_of_a_library_of_another_version_are_left_for_later(monkeypatch):
    line = ["fit", "--config", "demo", "--trainer.new", "3", "--model.optimizer.new", "3"]
    with pytest.raises(UserError, match=r"trainer\.new"):
        check_early(line)
    monkeypatch.setattr(check, "is_installed", lambda library: False)
    check_early(line)
    with pytest.raises(UserError, match=r"data\.new"):
        check_early([*line, "--data.new", "3"])
