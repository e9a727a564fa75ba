"""The private names of jsonargparse, and its words, that mvrec relies on: an upgrade that changes them fails here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jsonargparse
import pytest
import torch
from jsonargparse import ArgumentParser

from mvrec.class_paths import reason
from mvrec.cli.config_check import Entry
from mvrec.cli.jsonargparse_private import change_types, with_deep_nulls
from mvrec.cli.parse_errors import explain
from mvrec.cli.trainer_arguments import whole_first


class Limits:
    def __init__(self, share: int | float = 1.0, number: int | float = 1.0) -> None:
        pass


def test_a_type_that_a_signature_has_given_can_be_changed():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Limits, "limits")
    change_types(parser, ["limits.number"], lambda kind: str)
    values = parser.parse_args(["--limits.share=2", "--limits.number=2"])
    assert values.limits.number == "2"
    assert values.limits.share == 2
    change_types(parser, ["limits.number"], lambda kind: whole_first(int | float))
    assert repr(parser.parse_args(["--limits.number=1"]).limits.number) == "1"


class Base:
    pass


class Needy(Base):
    def __init__(self, monitor: str, depth: int = 3) -> None:
        if depth < 0:
            raise ValueError(f"depth {depth} is too little")


def take(
    number: int = 1,
    precision: Literal["16", "32"] | None = None,
    base: Base | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
) -> None:
    pass


@pytest.fixture
def parser(monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # as our command line does
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(take)
    return parser


def test_what_it_says_of_a_value_becomes_one_plain_line(parser):
    for argument, answer in (
        ("--number=x", "--number: 'x' is not a whole number"),
        ("--precision=fp", "--precision: 'fp' is not one of '16', '32' or null"),
        ("--base=os.nothing", "--base: os has no 'nothing'"),
        ("--base=nowhere.Base", "--base: nowhere.Base cannot be imported"),
        ("--optimizer=os.system", "--optimizer: os.system is no Optimizer"),
        ("--number", "--number needs a value"),
    ):
        flag, _, value = argument.partition("=")
        with pytest.raises(jsonargparse.ArgumentError) as raised:
            parser.parse_args([argument])
        line = explain(str(raised.value), [Entry(flag.lstrip("-"), value, flag)])
        assert "\n" not in line
        assert answer in line


def test_what_a_class_says_of_its_arguments_comes_out_of_the_pages_around_it(parser):
    values = parser.parse_args([f"--base={__name__}.Needy", "--base.monitor=x", "--base.depth=-1"])
    with pytest.raises(ValueError, match="depth -1") as raised:
        parser.instantiate_classes(values)
    assert reason(raised.value).endswith("depth -1 is too little")


@dataclass
class Clip:
    fps: float | None = 15.0
    frames: int = 8


class Sampled(Base):
    def __init__(self, clip: Clip = Clip(), scales: dict[str, list[int | None]] | None = None) -> None:  # noqa: B008
        pass


def test_null_deep_below_a_class_is_null_as_in_a_file(parser):
    base = f"--base={__name__}.Sampled"
    for deep in (["--base.clip.fps=null"], ["--base.clip.fps", "~"], ["--base.init_args.clip.fps=null"]):
        arguments = [base, "--base.clip.frames=4", *deep, "--base.clip.frames", "2"]
        clip = parser.parse_args(with_deep_nulls(parser, arguments)).base.init_args.clip
        assert (clip.fps, clip.frames) == (None, 2), deep
    same = [base, "--precision=null", "--base.clip.fps", "4", "--base", "null", "--base.scales={a: [null]}"]
    assert with_deep_nulls(parser, same) == same
