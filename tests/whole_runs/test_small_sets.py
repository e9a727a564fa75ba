"""A few clips and a file of weights are enough to learn what is easy to see, by the settings that follow from them."""

import json

import av
import numpy as np
import pytest

COLOURS = {"rouge": (150, 60, 60), "зелёный": (60, 150, 60), "青": (60, 60, 150)}


@pytest.fixture
def coloured(tmp_path):
    """Three classes of five clips to learn from and four to score: noise in a colour of its own brightness."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 5, "val": 4}.items():
        for name, colour in COLOURS.items():
            for number in range(count):
                path = tmp_path / "clips" / split / name / f"{number}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                with av.open(str(path), "w") as container:
                    stream = container.add_stream("libx264", rate=16)
                    stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
                    shade = np.array(colour) + rng.integers(-20, 60)
                    for _ in range(8):
                        frame = (shade + 10 * rng.standard_normal((64, 64, 3))).clip(0, 255).astype(np.uint8)
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
                    container.mux(stream.encode())
    return tmp_path / "clips"


@pytest.mark.slow
def test_five_clips_per_class_are_learned_from_a_folder_and_a_run_alone(command, coloured, digits_run, tmp_path):
    run_dir = tmp_path / "run"
    flags = [
        "--data.num_workers=0",
        "--trainer.accelerator=cpu",
        f"--run_dir={run_dir}",
        "--trainer.check_val_every_n_epoch=19",
    ]
    code, _, err = command("fit", f"--data.root={coloured}", f"--model.weights={digits_run.folder}", *flags)
    assert code == 0, err
    code, _, err = command("test", run_dir)
    assert code == 0, err
    score = json.loads((run_dir / "metrics.json").read_text())["metrics"]
    assert score["top1"] == 1  # guessing: a third; a single epoch: three quarters
