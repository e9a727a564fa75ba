"""Time to read a large file of objects in COCO's form, and the memory of its table with loader workers.

    python benchmarks/memory/objects.py                   # 1,000,000 objects, 8 workers
    python benchmarks/memory/objects.py --objects 100000

Outlines have 40 numbers on average, as in train2017, each with two decimals. The peak counts from the start of reading;
the sizes of processes are measured as `index.py` does.
"""

import argparse
import json
import os
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from index import MIB, pss, status

from mvrec.data.listing.objects.coco import read_coco
from mvrec.data.listing.objects.table import ObjectTable

PER_IMAGE = 7.3  # objects, as in train2017
CLASSES = 80


def write_file(path: Path, objects: int) -> None:
    """Write a file of annotations whose numbers look like those of COCO."""
    rng = np.random.default_rng(0)
    images = max(1, round(objects / PER_IMAGE))
    with path.open("w") as file:
        file.write('{"images": [')
        names = ({"id": n, "file_name": f"{n:012d}.jpg", "height": 480, "width": 640} for n in range(1, images + 1))
        file.write(",\n".join(map(json.dumps, names)))
        file.write('], "annotations": [')
        for number in range(objects):
            points = np.round(rng.uniform(0, 480, 2 * int(rng.integers(6, 35))), 2)
            x, y = points[0::2], points[1::2]
            box = [float(np.round(value, 2)) for value in (x.min(), y.min(), np.ptp(x), np.ptp(y))]
            entry = {
                **{"id": number + 1, "image_id": int(rng.integers(1, images + 1)), "category_id": number % CLASSES + 1},
                **{"bbox": box, "area": box[2] * box[3], "iscrowd": 0, "segmentation": [points.tolist()]},
            }
            file.write(f"{',' if number else ''}\n{json.dumps(entry)}")
        categories = [{"id": number + 1, "name": f"class {number}"} for number in range(CLASSES)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def touch(table: ObjectTable, answer: Connection) -> None:
    """Read the objects of every image once, and wait."""
    for image in range(len(table)):
        assert table.objects(image).image_id > 0
    answer.send("read")
    answer.recv()


def total_pss(table: ObjectTable, workers: int) -> float:
    """Measure MiB of this process and of forked workers that have read every object."""
    context = get_context("fork")
    pipes = [context.Pipe() for _ in range(workers)]
    processes = [context.Process(target=touch, args=(table, end)) for _, end in pipes]
    for process in processes:
        process.start()
    for end, _ in pipes:
        end.recv()
    total = pss(os.getpid()) + sum(pss(process.pid or 0) for process in processes)
    for (end, _), process in zip(pipes, processes, strict=True):
        end.send("leave")
        process.join()
    return total


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        write_file(path, options.objects)
        size = path.stat().st_size / MIB
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, begin = status("VmRSS"), time.perf_counter()
        table = read_coco(path)
        seconds, peak = time.perf_counter() - begin, status("VmHWM") - before
    numbers = len(table.shapes.coordinates)
    print(f"{options.objects:,} objects with {numbers:,} numbers in {len(table):,} images, a file of {size:.0f} MiB:")
    print(f"  {seconds:.1f} s, peak {peak:.0f} MiB above the start, {table.nbytes / 1e6:.0f} MB kept")
    total, alone = total_pss(table, options.workers), pss(os.getpid())
    print(f"  this process {alone:.0f} MiB, with {options.workers} workers {total:.0f} MiB in all")


if __name__ == "__main__":
    main()
