"""Modules that run when they are used: the mechanism on made-up packages, and then on the libraries it is for."""

import importlib
import subprocess
import sys
import threading

import pytest

from mvrec.cli import late_imports
from mvrec.cli.late_imports import Deferred, LateClass, LateFinder, Placeholder

TEXTS = {
    "__init__": "from heavy import inner, other\nvalue = inner.value\nclass Kind: pass\n",
    **{"inner": "value = 3\n", "other": "", "light": ""},
}
LOG = "import time\nnames = []\ndef ran(name):\n    time.sleep(0.01)\n    names.append(name)\n"


@pytest.fixture
def heavy(tmp_path, monkeypatch):
    """The log of what has run of a deferred package."""
    (tmp_path / "heavy").mkdir()
    for name, text in TEXTS.items():
        log = f"import heavy_log\nheavy_log.ran({name.replace('__init__', 'heavy')!r})\n"
        (tmp_path / f"heavy/{name}.py").write_text(log + text)
    (tmp_path / "heavy_log.py").write_text(LOG)
    deferred = {"heavy": Deferred(answers={"Kind": lambda: LateClass("heavy", "Kind")}, early=("light",))}
    monkeypatch.setattr(late_imports, "DEFERRED", deferred)
    monkeypatch.setattr(late_imports, "LOCKS", {"heavy": threading.RLock()})
    monkeypatch.setattr(sys, "meta_path", [LateFinder(), *(f for f in sys.meta_path if type(f) is not LateFinder)])
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("heavy_log").names
    for name in [name for name in sys.modules if name.partition(".")[0] in ("heavy", "heavy_log")]:
        del sys.modules[name]


def test_a_placeholder_runs_once_at_the_first_attribute_and_stays_the_same_module(heavy):
    module = importlib.import_module("heavy")
    assert (type(module), heavy) == (Placeholder, [])
    assert not hasattr(module, "__wrapped__")  # as inspection asks of all modules
    assert heavy == []
    assert module.value == 3
    assert heavy == ["heavy", "inner", "other"]
    assert sys.modules["heavy"] is module
    assert not isinstance(module, Placeholder)
    assert module.__spec__.loader.get_source("heavy").endswith(TEXTS["__init__"])
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = module.missing


def test_a_package_runs_before_modules_below_it_and_none_runs_twice(heavy):
    inner = importlib.import_module("heavy.inner")
    assert heavy == ["heavy", "inner", "other"]
    assert inner is sys.modules["heavy"].inner
    assert inner.__spec__.name == "heavy.inner"
    assert importlib.reload(inner) is inner
    assert heavy == ["heavy", "inner", "other", "inner"]


def test_early_modules_and_answers_leave_the_package_alone(heavy):
    importlib.import_module("heavy.light")
    kind = importlib.import_module("heavy").Kind
    assert not isinstance(3, kind)
    assert heavy == ["light"]
    assert type(kind()) is sys.modules["heavy"].Kind
    assert isinstance(kind(), kind)

    class Own(kind):
        pass

    assert Own.__mro__[1] is sys.modules["heavy"].Kind


def test_an_error_of_the_module_is_raised_at_each_use(heavy, tmp_path):
    text = "import heavy_log\nheavy_log.ran('wrong')\nraise OSError('no disk')"
    (tmp_path / "heavy" / "__init__.py").write_text(text)
    module = importlib.import_module("heavy")
    for _ in range(2):
        with pytest.raises(OSError, match="no disk"):
            _ = module.value
    assert heavy == ["wrong", "wrong"]


def test_threads_wait_until_the_module_is_whole(heavy):
    module, values = importlib.import_module("heavy"), []
    threads = [threading.Thread(target=lambda: values.append(module.value)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert values == [3] * 8
    assert heavy == ["heavy", "inner", "other"]


IMPORTS = """
import sys
import mvrec.cli.lightning
from mvrec.cli.late_imports import DEFERRED, Placeholder

def waiting(name):
    return isinstance(sys.modules.get(name), Placeholder) or name not in sys.modules

assert all(waiting(name) for name in DEFERRED), [name for name in DEFERRED if not waiting(name)]
for name in ("matplotlib", "scipy", "triton", "torch._inductor", "torchvision", "sympy", "torch.distributed.fsdp"):
    assert name not in sys.modules, name

import torch
weight = torch.nn.Parameter(torch.ones(2))
optimiser = torch.optim.AdamW([weight], lr=0.1)
weight.grad = torch.ones(2)
optimiser.step()
optimiser.zero_grad()
assert waiting("torch._dynamo"), "an optimiser's step"

from mvrec.data.views import pixel_operations
pixel_operations.resize(torch.zeros(3, 4, 4), [2, 2])
assert waiting("torchvision.ops")
assert waiting("torchvision.models")
"""
USES = """
import torchmetrics
from lightning.fabric.wrappers import OptimizedModule
assert waiting("torchmetrics")
from torchmetrics.classification import BinaryAccuracy
assert issubclass(BinaryAccuracy, torchmetrics.Metric)
assert not waiting("torchmetrics")
assert BinaryAccuracy()(torch.tensor([1, 0]), torch.tensor([1, 1])) == 0.5

from torchvision.transforms import v2
assert v2.RandAugment and v2.functional.resize is pixel_operations.resize
import torchvision
assert torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5).tolist() == [0]
assert "swin_t" in torchvision.models.list_models()

from mvrec.models import cloformer_xxs
from mvrec.models.macs import count_macs
assert count_macs(cloformer_xxs(), (3, 32, 32)) > 0

network = torch.nn.Linear(2, 2)
compiled = torch.compile(network, backend="eager")
assert isinstance(compiled, OptimizedModule) and not isinstance(network, OptimizedModule)
assert torch.equal(compiled(torch.ones(1, 2)), network(torch.ones(1, 2)))
import torch._dynamo.config as config
assert config is torch._dynamo.config and sys.modules["torch._dynamo"] is torch._dynamo
assert type(torch._dynamo.OptimizedModule) is type
assert issubclass(type(compiled), torch._dynamo.OptimizedModule)
weight.grad = torch.ones(2)
optimiser.step()
"""


@pytest.mark.parametrize("program", [IMPORTS, pytest.param(IMPORTS + USES, marks=pytest.mark.slow)], ids=["", "uses"])
def test_imports_of_fit_and_a_step_of_an_optimiser_leave_out_the_heavy_modules_until_they_are_used(program):
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
