"""An audit with the network of a short training on digits of which some have wrong labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from mvrec.cli.main import main

STAGES = [
    {"dim": 24, "depth": 1, "heads": 2, "sr_ratio": 4, "mlp_ratio": 2},
    {"dim": 32, "depth": 1, "heads": 2, "sr_ratio": 2, "mlp_ratio": 2},
    {"dim": 48, "depth": 1, "heads": 2, "sr_ratio": 2, "mlp_ratio": 2},
    {"dim": 64, "depth": 1, "heads": 2, "sr_ratio": 1, "mlp_ratio": 2},
]


def write_digits(root: Path) -> set[str]:
    """Write 500 handwritten digits in two splits; return the names of those in a wrong folder."""
    digits, rng = load_digits(), np.random.default_rng(0)
    order, wrong = rng.permutation(len(digits.target))[:500], set()
    for place, number in enumerate(order.tolist()):
        label, name = int(digits.target[number]), f"{number}a.png"
        if rng.random() < 0.05:
            label, _ = (label + int(rng.integers(1, 10))) % 10, wrong.add(name)
        folder = root / ("train" if place < 400 else "val") / f"d{label}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((digits.images[number] * 15.9).astype(np.uint8))
        picture.resize((32, 32)).save(folder / name)
    return wrong


def test_a_trained_network_names_planted_wrong_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MVREC_CACHE", str(tmp_path / "cache"))
    wrong = write_digits(tmp_path / "digits")
    augment = {"crop_area": [0.8, 1.0], "flip_probability": 0.0, "rand_augment": None, "random_erasing": None}
    data = {"root": str(tmp_path / "digits"), "size": 32, "crop_fraction": 1.0, "batch_size": 16, "num_workers": 0}
    config = {
        "model": {
            "backbone": {"class_path": "mvrec.models.Shunted", "init_args": {"stages": STAGES}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3}},
            "label_smoothing": 0.1,
        },
        "data": {"class_path": "mvrec.data.ImageFolder", "init_args": {**data, "augment": augment}},
        "trainer": {"max_epochs": 5, "accelerator": "cpu", "devices": 1, "gradient_clip_val": 1.0},
    }
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(config))
    run = str(tmp_path / "run")
    main(["fit", "--config", str(tmp_path / "digits.yaml"), f"--run_dir={run}"])
    capsys.readouterr()
    main(["data", "audit", run, "--run", run, "--json", "--jobs", "1"])
    findings = {entry["kind"]: entry for entry in json.loads(capsys.readouterr().out)["findings"]}
    ranked = [Path(entry["paths"][0]).name for entry in findings["doubtful labels"]["files"]]
    assert len(wrong & set(ranked[:50])) >= 0.8 * len(wrong)
