"""Every variant of the zoo as it is released: its names, and in the slow tests one pass at full size."""

import difflib

import pytest
import torch
from pinned_names import FOLDER, listed
from torch import nn
from zoo_builds import inputs

from mvrec.models import CloFormer, MViT, SGFormer, Shunted, create_model, list_models
from mvrec.models.backbone import Backbone

MIN_SIZES: dict[type[nn.Module], int] = {Shunted: 31, SGFormer: 17, CloFormer: 32, MViT: 32}
FORWARD_ONLY = ("mvit_v2_l_40x3",)  # backward takes four times as long, minutes on one core


def test_every_variant_has_its_file() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(list_models())


@pytest.mark.parametrize("name", list_models())
def test_names_of_weights_never_change(name: str) -> None:
    pinned = (FOLDER / f"{name}.txt").read_text().splitlines()
    changes = list(difflib.unified_diff(pinned, listed(name), "pinned", "now", lineterm="", n=0))
    assert not changes, "\n".join(changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_full_size_network_passes(name: str) -> None:
    model = create_model(name)
    x = inputs(model, 1)
    with torch.set_grad_enabled(name not in FORWARD_ONLY):
        logits = model.train(name not in FORWARD_ONLY)(x)
    assert logits.shape == (1, model.num_classes)
    assert logits.isfinite().all()
    assert logits.std() > 0
    if name not in FORWARD_ONLY:
        logits.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    check_other_sizes(model.eval())


@torch.no_grad()
def check_other_sizes(model: Backbone) -> None:
    """From the least size on, and with sides that no stride divides."""
    least = next(size for kind, size in MIN_SIZES.items() if isinstance(model, kind))
    frames = {"T": 1} if len(model.input_shape) == 4 else {}
    for h, w in ((least, least), (225, 70), (50, 250)):
        assert model(inputs(model, 1, H=h, W=w, **frames)).isfinite().all()
    with pytest.raises(ValueError, match=f"H, W of {least} or more"):
        model(inputs(model, 1, H=least - 1, W=least, **frames))
