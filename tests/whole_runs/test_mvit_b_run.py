"""The README's main command at full size: MViT-B 16x4 at 16 x 224 x 224 on a Kinetics-style tree of real videos."""

from pathlib import Path

import pytest
import torch

from mvrec.data.generated.moving_digits_video import generate_moving_digits

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_kinetics_recipe_trains_the_full_model(command, tmp_path):
    root = tmp_path / "kinetics"
    generate_moving_digits(root, clips_per_class={"train": 1, "val": 1, "test": 1}, size=256, num_frames=40)
    torch.set_num_threads(2)
    code, _, err = command(
        "fit",
        f"--config={ROOT / 'configs/mvit_b_16x4.yaml'}",
        f"--config={ROOT / 'configs/overlays/debug.yaml'}",
        f"--config={ROOT / 'configs/overlays/cpu.yaml'}",
        f"--data.root={root}",
        f"--run_dir={tmp_path / 'run'}",
    )
    torch.set_num_threads(1)
    assert code == 0, err
    assert "MViT, 36.31 M parameters, 12 classes, clips (C, T, H, W) = (3, 16, 224, 224)" in err
    assert "4 clips per step: learning rate scaled by 4/512" in err
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert checkpoint["state_dict"]["backbone.head.projection.weight"].shape == (12, 768)
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert len(checkpoint["mvrec"]["class_names"]) == 12
