"""A few of the mutants of `tests/fuzz_videos.py`, and that it notices what it is there to notice."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from fuzz_videos import MUTATIONS, fuzz, mutate, table, write_seed_files

from mvrec.errors import DecodeError

NAMES = ("h264.mp4", "varying_rate.mp4", "vp9.webm", "h264.mkv", "h264.ts", "mpeg4.avi")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and limits memory as Linux does")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_seed_files(tmp_path_factory.mktemp("seeds"), NAMES)


@pytest.mark.parametrize("mutants", [16, pytest.param(300, marks=pytest.mark.slow)])
def test_mutants_are_read_or_refused(files, tmp_path, mutants):
    tally, findings = fuzz(files, "auto", mutants=mutants, seed=0, seconds=60, keep=tmp_path / "kept")
    assert findings == []
    assert not (tmp_path / "kept").exists()
    total = {outcome: sum(row[outcome] for row in tally.values()) for outcome in ("frames", "DecodeError")}
    assert sum(total.values()) == mutants
    assert min(total.values()) > mutants / 8
    assert table(tally).splitlines()[-1] == f"| all | {total['DecodeError']} | {total['frames']} |"


def test_a_mutant_is_made_again_from_its_seed_and_number(files):
    mutants = [mutate(files, 7, number) for number in range(100)]
    assert mutants == [mutate(files, 7, number) for number in range(100)]
    assert mutants != [mutate(files, 8, number) for number in range(100)]
    assert {mutation for _, mutation, _ in mutants} == {mutation.__name__ for mutation in MUTATIONS}
    assert sum(data != files[name] for name, _, data in mutants) > 95  # blocks of equal bytes may change places


def raising(error):
    def read(path, decoder):
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "seconds", "outcome"),
    [
        (lambda *_: time.sleep(1000), 0.5, "gave no answer for 0.5 s"),
        (lambda *_: os.kill(os.getpid(), signal.SIGSEGV), 60, "was ended by SIGSEGV"),
        (lambda *_: os._exit(3), 60, "left with exit code 3"),
        (lambda *_: bytearray(4 * 2**30), 60, "MemoryError: "),
        (raising(IndexError("list index")), 60, "IndexError: list index"),
        (raising(DecodeError("another/path", "cause")), 60, "badly said: another/path: cause"),
    ],
)
def test_faults_of_a_decoder_are_kept_as_findings(files, tmp_path, read, seconds, outcome):
    tally, findings = fuzz(files, "auto", mutants=1, seed=3, seconds=seconds, keep=tmp_path / "kept", read=read)
    (kept,) = (tmp_path / "kept").iterdir()
    name, _, data = mutate(files, 3, 0)
    assert kept.name == f"3-0-{name}"
    assert kept.read_bytes() == data
    assert findings == [f"{kept} ({next(iter(tally))}): {outcome}"]
