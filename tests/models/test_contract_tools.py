"""What torch's own tools make of every network: several processes, compilation and export."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from warm import HANG, start
from zoo_builds import BUILDS, channels_last, inputs, lively


def slow_but(*quick: str) -> pytest.MarkDecorator:
    """Tracing takes seconds, so that kinds which differ little from these wait for the slow tests."""
    names = [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in BUILDS]
    return pytest.mark.parametrize("name", names)


SECOND_RANK = """
import sys, warnings, torch
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_contract_tools import _trained_gradients
warnings.simplefilter("error")
folder = Path(sys.argv[2])
torch.save(_trained_gradients(folder, rank=1), folder / "second.pt")
"""


def test_two_ranks_get_equal_gradients_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    second = start(Path(__file__).parent, tmp_path, program=SECOND_RANK)
    ours = _trained_gradients(tmp_path, rank=0)
    assert second.wait(HANG) == 0, second.stderr
    theirs = torch.load(tmp_path / "second.pt")
    assert ours.keys() == theirs.keys() == BUILDS.keys()
    for name in BUILDS:
        torch.testing.assert_close(theirs[name], ours[name], rtol=0, atol=0)


def _trained_gradients(folder: Path, *, rank: int) -> dict[str, dict[str, Tensor]]:
    """The gradients that every network has after two steps on one of two ranks."""
    gradients = {}
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=HANG))
    try:
        for name, build in BUILDS.items():
            model = lively(build(drop_path_rate=0.2))
            parallel = DistributedDataParallel(model, find_unused_parameters=False)
            batch = inputs(model, 4)[2 * rank :][:2]
            torch.manual_seed(rank)
            for x in (batch, channels_last(batch)):
                model.zero_grad()
                parallel(x).square().sum().backward()
            gradients[name] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            assert len(gradients[name]) == len(list(model.parameters()))
    except Exception as error:
        error.add_note(f"rank {rank}, {name}")
        raise
    finally:
        dist.destroy_process_group()
    return gradients


@slow_but("mvit_v2_video")
def test_compiled_network_is_one_graph_compiled_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # No graph has oneDNN's products, whose sums are in another order.
    monkeypatch.setattr("mvrec.models.fast.products._HAS_ONEDNN", False)
    torch._dynamo.reset()
    build = BUILDS[name]
    model = lively(build(**build.shallower, drop_path_rate=0.2))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for seed in (3, 4):
        x = inputs(model, 3) + seed
        results = []
        for network in (model, compiled):
            model.zero_grad()
            torch.manual_seed(seed)
            with torch._dynamo.config.patch(error_on_recompile=seed == 4):
                logits = network(x)
            logits.square().sum().backward()
            results.append((logits, {n: p.grad for n, p in model.named_parameters()}))
        torch.testing.assert_close(results[1], results[0])


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
    x = inputs(model, 3, W=80)
    results = []
    for network in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        logits = network(x)
        logits.square().sum().backward()
        results.append((logits, {n: p.grad for n, p in model.named_parameters()}))
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-3)
