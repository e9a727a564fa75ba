"""The decisions of a plan, on files and machines of any kind."""

import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.errors import UserError
from mvrec.plan import plan as module
from mvrec.plan.findings import Findings
from mvrec.plan.machine import Machine, this_machine
from mvrec.plan.media import Media
from mvrec.plan.plan import make_plan
from mvrec.plan.text import Resolved, lines_of
from mvrec.runs.weights_origin import StartingPoint

CPU, GPU = Machine(2), Machine(16, "A100", 80.0, 4)
CLIPS = Media(sizes=((320, 240), (640, 480)), seconds=(4.0, 6.0), rates=(25.0, 25.0))


def planned(monkeypatch, *, kind=VIDEOS, files=24, machine=CPU, media=CLIPS, names="ab", start=None, **overrides):
    counts = {name: files // len(names) for name in names}
    findings = Findings(
        *(Path("x"), kind, "class folders", False, 0.2, {"train": counts, "val": counts}),
        *({"train": files, "val": files}, False, True, media, ()),
    )
    monkeypatch.setattr(module, "look", lambda root, kind, **options: findings)
    monkeypatch.setattr(module, "kind_of", lambda root: kind)
    monkeypatch.setattr(module, "this_machine", lambda *, accelerator: machine)
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    return make_plan(Path("x"), values, start=start)


def test_network_and_input_fit_the_machine_and_the_files(monkeypatch):
    plan = planned(monkeypatch)
    assert plan.network.node["class_path"] == "mvrec.models.MViT"
    assert plan.value("data.size") == 96
    assert plan.value("data.clip") == {"num_frames": 8, "stride_frames": 6, "target_fps": 25.0}
    assert plan.value("data.test_views") == {"num_clips": 2, "short_side": 110}
    assert planned(monkeypatch, machine=GPU).value("data.clip")["num_frames"] == 16
    assert planned(monkeypatch, machine=GPU, files=90_000).network.name == "mvit_v2_s_16x4"
    assert planned(monkeypatch, kind=IMAGES).network.name == "cloformer_xxs"
    assert planned(monkeypatch, kind=IMAGES, media=Media(sizes=((28, 28),))).value("data.size") == 32
    assert planned(monkeypatch, media=Media()).value("data.clip")["stride_frames"] == 7  # nothing could be read


def test_a_short_video_is_seen_whole_and_mixed_rates_get_a_common_one(monkeypatch):
    media = Media(sizes=((64, 64),), seconds=(0.4,), rates=(24.0, 60.0))
    plan = planned(monkeypatch, media=media)
    assert plan.value("data.clip") == {"num_frames": 8, "stride_frames": 1, "target_fps": 30.0}
    assert plan.value("data.val_views") == {"num_clips": 1, "short_side": 64}


def test_a_size_or_end_that_the_user_sets_goes_before_the_plan(monkeypatch):
    plan = planned(monkeypatch, model__backbone__num_frames="12", data__size="80")
    assert plan.value("data.clip")["num_frames"] == 12
    assert plan.value("data.size") == 80
    assert planned(monkeypatch, trainer__max_steps="50").value("trainer.max_epochs") is None
    warmup = planned(monkeypatch).value("model.schedule.warmup_epochs")
    epochs = planned(monkeypatch).value("trainer.max_epochs")
    changed = planned(monkeypatch, trainer__max_epochs=str(2 * epochs))
    assert changed.value("model.schedule.warmup_epochs") == pytest.approx(2 * warmup, abs=0.1)
    few_steps = planned(monkeypatch, trainer__max_steps="6")
    assert 0 < few_steps.value("model.schedule.warmup_epochs") < warmup / 2


def test_classes_that_a_mirror_changes_are_not_flipped(monkeypatch):
    flipped = [names for names in (["cat", "dog"], ["cat", "go_left"], ["six", "seven"])
               if planned(monkeypatch, names=names).value("data.augment")["flip_probability"]]  # fmt: skip
    assert flipped == [["cat", "dog"]]


def test_few_files_take_one_of_several_gpus_unless_processes_are_launched(monkeypatch):
    launched = Machine(16, "A100", 80.0, 4, is_launched=True)
    assert planned(monkeypatch, machine=GPU).value("trainer.devices") == 1
    assert planned(monkeypatch, machine=GPU, files=90_000).value("trainer.devices") is None
    assert planned(monkeypatch, machine=launched).value("trainer.devices") is None


def test_layers_decay_with_weights_alone_which_decide_network_and_size(monkeypatch):
    node = {"class_path": "mvrec.data.VideoFolder", "init_args": {"size": 224}}
    start = StartingPoint({"class_path": "mvrec.models.mvit_b_16x4"}, node, "a.pth: mvit_b_16x4, 400 classes", {}, None)
    plan = planned(monkeypatch, start=start)
    assert (plan.value("model.layer_decay"), planned(monkeypatch).value("model.layer_decay")) == (0.9, 1.0)
    assert plan.value("data.size") is plan.value("model.backbone") is plan.network is None
    with pytest.raises(UserError, match=r"holds images, and a\.pth: mvit_b_16x4 is a network for videos"):
        planned(monkeypatch, start=start, kind=IMAGES)
    start = start._replace(data={"class_path": "mvrec.data.ObjectFolder", "init_args": {}})
    with pytest.raises(UserError, match=r"holds images, and a\.pth: mvit_b_16x4 is a network for objects in images"):
        planned(monkeypatch, start=start, kind=IMAGES)


def test_choices_become_defaults_whose_arguments_a_later_choice_replaces(monkeypatch):
    defaults = planned(monkeypatch).defaults()
    assert defaults["data"]["class_path"] == "mvrec.data.VideoFolder"
    assert {"val_fraction", "size", "clip", "batch_size"} <= defaults["data"]["init_args"].keys()
    assert defaults["model.backbone"]["init_args"]["embed_dim"] == 32
    assert defaults["trainer.max_epochs"] > 1
    assert planned(monkeypatch).defaults() == defaults


def test_the_lines_say_what_is_unreadable_what_is_cut_and_for_how_many_files_a_rate_is(monkeypatch):
    set_values = {"data.size": 96, "data.clip.num_frames": 8, "data.clip.stride_frames": 1, "data.batch_size": 4}
    set_values |= {"model.optimizer": {"init_args": {"lr": 0.008}}, "model.layer_decay": 1.0}
    set_values |= {"model.lr_reference_batch": 64, "trainer.max_epochs": 2, "trainer.accumulate_grad_batches": 2}

    def lines(plan, **more):
        values = set_values | more
        run = Resolved(values.get, frozenset(), "MViT", 5, None, 1, "runs/x")
        return {line.split(maxsplit=1)[0]: line for line in lines_of(plan, run)}

    wide = lines(planned(monkeypatch, media=replace(CLIPS, unreadable=("a.mp4", "b.mp4"))))
    assert "24 train (12 of a class), 24 val (12 of a class), of which at least 2 cannot be read, by a" in wide["split"]
    assert "without the ends of the long side  [--data.clip.num_frames 8 --data.size 96 --data.t" in wide["input"]
    assert "AdamW with 0.001 per step of 8 (0.008 for 64), layer decay 1" in wide["rate"]
    assert "ends" not in lines(planned(monkeypatch), **{"data.test_views.num_crops": 3})["input"]
    square = lines(planned(monkeypatch, media=Media(sizes=((80, 70),))), **{"model.lr_reference_batch": None})
    assert "ends" not in square["input"]
    assert "cannot be read" not in square["split"]
    assert "AdamW with 0.008, layer decay 1" in square["rate"]
    group = {"model.schedule.warmup_epochs": Namespace(scale=8.0, source="input")}
    assert "schedule.warmup_epochs (scale 8, source input)" in lines(planned(monkeypatch), **group)["besides"]


def test_a_machine_without_gpu_is_its_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    machine = this_machine(accelerator="cpu", environ={"SLURM_CPUS_PER_TASK": "3", "WORLD_SIZE": "2"})
    assert (machine.cores, machine.is_launched, machine.describe()) == (3, True, "3 processor cores, no GPU")
