"""Between two log lines no step reads a tensor of the training device, which would wait for the device."""

import random
import traceback
from contextlib import ExitStack

import lightning as L
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from zoo_builds import BUILDS

from mvrec.data.views.rand_augment import OPERATIONS
from mvrec.tasks import Classification
from mvrec.training.non_finite import total_norm

STEPS = 4


class CountReads(TorchDispatchMode):
    """Notes where the value of a tensor is read. On a CPU, where all tensors are, none at all may be."""

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
            self.note(func)
        return func(*args, **(kwargs or {}))

    def note(self, name):
        actual = [frame for frame in traceback.extract_stack() if "/mvrec/" in frame.filename]
        self.places.append(f"{name}: {actual[-1].filename}:{actual[-1].lineno}" if actual else f"{name}")


class Watch(L.Callback):
    """Counts the reads of all that happens in two whole steps."""

    def __init__(self):
        self.reads, self.stack = CountReads(), ExitStack()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 0:
            self.stack.enter_context(self.reads)
        elif batch_idx == STEPS - 2:  # the last step of an epoch is logged
            self.stack.close()


def test_no_step_between_two_log_lines_reads_a_tensor(command, tiny, tmp_path, monkeypatch):
    """All callbacks of a run take part; a fused optimiser leaves steps out by itself, as all do on a GPU."""
    watch, tolist = Watch(), torch.Tensor.tolist

    def counted(tensor):  # of a tensor on the CPU it is no operator; ids, seeds and frame numbers lie there by design
        if tensor.dtype != torch.int64:
            watch.reads.note("tolist")
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    monkeypatch.setattr(Classification, "configure_callbacks", lambda self: [watch])
    erasing = "--data.augment.random_erasing={probability: 1.0}"
    flags = ["--trainer.log_every_n_steps=100", "--trainer.limit_val_batches=0", "--model.optimizer.fused=true"]
    code, _, err = command("fit", *tiny, *flags, erasing, f"--run_dir={tmp_path}")
    assert code == 0, err
    assert watch.reads.places == []


class CountCopies(TorchFunctionMode):
    """Notes what copies values from the CPU to a device, which waits for it unless they lie in page-locked memory.

    The device is `meta`: it takes the way of a GPU, not the one for CPUs, and reading a tensor there is an error.
    """

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_meta:
            name = getattr(func, "__name__", str(func))
            values = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
            if name in ("tensor", "as_tensor") or any(value.ndim and not value.is_meta for value in values):
                self.names.append(name)
        return result


@pytest.mark.parametrize("name", ["shunted", "sgformer", "cloformer", "mvit_v1_video", "mvit_v2_video"])
def test_no_network_reads_or_copies_on_a_device(name):
    network = BUILDS[name]().to("meta").train()
    clips = torch.empty(2, *network.input_shape, device="meta")
    with CountCopies() as copies:
        network(clips).square().mean().backward()
        norm = total_norm([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    assert norm.is_meta
    assert copies.names == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_augmentation_on_a_device_reads_or_copies(name):
    clip, fill = torch.empty(2, 3, 16, 16, dtype=torch.uint8, device="meta"), (1, 2, 3)
    OPERATIONS[name](clip, 0.7, random.Random(0), fill)  # copies the colour once
    with CountCopies() as copies:
        assert OPERATIONS[name](clip, 0.7, random.Random(0), fill).is_meta
    assert copies.names == []
