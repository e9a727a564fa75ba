"""Helpers of the tests of runs: callbacks of step_recorder.py as configurations, and reading a run directory."""

import csv
from pathlib import Path

import torch
import yaml

HERE = {"PYTHONPATH": str(Path(__file__).parent)}  # the environment of processes that take step_recorder.py
EMA = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
EVERY_STEP = {"every_n_train_steps": 1, "monitor": "null", "save_top_k": -1, "filename": "step{step}"}
SAVE_EVERY_STEP = [f"--checkpoint.{key}={value}" for key, value in EVERY_STEP.items()]


def callback(kind: str, **arguments: object) -> dict:
    return {"class_path": f"step_recorder.{kind}", "init_args": arguments}


def overlay(folder: Path, *callbacks: dict) -> str:
    """Return the flag of a configuration with these callbacks."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "callbacks.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": list(callbacks)}}))
    return f"--config={path}"


def kinetics(tiny: list[str], root: Path, **more: object) -> list[str]:
    """Return the arguments of `tiny` for a tree that is not generated."""
    remaining = [argument for argument in tiny if "clips_per_class" not in argument and "data.root" not in argument]
    settings = {"size": 64, "val_views.short_side": 64, "test_views.short_side": 64, "decoder": "auto", **more}
    return [
        *remaining,
        "--data=mvrec.data.Kinetics",
        f"--data.root={root}",
        *(f"--data.{k}={v}" for k, v in settings.items()),
    ]


def stored(run_dir: Path, name: str = "last") -> dict:
    """Return a checkpoint of a run."""
    return torch.load(run_dir / f"checkpoints/{name}.ckpt", weights_only=True)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def logged(run_dir: Path, *columns: str, since: int = 0) -> list[tuple[str, ...]]:
    """Return step and columns of the rows of metrics.csv that have the first of them, from a step on."""
    rows = [row for row in read_csv(run_dir / "metrics.csv") if row.get(columns[0]) and int(row["step"]) >= since]
    return [tuple(row[name] for name in ("step", *columns)) for row in rows]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_bit(path: Path) -> None:
    """Change one bit in the middle of a file; of a checkpoint it is one of a tensor."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
