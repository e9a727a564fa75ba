"""Reading all files of a data set for their looks, in several processes that can be killed."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mvrec.data.listing.archive import ArchiveMember
from mvrec.data.loading.guard import Reader
from mvrec.data.loading.images import read_image
from mvrec.data.video.opening import open_video
from mvrec.data.video.pyav import load_library
from mvrec.errors import DecodeError
from mvrec.files import sha256
from mvrec.looking.audit.cache import LookCache
from mvrec.looking.audit.looks import Look, frame_numbers, look_of
from mvrec.processes import ChildError, Limits

FilePath = Path | ArchiveMember

AT_ONCE = 3  # frames in memory


@dataclass(frozen=True)
class Seen:
    """A file after it was read, or the fault of one that cannot be.

    Attributes:
        look: `None` if it cannot be read.
        digest: SHA-256 of its bytes; "" if it is in an archive or cannot be read.
        fault: Why it cannot be read; "" if it can.
    """

    look: Look | None
    digest: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Files:
    """Files by number, for a reading process.

    Args:
        paths: The files.
        is_video: Whether they are videos.
    """

    paths: Sequence[FilePath]
    is_video: bool

    def __getitem__(self, number: int) -> Seen:
        path = self.paths[number]
        try:
            digest = sha256(path) if isinstance(path, Path) else ""
            return Seen(video_look(path) if self.is_video else image_look(path), digest)
        except DecodeError as error:
            return Seen(None, fault=error.cause)
        except OSError as error:
            return Seen(None, fault=error.strerror or str(error))


def image_look(path: FilePath) -> Look:
    """Return what an image shows.

    Raises:
        DecodeError: The file cannot be read.
    """
    return look_of(read_image(path)[None], seconds=0.0, count=1)


def video_look(path: FilePath) -> Look:
    """Return what a video shows.

    Raises:
        DecodeError: The file cannot be read.
    """
    with open_video(path) as video:
        numbers = frame_numbers(video.num_frames)
        shares = (numbers[first : first + AT_ONCE] for first in range(0, len(numbers), AT_ONCE))
        frames = (np.asarray(frame) for share in shares for frame in video.frames(share))
        return look_of(frames, seconds=video.duration, count=video.num_frames)


def see(
    paths: Sequence[FilePath],
    *,
    is_video: bool,
    limits: Limits,
    jobs: int | None = None,
    cache: LookCache | None = None,
) -> list[Seen]:
    """Return what each file shows; a file that hangs or crashes its process is one that cannot be read.

    Args:
        paths: The files.
        is_video: Whether they are videos.
        limits: Of each file.
        jobs: Processes; by default the cores of this process.
        cache: Looks of files that need not be read; it gets those that are.
    """
    reads: dict[int, Seen] = {}
    for number, path in enumerate(paths):
        if cache is not None and (entry := cache.get(path)) is not None:
            reads[number] = Seen(*entry)
    left = [number for number in range(len(paths)) if number not in reads]
    jobs = min(jobs or len(os.sched_getaffinity(0)), len(left))
    files, stop = Files(paths, is_video), threading.Event()
    load_library()  # a fork of a process with threads should load no library
    with tqdm(total=len(left), disable=None, unit="file") as bar, ThreadPoolExecutor(max(jobs, 1)) as pool:

        def keep(number: int, each: Seen) -> None:
            bar.update()
            if cache is not None and each.look is not None:
                cache.put(paths[number], each.look, each.digest)

        try:
            for share in pool.map(lambda first: _share(files, left[first::jobs], limits, keep, stop), range(jobs)):
                reads.update(share)
        finally:
            stop.set()  # the pool waits for its threads, also after Ctrl-C
    return [reads[number] for number in range(len(paths))]


def _share(
    files: Files, numbers: Sequence[int], limits: Limits, keep: Callable[[int, Seen], None], stop: threading.Event
) -> dict[int, Seen]:
    """Read files in a process of their own, a new one after each that hangs or crashes it."""
    share: dict[int, Seen] = {}
    while len(share) < len(numbers) and not stop.is_set():
        reader, left = Reader(files, limits), numbers[len(share) :]
        try:
            for number, each in zip(left, reader.read(left, {}), strict=True):
                share[number] = each
                keep(number, each)
                if stop.is_set():
                    break
        except ChildError as fault:
            share[numbers[len(share)]] = Seen(None, fault=f"the process reading it {fault}")
        finally:
            reader.kill()
    return share
