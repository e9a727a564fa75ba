"""The choice between plain and fast forms, with clocks that the test moves."""

import itertools
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode
from zoo_builds import BUILDS, quick_form

from mvrec.fast_forms import FAST, PLAIN, UNCLEAR, folder
from mvrec.models.fast import attention, choice, depthwise, gelu, operations, products
from mvrec.models.fast.choice import is_faster, measured, settle
from mvrec.runs.forms import agreed_forms, changed_forms

FLOAT = torch.float32


class Clock:
    """Seconds that only steps take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def step(self, *seconds: float) -> Callable[[], None]:
        """A step that takes these seconds, one after the other and again; the first is for the warm-up."""
        durations = itertools.chain(seconds[:1], itertools.cycle(seconds))

        def run() -> None:
            self.now += next(durations)

        return run


@pytest.mark.parametrize(
    ("plain", "fast", "expected"),
    [
        ((2.0,), (1.0,), FAST),
        ((1.0,), (2.0,), PLAIN),
        ((1.0,), (1.0,), PLAIN),
        ((1.2,), (1.0,), FAST),
        ((1.0, 3.0), (2.0,), UNCLEAR),
    ],
)
def test_faster_form_is_measured(plain, fast, expected):
    clock = Clock()
    assert measured(clock.step(*plain), clock.step(*fast), clock=clock) == expected


def test_load_during_the_first_series_is_measured_again():
    clock, calls = Clock(), []
    loaded = iter([1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0])

    def plain() -> None:
        calls.append(1)
        clock.now += next(loaded, 1.2)

    assert measured(plain, clock.step(1.0), clock=clock) == FAST
    assert len(calls) == 1 + choice.FIRST + 2 * choice.ROUNDS


@pytest.fixture
def measuring(tmp_path, monkeypatch) -> Iterator[list[str]]:
    """A new process with an empty cache, whose operations take no time; the names of those that it measures."""
    monkeypatch.setenv("MVREC_CACHE", str(tmp_path))
    monkeypatch.setenv(choice.SWITCH, "1")
    monkeypatch.setattr(choice, "_settled", {})
    names: list[str] = []
    forms = {"one": FAST, "another": PLAIN}
    table = {name: lambda name=name: (name, name) for name in forms}
    monkeypatch.setattr(choice, "_tables", [lambda dtype: table])
    monkeypatch.setattr(choice, "measured", lambda name, _, clock: names.append(name) or forms[name])
    return names


def new_process(monkeypatch) -> None:
    monkeypatch.setattr(choice, "_settled", {})


def test_forms_are_measured_once_per_machine(measuring, monkeypatch):
    assert [is_faster(name, FLOAT) for name in ("one", "another", "one")] == [True, False, True]
    assert measuring == ["one", "another"]
    new_process(monkeypatch)
    assert [is_faster(name, FLOAT) for name in ("one", "another")] == [True, False]
    assert len(measuring) == 2
    new_process(monkeypatch)
    next(folder().iterdir()).write_text("{")
    assert settle(FLOAT) == {"one": FAST, "another": PLAIN}
    assert len(measuring) == 4


def test_switched_off_nothing_is_measured_and_every_fast_form_runs(measuring, monkeypatch):
    monkeypatch.setenv(choice.SWITCH, "0")
    assert is_faster("another", FLOAT)
    assert measuring == []
    assert not folder().exists()


def test_forked_processes_and_loader_workers_measure_nothing(measuring, monkeypatch):
    for name, value in (("_main_process", os.getpid() + 1), ("get_worker_info", lambda: SimpleNamespace(id=0))):
        with monkeypatch.context() as patch:
            new_process(patch)
            patch.setattr(choice, name, value)
            assert settle(FLOAT) == {"one": PLAIN, "another": PLAIN}, name
            assert measuring == []
    settle(FLOAT)
    assert measuring == ["one", "another"]


def test_modes_and_random_numbers_of_the_caller_do_not_matter(measuring, monkeypatch):
    states = []

    def look(name, _, clock):
        states.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), type(torch.ones(1))))
        states.append(is_faster("one", FLOAT))  # an operation may use one above it
        return PLAIN

    monkeypatch.setattr(choice, "measured", look)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), FakeTensorMode(), torch.device("meta"):
        settle(FLOAT)
    assert states == [(True, False, torch.Tensor), True, (True, False, torch.Tensor), False]
    assert not getattr(choice._measuring, "forms", None)


def test_operation_that_fails_runs_in_its_plain_form(measuring, monkeypatch):
    def measured(name, _, clock):
        if name == "one":
            raise RuntimeError("not on this processor")
        return FAST

    monkeypatch.setattr(choice, "measured", measured)
    assert settle(FLOAT) == {"one": PLAIN, "another": FAST}


def test_products_are_told_apart_by_channels_and_rows():
    cases = [((2, 1024, 128), 0), ((2, 1024, 129), 1), ((1023, 64), 1)]
    assert [products.operation(torch.empty(shape), (0, 1)) for shape, _ in cases] == [place for _, place in cases]
    assert products.operation(torch.empty(1024, 64), (0, 1), 512) == 1  # the gradient of 512 outputs


def test_large_depthwise_kernels_on_many_channels_are_decided_apart(monkeypatch):
    monkeypatch.setattr(depthwise, "is_faster", lambda operation, dtype: operation == depthwise.WIDE)
    monkeypatch.setattr(depthwise, "is_emulated", lambda dtype: False)
    x = torch.empty(1, 8, 4, 4)  # channels come from the kernel, because callers differ in where theirs are
    slow = [
        depthwise.has_slow_backward(x, (channels, 1, size, size), 1, (0, 2, 2))
        for channels, size in ((1280, 5), (1281, 5), (1281, 9), (1281, 3))
    ]
    assert slow == [False, True, True, False]


def test_every_operation_has_two_forms_that_run_and_draw_nothing():
    state = torch.get_rng_state()
    names = set()
    for dtype in (FLOAT, torch.bfloat16):
        for name, build in operations.operations(dtype).items():
            names.add(name)
            for step in build():
                step()
    measured_names = {products.FEW, products.MANY, products.INPUT_OF_FEW, products.INPUT_OF_MANY, products.WEIGHTS}
    measured_names |= {*gelu.AFTER_PRODUCT, gelu.AFTER_CONVOLUTION}
    measured_names |= {products.POINTWISE, attention.FEW, attention.NARROW, attention.WIDE}
    assert names == measured_names | {
        depthwise.TIME,
        depthwise.LARGE,
        depthwise.LARGER,
        depthwise.WIDE,
        depthwise.STRIDED,
    }
    assert torch.equal(torch.get_rng_state(), state)
    assert operations.operations(torch.float64) == {}


# -- runs ----------------------------------------------------------------------------------------------------------


def trainer(rank: int, sent: list, precision: str = "32-true", device: str = "cpu") -> SimpleNamespace:
    def broadcast(value):
        sent.extend([value] if rank == 0 else [])
        return sent[0]

    strategy = SimpleNamespace(root_device=torch.device(device), broadcast=broadcast)
    return SimpleNamespace(strategy=strategy, is_global_zero=rank == 0, precision=precision)


@quick_form
def test_all_ranks_take_the_forms_of_rank_0(measuring, monkeypatch):
    network, sent = BUILDS["cloformer"](), []
    record = agreed_forms(trainer(0, sent), network)
    assert record == {"dtype": "float32", "threads": 1, "forms": {"one": FAST, "another": PLAIN}}
    new_process(monkeypatch)
    sent[0] = {"one": PLAIN, "another": FAST}
    assert agreed_forms(trainer(1, sent), network)["forms"] == sent[0]
    assert [is_faster(name, FLOAT) for name in ("one", "another")] == [False, True]
    assert len(measuring) == 2  # by rank 0
    assert agreed_forms(trainer(0, [], device="meta"), network) is None
    assert agreed_forms(trainer(0, []), torch.nn.Linear(3, 3)) is None


@quick_form
@pytest.mark.parametrize("emulated", [True, False])
def test_a_run_in_emulated_bf16_is_told_that_float32_is_faster(measuring, monkeypatch, caplog, emulated):
    monkeypatch.setattr("mvrec.runs.forms.is_emulated", lambda dtype: emulated and dtype == torch.bfloat16)
    agreed_forms(trainer(0, [], "bf16-mixed"), BUILDS["cloformer"]())
    warned = [record.message.split(":")[0] for record in caplog.records if record.levelname == "WARNING"]
    assert warned == ["this processor has no bf16"] * emulated


def test_other_forms_than_in_the_checkpoint_are_changes():
    before = {"dtype": "float32", "threads": 1, "forms": {"one": FAST, "another": PLAIN}}
    now = {"dtype": "float32", "threads": 2, "forms": {"one": FAST, "another": FAST, "new": FAST}}
    assert changed_forms(before, before) == changed_forms(None, now) == changed_forms(before, None) == []
    assert changed_forms(before, now) == [("threads", 1, 2), ("form of another", PLAIN, FAST)]
