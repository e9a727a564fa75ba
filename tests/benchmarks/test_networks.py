"""The plain forms that our image networks are measured beside, and how two networks are compared."""

import gc
import os
import sys
import weakref
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from mvrec.models.fast.accelerate import PLAIN, SWITCH

ROOT = Path(__file__).resolve().parents[2]
quick_form = pytest.mark.skipif(os.environ.get(SWITCH) == "1", reason="networks are plain")


@pytest.fixture(scope="module")
def image_networks() -> ModuleType:
    """benchmarks/image_networks.py; its folder is on the path only while it is imported, as other scripts lie there."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import image_networks  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return image_networks


@pytest.fixture
def comparing(image_networks: ModuleType) -> ModuleType:
    return sys.modules["networks.comparing"]


@pytest.mark.parametrize("name", ["shunted_t", "sgformer_s", "cloformer_xxs"])
def test_the_plain_form_is_the_same_network(image_networks: ModuleType, comparing: ModuleType, name: str) -> None:
    nets = image_networks.pair(name)
    assert comparing.assert_equal(nets["mvrec"], nets["plain"], name, torch.randn(1, 3, 224, 224), atol=1e-2) < 1e-2


@quick_form
@pytest.mark.parametrize("name", ["shunted_t", "sgformer_s", "cloformer_xxs"])
def test_the_plain_form_has_nothing_of_ours_that_is_fast(image_networks: ModuleType, name: str) -> None:
    with torch.device("meta"):
        nets = image_networks.pair(name)
    kinds = {who: {type(module) for module in network.modules()} for who, network in nets.items()}
    assert kinds["mvrec"] & set(PLAIN)
    assert not kinds["plain"] & set(PLAIN)


@pytest.mark.parametrize("what", ["value", "gradient"])
def test_a_difference_is_an_error(image_networks: ModuleType, comparing: ModuleType, what: str) -> None:
    """Be it of a value, or of a gradient only."""
    nets = image_networks.pair("cloformer_xxs")

    def changed(network: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out + 1e-4 if what == "value" else out.detach() + 1.01 * (out - out.detach())

    nets["plain"].register_forward_hook(changed)
    with pytest.raises(AssertionError, match="pair, logits" if what == "value" else "pair, gradient for the clip"):
        comparing.assert_equal(nets["mvrec"], nets["plain"], "pair", torch.randn(1, 3, 64, 64))


def test_what_a_step_keeps_is_counted_once_and_freed(comparing: ModuleType) -> None:
    network = nn.Sequential(nn.Linear(10, 20), nn.Sigmoid(), nn.Linear(20, 5), nn.Sigmoid())
    outputs: list[weakref.ref[Tensor]] = []
    network[1].register_forward_hook(lambda *call: outputs.append(weakref.ref(call[2])))
    kept = comparing.kept_bytes(network, torch.randn(100, 10), bf16=False)
    assert kept == 4 * 100 * (20 + 5)  # the outputs of the two sigmoids; the second layer keeps the first one's, too
    gc.collect()
    assert [output() for output in outputs] == [None]


def test_the_goal_is_about_the_fastest_peer(
    comparing: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = {"mvrec": 1.0, "slow": 3.0, "fast": 2.0}
    nets = {who: nn.Identity() for who in seconds}
    monkeypatch.setattr(comparing, "step", lambda network, *_: (seconds[who_is[network]], 5.0))
    who_is = {network: who for who, network in nets.items()}
    row = comparing.Row(train=False, bf16=True, goal={"net": 1.5})
    record = comparing.measure("net", nets, torch.zeros(1), row, 3)
    assert (record["slow"], record["fast"]) == (3.0, 2.0)
    comparing.measure("net", nets, torch.zeros(1), row, 3, what="compiled", against="slow")
    assert capsys.readouterr().out.splitlines() == [
        "| net | inference, bf16 | slow | 1 (5) | 3 (5) | 3.00 | 3.00 to 3.00 |  |",
        "| net | inference, bf16 | fast | 1 (5) | 2 (5) | 2.00 | 2.00 to 2.00 | 1.5 |",
        "| net | compiled | slow | 1 (5) | 3 (5) | 3.00 | 3.00 to 3.00 | 1.5 |",
        "| net | compiled | fast | 1 (5) | 2 (5) | 2.00 | 2.00 to 2.00 |  |",
    ]
