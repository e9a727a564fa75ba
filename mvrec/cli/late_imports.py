"""Heavy modules that Lightning, torchmetrics and torchvision import, and mvrec rarely uses, run when they are used.

Importing Lightning imports torchmetrics with all its metrics, these import torchvision with its networks, matplotlib
and scipy, and torchvision's operations import torch._dynamo. Together that is two thirds of the CPU time of the imports
of `mvrec fit`. After `install`, the modules in `DEFERRED` begin as placeholders. The code of a module runs in its
placeholder, once, when somebody asks for an attribute or imports a module below it. So everybody sees the same module,
before and after.

`importlib.util.LazyLoader` is the same but for three things that packages need: a placeholder answers a few names
early; some modules below it can be imported early; a module that its package has imported meanwhile does not run twice.
"""

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any, NamedTuple


class Deferred(NamedTuple):
    """The part of a deferred module that is known before its code has run.

    Attributes:
        answers: Names that do not need its code, with functions that give their values.
        early: Modules below it that can be imported before its code has run, each with those below itself.
    """

    answers: Mapping[str, Callable[[], Any]] = {}
    early: Sequence[str] = ()


class Placeholder(ModuleType):
    """A module whose code has not run."""

    def __getattr__(self, name: str) -> Any:
        answers = DEFERRED[self.__name__].answers
        if name in answers and not has_begun(self.__name__):
            return answers[name]()
        if name.startswith("__") and name not in ("__all__", "__version__"):  # inspection of all modules asks for these
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if run(self.__name__):
            return getattr(self, name)
        raise AttributeError(f"partially initialized module {self.__name__!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        run(self.__name__)
        return sorted(vars(self))


_running: set[str] = set()  # modules whose code runs now


def has_begun(name: str) -> bool:
    """Return whether the code of a deferred module runs in this thread or has run, after any other thread is done."""
    with LOCKS[name]:
        return name in _running or not isinstance(sys.modules.get(name), Placeholder)


def run(name: str) -> bool:
    """Run the code of a deferred module unless it has run; return False while it runs in this thread."""
    with LOCKS[name]:  # other threads wait here until the module is whole
        module = sys.modules[name]
        if name in _running:
            return False
        if not isinstance(module, Placeholder):
            return True
        spec = module.__spec__
        assert spec is not None
        late = spec.loader
        assert isinstance(late, PlaceholderLoader)
        _running.add(name)
        try:
            spec.loader = module.__loader__ = late.loader
            late.loader.exec_module(module)
        except BaseException:
            spec.loader = module.__loader__ = late
            raise
        finally:
            _running.remove(name)
        module.__class__ = ModuleType  # type: ignore[assignment]
        return True


class PlaceholderLoader(Loader):
    """Makes a placeholder, and keeps the loader that runs its code."""

    def __init__(self, loader: SourceFileLoader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a placeholder."""
        return Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the code for later."""


class LoadedLoader(Loader):
    """Gives a module that exists: its package has imported it while Python was looking for it."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own specification back."""
        module.__spec__ = self.spec


class LateFinder(MetaPathFinder):
    """Defers the modules in `DEFERRED`, and runs a deferred package before a module below it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that is to be deferred, by Python's other finders; return `None` for all others."""
        if target is not None:  # to be loaded again
            return None
        package = fullname.rpartition(".")[0]
        while package:
            if _runs_first(package, fullname) and run(package) and fullname in sys.modules:
                # Of a module that is there by now, Python would take the specification and run it again.
                return ModuleSpec(fullname, LoadedLoader(sys.modules.pop(fullname)))
            package = package.rpartition(".")[0]
        return _deferred_spec(fullname, path) if fullname in DEFERRED else None


def _runs_first(package: str, fullname: str) -> bool:
    if package not in DEFERRED or has_begun(package):
        return False
    return not any(f"{fullname}.".startswith(f"{package}.{name}.") for name in DEFERRED[package].early)


def _deferred_spec(fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if isinstance(finder, LateFinder) or (spec := finder.find_spec(fullname, path)) is None:
            continue
        if isinstance(spec.loader, SourceFileLoader):  # whatever else it is, it is imported as ever
            spec.loader = PlaceholderLoader(spec.loader)
        return spec
    return None


class LateClass:
    """Stands for a class of a deferred module, in `isinstance`, as a base class, and when it is called."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def _target(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)  # once the module has run, the class itself

    def __instancecheck__(self, instance: object) -> bool:
        return has_begun(self.module) and isinstance(instance, self._target())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        run(self.module)
        return (self._target(),)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make an instance of the class."""
        run(self.module)
        return self._target()(*args, **kwargs)


def _late_function(module: str, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        run(module)
        return getattr(sys.modules[module], name)(*args, **kwargs)

    return call


def _disable(function: Callable[..., Any] | None = None, *settings: Any, **options: Any) -> Any:
    """`torch._dynamo.disable`: without torch._dynamo nothing is compiled, and a function is called as it is."""
    if function is None:
        run("torch._dynamo")
        return sys.modules["torch._dynamo"].disable(function, *settings, **options)
    disabled: Callable[..., Any] | None = None

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if not has_begun("torch._dynamo"):
            return function(*args, **kwargs)
        disabled = disabled or sys.modules["torch._dynamo"].disable(function, *settings, **options)
        return disabled(*args, **kwargs)

    return call


def _metric(name: str) -> Any:
    try:
        importlib.import_module("torchmetrics.utilities")  # first, as these import each other
        return getattr(importlib.import_module("torchmetrics.collections"), name)
    except ImportError:  # a version whose modules need the whole package
        run("torchmetrics")
        return getattr(sys.modules["torchmetrics"], name)


DEFERRED: Mapping[str, Deferred] = {
    "torch._dynamo": Deferred(
        answers={
            "OptimizedModule": lambda: LateClass("torch._dynamo", "OptimizedModule"),  # Lightning asks isinstance
            "disable": lambda: _disable,  # what optimisers and checkpointed modules are wrapped in
            "graph_break": lambda: lambda *_, **__: None,  # nothing to break: optimisers call it in every step
        }
    ),
    "torch.utils.flop_counter": Deferred(  # imports triton; Lightning's summaries of models count with it
        answers={"FlopCounterMode": lambda: LateClass("torch.utils.flop_counter", "FlopCounterMode")}
    ),
    # Lightning takes two classes of it, which need none of its 100 metrics, and its version.
    "torchmetrics": Deferred(
        answers={
            "Metric": lambda: _metric("Metric"),
            "MetricCollection": lambda: _metric("MetricCollection"),
            "__version__": lambda: importlib.import_module("torchmetrics.__about__").__version__,
            "_logger": lambda: logging.getLogger("torchmetrics"),
        },
        early=("__about__", "utilities", "metric", "collections"),
    ),
    "torchmetrics.utilities.plot": Deferred(  # imports matplotlib; its types stand in annotations only
        answers={
            "_AX_TYPE": lambda: object,
            "_PLOT_OUT_TYPE": lambda: tuple[object, object],
            "plot_single_or_multi_val": lambda: _late_function(
                "torchmetrics.utilities.plot", "plot_single_or_multi_val"
            ),
        }
    ),
    "torchvision.datasets": Deferred(),
    "torchvision.models": Deferred(),
    "torchvision.ops": Deferred(),
    "torchvision.transforms.v2": Deferred(
        answers={"functional": lambda: importlib.import_module("torchvision.transforms.v2.functional")},
        early=("functional",),
    ),
}
LOCKS = {name: threading.RLock() for name in DEFERRED}


def install() -> None:
    """Defer these modules from now on, those that are imported already excepted."""
    if not any(isinstance(finder, LateFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, LateFinder())
