"""`options.json`, which the command line checks against before it imports what the options belong to."""

from mvrec.cli.options import class_options, command_options, options
from mvrec.cli.options.make import make_options


def test_file_equals_the_parsers_and_signatures():
    made, renew = make_options(), "python -m mvrec.cli.options.make writes it anew"
    for part in ("versions", "commands", "classes"):
        assert options()[part].keys() == made[part].keys(), renew
        for name, row in made[part].items():
            assert options()[part][name] == row, f"{name}: {renew}"


def test_keys_are_those_of_the_command():
    fit, test = command_options("fit"), command_options("test")
    assert "verbose" in test
    assert "verbose" not in fit
    assert fit["trainer.max_epochs"]["kinds"] == ["int", "null"]
    assert fit["run_dir"]["default"] is None


def test_rows_of_a_class_hold_parents_arguments_and_those_of_dataclasses():
    rows = class_options("mvrec.data.VideoFolder")
    assert rows["root"]["required"]
    assert rows["val_fraction"]["default"] == 0.1
    assert rows["clip.num_frames"]["kinds"] == ["int"]
    assert rows["decoder"]["choices"][0] == "auto"
    assert class_options("my_models.Net") is None
