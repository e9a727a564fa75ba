from pathlib import Path

import pytest
import torch
import yaml
from warm import run, run_ranks

ROOT = Path(__file__).parent.parent.parent
# MViTv2-L's widths and attention, three blocks instead of 48.
LARGE = {
    "num_classes": 12,
    "num_frames": 4,
    "image_size": 64,
    "embed_dim": 144,
    "num_heads": 2,
    "depth": 3,
    "dim_mults": {1: 2},
    "head_mults": {1: 2},
    "q_strides": {1: 2},
    "kv_stride": 8,
    "pool_every_q": True,
    "dim_change": "attention",
    "pos_embed": "none",
    "rel_pos": True,
    "residual_pooling": True,
}


def fit(arguments, count):
    """Train on some processes; returns what they printed."""
    processes = run_ranks(count, "fit", *arguments, strategy=None) if count > 1 else [run("fit", *arguments)]
    output = "".join(process.stderr for process in processes)
    assert not any(process.returncode for process in processes), output
    return output


def weights(run_dir):
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def large(tiny, tmp_path_factory):
    """Arguments of a run of a shortened MViTv2-L in three steps of six videos."""
    config = tmp_path_factory.mktemp("large") / "large.yaml"
    config.write_text(yaml.safe_dump({"model": {"backbone": {"class_path": "mvrec.models.MViT", "init_args": LARGE}}}))
    kept = [argument for argument in tiny if not argument.startswith("--model.backbone")]
    steps = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--model.optimizer.lr=1e-4"]
    return [*kept, f"--config={config}", *steps]


@pytest.fixture(scope="module")
def one_process(large, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("one")
    fit([*large, "--data.batch_size=6", f"--run_dir={run_dir}"], count=1)
    return run_dir


def test_two_sharded_processes_train_as_one(large, one_process, tmp_path):
    overlay = f"--config={ROOT / 'configs/overlays/fsdp.yaml'}"
    said = fit([*large, overlay, "--data.batch_size=3", f"--run_dir={tmp_path}"], count=2)
    assert "3 blocks are sharded over 2 processes" in said
    assert "24/24 videos scored" in said
    ours, theirs = weights(tmp_path), weights(one_process)
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: tensor.shape for n, tensor in theirs.items()}
    for name in ours:
        if not name.endswith("attn.norm_k.bias"):  # no effect: its gradient is rounding noise
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=2e-5, msg=name)
    # A whole checkpoint: one process goes on from it.
    more = ["--data.batch_size=6", "--trainer.max_epochs=2", f"--ckpt_path={tmp_path / 'checkpoints/last.ckpt'}"]
    assert "epoch 2/2" in fit([*large, *more, f"--run_dir={tmp_path / 'more'}"], count=1)


def test_averages_are_refused_beside_sharded_weights(command, large, tmp_path):
    overlay = f"--config={ROOT / 'configs/overlays/fsdp.yaml'}"
    averages = "--trainer.callbacks=lightning.pytorch.callbacks.EMAWeightAveraging"
    code, _, err = command("fit", *large, overlay, averages, f"--run_dir={tmp_path}", "--trainer.devices=1")
    assert code == 2
    assert err.splitlines()[-1].startswith("mvrec: error: averaged weights need whole weights on every process")
