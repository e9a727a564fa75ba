import re
import shutil

import pytest
from video_files import truncate


@pytest.mark.parametrize("num_workers", [0, 1])
def test_steps_of_a_clip_add_up(tiny, command, num_workers):
    more = [f"--data.num_workers={num_workers}", "--samples=12", "--device-rate=1000"]
    code, out, err = command("benchmark", "data", *tiny, *more)
    assert code == 0, err
    costs = {name: float(value) for name, value in re.findall(r"^  (\w+) +([\d.]+) ms", out, flags=re.MULTILINE)}
    total = costs.pop("sum")
    assert set(costs) == {"decode", "transform", "collate", "rest"}
    assert sum(costs.values()) == pytest.approx(total, abs=0.03)
    assert costs["decode"] > costs["collate"]
    assert "CPU time per clip on one core, over 12 clips" in out
    per_core = float(re.search(r"= ([\d.]+) clips/s per core", out)[1])
    assert per_core == pytest.approx(1000 / total, rel=0.02)
    rate = float(re.search(rf"loader with {num_workers} workers.*: ([\d.]+) clips/s", out)[1])
    needed = int(re.search(r"to feed 1000 clips/s: about (\d+) workers", out)[1])
    assert needed == pytest.approx(1000 / rate, abs=1 + 0.01 * needed)


def test_bad_files_are_counted_and_nothing_readable_or_counted_is_an_error(tiny, command, digits, tmp_path):
    root = shutil.copytree(digits, tmp_path / "digits")
    videos = sorted((root / "train").rglob("*.mp4"))
    truncate(videos[0], 0.5)
    _, out, _ = command("benchmark", "data", *tiny, f"--data.root={root}", "--samples=36")
    assert re.search(r"over 36 clips \(\d+ files bad\)", out)
    for video in videos:
        video.write_bytes(b"")
    for flag, message in (
        ("--samples=3", "none of 30 videos could be read"),
        ("--samples=0", "--samples must be at least 1"),
        ("--device-rate=-1", "--device-rate must be above 0"),
    ):
        code, _, err = command("benchmark", "data", *tiny, f"--data.root={root}", flag)
        assert code == 2
        assert message in err
