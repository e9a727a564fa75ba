"""Data, model and trainer of a shipped configuration, as `mvrec fit` makes them, up to where the run would begin."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mvrec.cli.lightning import MvrecCLI, MvrecParser
from mvrec.cli.main import main

ROOT = Path(__file__).parent.parent.parent
# The template for one's own data has no network before it is given weights.
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem != "finetune")
PUBLISHED = [path for path in CONFIGS if not path.stem.startswith("demo")]
SEGMENTERS = [path for path in PUBLISHED if path.stem.startswith("ade20k")]
ACTIONS = [path for path in PUBLISHED if path.stem.startswith("ava_")]
DETECTORS = [path for path in PUBLISHED if path.stem.startswith("coco_")]
RECIPES = [path for path in PUBLISHED if path not in (*SEGMENTERS, *ACTIONS, *DETECTORS)]  # of classifiers


class Built(Exception):  # noqa: N818 - not an error
    """Raised in place of going on."""


@contextlib.contextmanager
def one_parser() -> Iterator[None]:
    """Set up the command line's parser once per task: it is the same for every configuration of it."""
    setup_parser, parsers = MvrecCLI.setup_parser, {}

    def setup_once(self, *args, **kwargs):
        ready = parsers.setdefault(MvrecParser.task, {})
        if not ready:
            before = set(vars(self))
            setup_parser(self, *args, **kwargs)
            ready.update({name: value for name, value in vars(self).items() if name not in before})
        vars(self).update(ready)
        # The kind of data that one configuration names becomes the parser's default, and must not be the next one's.
        for parser in self._subcommand_parsers.values():
            parser.set_defaults({"data": None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MvrecCLI, "setup_parser", setup_once)
        yield


def stopped_at(method: str, *arguments: object) -> MvrecCLI:
    """Go through `mvrec fit` up to a method of the command line object, and return that object."""
    result: list[MvrecCLI] = []

    def stop(self: MvrecCLI, *args: object) -> None:
        result.append(self)
        raise Built

    with pytest.MonkeyPatch.context() as patch, torch.device("meta"), contextlib.suppress(Built):
        patch.setattr(MvrecCLI, method, stop)
        main(["fit", *map(str, arguments)])
    return result.pop()


def tiny_images(root: Path) -> list[str]:
    """Flags for `demo_images_mvit` by which it has two blocks and 20 images in a root of its own."""
    values: dict[str, object] = {f"model.backbone.{key}": "{1: 2}" for key in ("dim_mults", "head_mults", "q_strides")}
    values |= {"model.backbone.depth": 2, "model.backbone.embed_dim": 8, "trainer.max_epochs": 1}
    values |= {"data.images_per_class": 2, "data.val_images_per_class": 1, "data.test_images_per_class": 1}
    values |= {"data.root": root, "data.num_workers": 0}
    return [f"--{key}={value}" for key, value in values.items()]
