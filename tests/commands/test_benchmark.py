import re

import pytest
from video_files import truncate

from mvrec.data.loading.step_times import Stages


def figures(out):
    return {name: float(value) for name, value in re.findall(r"^  (\w+) +([\d.]+) ms", out, flags=re.MULTILINE)}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_steps_of_a_clip_add_up(tiny, command, num_workers):
    code, out, err = command(
        "benchmark", "data", *tiny, f"--data.num_workers={num_workers}", "--samples=12", "--device-rate=1000"
    )
    assert code == 0, err
    costs = figures(out)
    assert set(costs) == {"decode", "transform", "collate", "rest", "sum"}
    assert sum(costs[step] for step in ("decode", "transform", "collate", "rest")) == pytest.approx(
        costs["sum"], abs=0.03
    )
    assert costs["decode"] > costs["collate"]
    assert "CPU time per clip on one core, over 12 clips" in out
    per_core = float(re.search(r"= ([\d.]+) clips/s per core", out)[1])
    assert per_core == pytest.approx(1000 / costs["sum"], rel=0.02)
    rate = float(re.search(rf"loader with {num_workers} workers.*: ([\d.]+) clips/s", out)[1])
    needed = int(re.search(r"to feed 1000 clips/s: about (\d+) workers", out)[1])
    assert needed == pytest.approx(1000 / rate, abs=1 + 0.01 * needed)


def test_bad_files_are_counted_and_nothing_readable_is_an_error(tiny, command, digits, tmp_path):
    import shutil

    root = tmp_path / "digits"
    shutil.copytree(digits, root)
    videos = sorted((root / "train").rglob("*.mp4"))
    truncate(videos[0], 0.5)
    _, out, _ = command("benchmark", "data", *tiny, f"--data.root={root}", "--samples=36")
    assert re.search(r"over 36 clips \(\d+ files bad\)", out)
    for video in videos:
        video.write_bytes(b"")
    code, _, err = command("benchmark", "data", *tiny, f"--data.root={root}", "--samples=3")
    assert code == 2
    assert "none of 30 videos could be read" in err


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--samples=0", "--samples must be at least 1"), ("--device-rate=-1", "--device-rate must be above 0")],
)
def test_impossible_numbers(tiny, command, flag, message):
    code, _, err = command("benchmark", "data", *tiny, flag)
    assert code == 2
    assert message in err


def test_nothing_is_counted_where_nobody_looks():
    stages = Stages()
    with stages("decode"):
        pass
    assert stages.seconds == {}
    stages.start()
    with stages("decode"):
        sum(range(200_000))
    assert stages.seconds["decode"] > 0
