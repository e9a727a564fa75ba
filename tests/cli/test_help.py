"""`--help` of `fit`, `validate`, `test` and `predict`: the common keys, a topic, a class."""

import inspect

import pytest
import torch

from mvrec.cli.help.hints import NAMES_ELSEWHERE
from mvrec.cli.help.pages import help_page
from mvrec.cli.help.rows import TASK_DEFAULTS, command_rows
from mvrec.cli.help.short import ALL, common_keys
from mvrec.errors import UserError
from mvrec.tasks import Task


def page(*arguments: str, command: str = "fit") -> str:
    text = help_page(command, arguments)
    assert text is not None
    return text


def test_the_short_help_fits_on_two_screens_names_keys_that_exist_and_says_how_to_see_the_rest():
    for command in ALL:
        lines = page("--help", command=command).splitlines()
        assert len(lines) <= 70
        assert max(map(len, lines)) <= 120
        keys = set(common_keys(command)) - {"config", "print_config"}
        assert keys <= set(command_rows(command, {}))
        assert all(any(line.startswith(f"  --{key} ") for line in lines) for key in keys), command
    text = page("--help")
    for part in ("--data.batch_size N", "[8]", "--model.optimizer.lr RATE", "[0.001]", "--help all", "data.Kinetics"):
        assert part in text


def test_defaults_of_the_optimiser_are_those_of_the_task():
    make = inspect.signature(Task.__init__).parameters["optimizer"].default
    optimizer = make([torch.zeros(1, requires_grad=True)])
    values = {"": type(optimizer).__name__, **{f".{name}": optimizer.defaults[name] for name in ("lr", "weight_decay")}}
    assert {f"model.optimizer{end}": value for end, value in values.items()} == TASK_DEFAULTS


def test_hints_name_keys_that_exist():
    rows = command_rows("fit", {"model.optimizer": "SGD"})
    groups = {key.rpartition(".")[0] for key in (*rows, "model.mixing.mixup_alpha")}
    missing = {key for key in NAMES_ELSEWHERE if key not in rows and key not in groups} - {"config"}
    assert {key for key in missing if key.rpartition(".")[0] not in rows} == set()


def test_a_topic_shows_its_keys_with_types_defaults_and_meanings():
    for line, *parts in (
        ("--help all", "--trainer.devices ", "--data.augment.rand_augment.magnitude ", "--checkpoint.save_top_k "),
        ("--help=trainer", "--trainer.max_epochs int|null  (default: null)"),
        ("--help data.augment", "--data.augment.flip_probability float  (default: 0.5)", "Charades"),
        ("--help data.Kinetics", "--data.layout auto|lists|folders|cvdf|opendatalab  (default: auto)"),
        ("--data.help VideoFolder", "the keys of mvrec.data.VideoFolder", "--data.val_fraction float"),
        ("--data.help=mvrec.data.UCF101", "the keys of mvrec.data.UCF101", "--data.split "),
        ("--data ImageFolder --help data.size", "images that the model sees", "those of ImageFolder"),
        ("--help model.backbone", "--model.backbone.pooling conv|max|avg", "shunted_s"),
        ("--help model.backbone.shunted_t", "the keys of mvrec.models.shunted_t"),
        ("--help data.images_per_class", "of mvrec.data.DigitImages"),
        ("--help lr", "--model.optimizer.lr "),
    ):
        text = page(*line.split())
        assert [part for part in parts if part not in text] == [], line


def test_an_unknown_topic_names_the_nearest_key_and_the_class_of_a_user_is_left_to_its_module():
    with pytest.raises(UserError, match=r"no key or group 'data.augmnt'; did you mean 'data.augment'\? \(--help all"):
        page("--help", "data.augmnt")
    assert help_page("fit", ["--data.help", "my_data.Mine"]) is None
    assert help_page("fit", ["--data", "VideoFolder"]) is None
