"""Every variant of the zoo as it is released: its names, and in the slow tests one pass at full size."""

import difflib

import pytest
import torch
from pinned_names import FOLDER, listed
from zoo_builds import inputs

from mvrec.models import create_model, list_models

LEAST = {"shunted": 31, "sgformer": 17, "cloformer": 32, "mvit": 32}  # pixels per side
FORWARD_ONLY = ("mvit_v2_l_40x3",)  # backward takes four times as long, minutes on one core


def test_names_and_shapes_of_all_released_weights_are_the_pinned_ones() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(list_models())
    for name in list_models():
        pinned = (FOLDER / f"{name}.txt").read_text().splitlines()
        changes = list(difflib.unified_diff(pinned, listed(name), f"pinned {name}", "now", lineterm="", n=0))
        assert not changes, "\n".join(changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_full_size_network_learns_and_takes_sizes_from_the_least_on(name: str) -> None:
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
    least = LEAST[name.split("_")[0]]
    frames = {"T": 1} if len(model.input_shape) == 4 else {}
    with torch.no_grad():
        for h, w in ((least, least), (225, 70), (50, 250)):  # also sides that no stride divides
            assert model.eval()(inputs(model, 1, H=h, W=w, **frames)).isfinite().all()
        with pytest.raises(ValueError, match=f"H, W of {least} or more"):
            model(inputs(model, 1, H=least - 1, W=least, **frames))
