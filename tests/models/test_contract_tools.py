"""What torch's own tools make of every network: parallel training, compilation and export."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from zoo_builds import BUILDS, channels_last, inputs, lively


def slow_but(*quick: str) -> pytest.MarkDecorator:
    """Tracing takes seconds, so that kinds which differ little from these wait for the slow tests."""
    names = [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in BUILDS]
    return pytest.mark.parametrize("name", names)


@pytest.mark.parametrize("name", BUILDS)
def test_parallel_network_of_torch_trains_without_a_warning(name: str, tmp_path: Path) -> None:
    """It warns of gradients in other layouts than their parameters, and fails where a parameter gets none."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = lively(BUILDS[name](drop_path_rate=0.2))
        parallel = DistributedDataParallel(model, find_unused_parameters=False)
        for x in (inputs(model), channels_last(inputs(model))):
            model.zero_grad()
            parallel(x).square().sum().backward()
        assert all(p.grad is not None for p in model.parameters())
    finally:
        dist.destroy_process_group()


def results_of(network: Callable[..., Tensor], model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the gradients of the model that `network` runs."""
    model.zero_grad()
    torch.manual_seed(3)
    logits = network(x)
    logits.square().sum().backward()
    return logits, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@slow_but("mvit_v2_video")
def test_compiled_network_is_one_graph_compiled_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # No graph has oneDNN's products, whose sums are in another order.
    monkeypatch.setattr("mvrec.models.fast.products._HAS_ONEDNN", False)
    torch._dynamo.reset()
    build = BUILDS[name]
    model = lively(build(**build.shallower, drop_path_rate=0.2))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for is_second in (False, True):
        x = inputs(model, 3) + is_second
        with torch._dynamo.config.patch(error_on_recompile=is_second):
            torch.testing.assert_close(results_of(compiled, model, x), results_of(model, model, x))


@slow_but("sgformer")
def test_exported_program_takes_any_batch_size(name: str) -> None:
    build = BUILDS[name]
    model = lively(build(**build.shallower)).eval()
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(model, (inputs(model, 3),), dynamic_shapes=({0: batch},))
        for size in (1, 5):
            x = inputs(model, size)
            torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shunted", "sgformer", "cloformer", "mvit_v2_video"])
def test_inductor_gives_the_logits_and_gradients_of_eager(name: str) -> None:
    torch._dynamo.reset()
    build = BUILDS[name]
    model = lively(build(**build.shallower)).eval()
    compiled, x = torch.compile(model, fullgraph=True), inputs(model, 3, W=80)
    torch.testing.assert_close(results_of(compiled, model, x), results_of(model, model, x), rtol=1e-3, atol=1e-3)
