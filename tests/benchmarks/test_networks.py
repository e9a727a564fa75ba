"""Comparing two networks: a difference ends the script, and the goal is about the fastest peer."""

import sys

import pytest
import torch
from torch import nn
from zoo_builds import BUILDS

from mvrec.models.fast.accelerate import PLAIN, SWITCH


@pytest.fixture(scope="module")
def image_networks(script):
    return script("image_networks")


@pytest.fixture
def comparing(image_networks):
    return sys.modules["networks.comparing"]


def test_other_logits_or_gradients_of_a_peer_are_an_error(comparing):
    build, images = BUILDS["cloformer"], torch.randn(1, 3, 64, 64)
    network, peer = build(), build.network(**build.arguments)
    assert comparing.assert_equal(network, peer, "pair", images) < 1e-5
    for message, change in (
        ("pair, logits", lambda out: out + 1e-4),
        ("pair, gradient for the clip", lambda out: out.detach() + 1.01 * (out - out.detach())),
    ):
        hook = peer.register_forward_hook(lambda network, inputs, out, change=change: change(out))
        with pytest.raises(AssertionError, match=message):
            comparing.assert_equal(network, peer, "pair", images)
        hook.remove()


def test_the_plain_peer_has_none_of_the_fast_modules(image_networks, monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    for name in ("shunted_t", "sgformer_s", "cloformer_xxs"):
        with torch.device("meta"):
            nets = image_networks.pair(name)
        for peer, network in nets.items():
            is_fast = any(type(module) in PLAIN for module in network.modules())
            assert is_fast is (peer == "mvrec"), name


def test_a_goal_is_held_against_the_fastest_peer(comparing, monkeypatch, capsys):
    seconds = {"mvrec": 1.0, "slow": 3.0, "fast": 2.0}
    nets = {name: nn.Identity() for name in seconds}
    times = {network: seconds[name] for name, network in nets.items()}
    monkeypatch.setattr(comparing, "step", lambda network, *_: (times[network], 5.0))
    comparing.measure("net", nets, torch.zeros(1), comparing.Row(train=False, bf16=True, goal={"net": 1.5}), 3)
    assert capsys.readouterr().out.splitlines() == [
        "| net | inference, bf16 | slow | 1 (5) | 3 (5) | 3.00 | 3.00 to 3.00 |  |",
        "| net | inference, bf16 | fast | 1 (5) | 2 (5) | 2.00 | 2.00 to 2.00 | 1.5 |",
    ]
