from pathlib import Path

import pytest
import torch
import yaml
from run_support import stored
from warm import run_ranks

FSDP = f"--config={Path(__file__).parents[2] / 'configs/overlays/fsdp.yaml'}"
# MViTv2-L's widths and attention, three blocks instead of 48.
SIZES = {"num_classes": 12, "num_frames": 4, "image_size": 64, "embed_dim": 144, "num_heads": 2, "depth": 3}
PLAN = {"dim_mults": {1: 2}, "head_mults": {1: 2}, "q_strides": {1: 2}, "kv_stride": 8, "dim_change": "attention"}
KIND = {"pool_every_q": True, "pos_embed": "none", "rel_pos": True, "residual_pooling": True}


@pytest.fixture(scope="module")
def large(tiny, tmp_path_factory):
    """Arguments of a run of a shortened MViTv2-L in three steps of six videos."""
    config = tmp_path_factory.mktemp("large") / "large.yaml"
    network = {"class_path": "mvrec.models.MViT", "init_args": SIZES | PLAN | KIND}
    config.write_text(yaml.safe_dump({"model": {"backbone": network}}))
    arguments = [argument for argument in tiny if not argument.startswith("--model.backbone")]
    steps = ["--trainer.limit_train_batches=3", "--model.optimizer.lr=1e-4"]
    return [*arguments, f"--config={config}", *steps]


def test_two_sharded_processes_train_as_one_and_one_goes_on_from_their_checkpoint(command, large, tmp_path):
    alone = ["--data.batch_size=6", "--trainer.limit_val_batches=0"]
    code, _, err = command("fit", *large, *alone, f"--run_dir={tmp_path / 'one'}")
    assert code == 0, err
    flags = [FSDP, "--data.batch_size=3", f"--run_dir={tmp_path / 'two'}"]
    processes = run_ranks(2, "fit", *large, *flags, strategy=None)
    message = "".join(process.stderr for process in processes)
    assert [process.returncode for process in processes] == [0, 0], message
    assert "3 blocks are sharded over 2 processes" in message
    assert "24/24 videos scored" in message
    actual, expected = (stored(tmp_path / name)["state_dict"] for name in ("two", "one"))
    assert {name: tensor.shape for name, tensor in actual.items()} == {
        n: tensor.shape for n, tensor in expected.items()
    }
    for name in actual:
        if not name.endswith("attn.norm_k.bias"):  # no effect: its gradient is rounding noise
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=2e-5, msg=name)
    more = [
        "--trainer.max_epochs=2",
        "--trainer.limit_train_batches=1",
        f"--ckpt_path={tmp_path / 'two/checkpoints/last.ckpt'}",
    ]
    code, _, err = command("fit", *large, *alone, *more, f"--run_dir={tmp_path / 'more'}")
    assert code == 0, err
    assert "epoch 2/2  step 1/1" in err


def test_averages_are_refused_beside_sharded_weights(command, large, tmp_path):
    averages = "--trainer.callbacks=lightning.pytorch.callbacks.EMAWeightAveraging"
    code, _, err = command("fit", *large, FSDP, averages, f"--run_dir={tmp_path}", "--trainer.devices=1")
    assert code == 2
    assert err.splitlines()[-1].startswith("mvrec: error: averaged weights need whole weights on every process")
