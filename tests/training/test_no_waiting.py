"""Between two log lines no step reads a tensor of the training device, which would wait for the device."""

import traceback
from contextlib import ExitStack

import lightning as L
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mvrec.tasks import Classification

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
