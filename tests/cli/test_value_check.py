"""Ranges of numbers, and where a wrong one stands."""

import pytest

from mvrec.cli.config_check import Entry, check_keys
from mvrec.cli.value_check import check_values
from mvrec.errors import UserError


def refused(key: str, value: str, where: str = "run.yaml:3") -> str:
    entries = [Entry("data", "VideoFolder", "run.yaml:2"), Entry(key, value, where)]
    with pytest.raises(UserError) as raised:
        check_values(entries, check_keys(["data", key], entries, defaults={}))
    return str(raised.value)


def test_a_number_out_of_range_names_place_key_range_and_value():
    assert refused("trainer.val_check_interval", "0") == (
        "run.yaml:3: trainer.val_check_interval must be above 0, got 0"
    )
    assert refused("data.batch_size", "0", "--data.batch_size") == "--data.batch_size must be at least 1, got 0"
    assert refused("data.num_workers", "-1") == "run.yaml:3: data.num_workers must lie in 0..4096, got -1"
    assert "must lie in 0..1 and be below 1, got 1" in refused("model.label_smoothing", "1")
    assert "must lie in 1..2147483647, got 1e12" in refused("data.batch_size", "1e12")
    assert "must be above 0, got .nan" in refused("trainer.val_check_interval", ".nan")


def test_a_file_where_a_name_belongs_is_not_read(tmp_path):
    path = tmp_path / "cpu"
    path.write_text("secret")
    message = refused("trainer.accelerator", str(path))
    assert "must be a name or a number" in message
    assert "secret" not in message


def test_whatever_yaml_reads_as_null_is_null():
    expected = "run.yaml:3: data.batch_size must not be null, it must be at least 1"
    for value in ("null", "Null", "NULL", "~", "", "&a", "# 9"):
        assert refused("data.batch_size", value) == expected, value


def test_a_kind_of_data_that_does_not_exist_is_said_before_its_arguments_are():
    assert "one of ADE20K, AVA, COCO, Charades, Cityscapes" in refused("data", "open_video")  # no kind of data
    assert refused("data", "-1", "--data") == "--data must be a class such as VideoFolder, got '-1'"
