"""Settings from the number of files: real options, with many files those of the recipe."""

import itertools
import json
from pathlib import Path

import pytest
import yaml

import mvrec.cli.options
from mvrec.plan.learning import learning
from mvrec.recipes import find_config

COUNTS = (1, 2, 5, 10, 20, 40, 80, 120, 199, 200, 500, 1_000, 5_000, 20_000, 100_000, 240_000)


def settings(num_train, *, num_classes=4, has_weights=True, is_video=True):
    choices = learning(
        num_train=num_train, num_classes=num_classes, has_weights=has_weights, noun="video" if is_video else "image"
    )
    assert len({choice.key for choice in choices}) == len(choices)
    assert all(choice.reason for choice in choices)
    return {choice.key: choice.value for choice in choices}


def rate(options):
    return (
        options["model.optimizer"]["init_args"]["lr"] * options["data.batch_size"] / options["model.lr_reference_batch"]
    )


def test_many_files_get_the_settings_of_the_recipe():
    recipe = yaml.safe_load(Path(find_config("finetune")).read_text(encoding="utf-8"))
    options = settings(240_000, num_classes=400)
    assert (options.pop("model.mixing"), options.pop("model.freeze")) == (None, 0)  # as where a recipe has neither
    assert options.pop("trainer.check_val_every_n_epoch") == 1  # as by default
    assert not {"mixing", "freeze"} & recipe["model"].keys()
    for key, value in options.items():
        node = recipe
        for name in key.replace("data.", "data.init_args.").split("."):
            node = node[name]
        assert node == value, key


def test_more_files_mean_fewer_epochs_lower_rates_and_more_smoothing():
    for before, after in itertools.pairwise(map(settings, COUNTS)):
        assert after["trainer.max_epochs"] <= before["trainer.max_epochs"]
        assert rate(after) <= 1.01 * rate(before)  # the rate is written with three digits
        assert after["model.layer_decay"] <= before["model.layer_decay"]
        assert after["model.label_smoothing"] >= before["model.label_smoothing"]
        assert after["data.batch_size"] >= before["data.batch_size"]


@pytest.mark.parametrize("num_train", [1, 10, 100, 1_000, 240_000])
def test_random_weights_learn_for_longer_and_have_no_layer_decay(num_train):
    untrained, trained = settings(num_train, has_weights=False), settings(num_train)
    assert untrained["model.layer_decay"] == 1.0 > trained["model.layer_decay"]
    longer = untrained["trainer.max_epochs"] - trained["trainer.max_epochs"]
    assert longer > 0 if 10 <= num_train <= 1_000 else longer == 0  # 1 file: the most there are


def test_every_key_is_an_option_of_the_command_line():
    file = json.loads(Path(mvrec.cli.options.__file__).with_name("options.json").read_text(encoding="utf-8"))
    keys = {*file["commands"], *(f"data.{key}" for key in file["classes"]["mvrec.data.VideoFolder"])}
    for has_weights in (True, False):
        assert settings(40, has_weights=has_weights).keys() - {"model.optimizer"} <= keys
