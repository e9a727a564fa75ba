"""Time to read lists of files, and their memory with loader workers.

    python benchmarks/memory/index.py                     # 240,000 files of each layout; 1,000,000 rows, 8 workers
    python benchmarks/memory/index.py --rows 100000 --workers 4

Memory is the proportional set size of all processes, which counts a shared page once, without mapped files, which
other programs share. The memory of Python and its libraries is measured with the same workers on an index of one row,
and subtracted.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.layouts import Layout, ListsAndFolders
from mvrec.data.listing.lists import Row
from mvrec.data.sets.kinetics_layouts import AnnotatedVideos

MIB = 2**20
CLASSES = [f"class number {number:03d}" for number in range(400)]


def name_of(number: int) -> str:
    """Return a video's name in the style of Kinetics."""
    return f"{number:011d}_{number % 300:06d}_{number % 300 + 10:06d}.mp4"


def make_list(root: Path, files: int) -> Layout:
    lines = (f"train/{CLASSES[n % 400]}/{name_of(n)},{CLASSES[n % 400]}" for n in range(files))
    (root / "train.csv").write_text("\n".join(["path,label", *lines]))
    return ListsAndFolders(root, VIDEOS)


def make_folders(root: Path, files: int) -> Layout:
    for name in CLASSES:
        (root / "train" / name).mkdir(parents=True)
    for number in range(files):
        os.close(os.open(root / "train" / CLASSES[number % 400] / name_of(number), os.O_CREAT | os.O_WRONLY))
    return ListsAndFolders(root, VIDEOS)


def make_cvdf(root: Path, files: int) -> Layout:
    make_folders(root, files)
    lines = (f"{CLASSES[n % 400]},{n:011d},{n % 300},{n % 300 + 10},train,0" for n in range(files))
    (root / "annotations").mkdir()
    (root / "annotations" / "train.csv").write_text(
        "\n".join(["label,youtube_id,time_start,time_end,split,is_cc", *lines])
    )
    return AnnotatedVideos(root)


def status(key: str) -> float:
    """Return a size of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def report_build(make: Callable[[Path, int], Layout], files: int) -> None:
    """Build an index in a fresh process and print time, peak memory and size."""

    def build(root: Path, answer: Connection) -> None:
        layout = make(root, files)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = status("VmRSS")
        begin = time.perf_counter()
        index = layout.index("train", class_names=None)
        seconds = time.perf_counter() - begin
        peak = status("VmHWM") - before
        assert index is not None
        assert len(index) == files
        answer.send((seconds, peak, index.nbytes / MIB))

    with tempfile.TemporaryDirectory() as folder:
        receiver, sender = get_context("fork").Pipe()
        process = get_context("fork").Process(target=build, args=(Path(folder), sender))
        process.start()
        seconds, peak, index_mib = receiver.recv()
        process.join()
    title = make.__name__.removeprefix("make_")
    print(
        f"{title:8} {files:>9,} files: {seconds:5.2f} s, peak {peak:4.0f} MiB above the start, {index_mib:.0f} MiB kept"
    )


def pss(pid: int) -> float:
    """Return the proportional set size of a process's own pages in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss_Anon:")) / 1024


def total_pss(index: SampleIndex, workers: int, reads: int) -> float:
    """Measure MiB of this process and of forked workers that have each read every row of an index, some repeatedly."""

    def work(answer: Connection) -> None:
        for number in range(reads):
            assert index[number % len(index)].label >= 0
        answer.send("read")
        answer.recv()

    context = get_context("fork")
    pipes = [context.Pipe() for _ in range(workers)]
    processes = [context.Process(target=work, args=(child_end,)) for _, child_end in pipes]
    for process in processes:
        process.start()
    for parent_end, _ in pipes:
        parent_end.recv()
    total = pss(os.getpid()) + sum(pss(process.pid or 0) for process in processes)
    for (parent_end, _), process in zip(pipes, processes, strict=True):
        parent_end.send("leave")
        process.join()
    return total


def report_memory(rows: int, workers: int) -> None:
    def make(count: int) -> SampleIndex:
        listed = (Row(f"train/{CLASSES[n % 400]}/{name_of(n)}", CLASSES[n % 400]) for n in range(count))
        return SampleIndex(listed, root=Path("/data/kinetics"), class_names=CLASSES)

    small = make(400)
    without = {count: total_pss(small, count, rows) for count in (0, workers)}
    index = make(rows)
    with_rows = {count: total_pss(index, count, rows) for count in (0, workers)}
    alone, shared = (with_rows[count] - without[count] for count in (0, workers))
    print(f"{rows:,} rows: packed arrays {index.nbytes / MIB:.1f} MiB")
    for count in (0, workers):
        print(f"  {count} workers: {with_rows[count]:.1f} MiB in all, {without[count]:.1f} of it without the rows")
    print(f"  the rows' part: {alone:.1f} MiB alone, {shared:.1f} MiB with {workers} workers: x{shared / alone:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=240_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the files and rows")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.files, arguments.rows = arguments.files // 20, arguments.rows // 20
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("this system has no /proc/<pid>/smaps_rollup")
    for make in (make_list, make_cvdf, make_folders) if arguments.files else ():
        report_build(make, arguments.files)
    report_memory(arguments.rows, arguments.workers)


if __name__ == "__main__":
    main()
