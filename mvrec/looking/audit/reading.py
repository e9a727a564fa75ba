"""Reading all files of a data set for their looks, in several processes that can be killed."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvrec.data.listing.archive import ArchiveMember
from mvrec.data.loading.guard import Reader
from mvrec.data.loading.images import read_image
from mvrec.data.video.opening import open_video
from mvrec.errors import DecodeError
from mvrec.files import sha256
from mvrec.looking.audit.looks import MOMENTS, Look, look_of
from mvrec.processes import ChildError, Limits

FilePath = Path | ArchiveMember


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
        moments = [min(int(share * video.num_frames), video.num_frames - 1) for share in MOMENTS]
        return look_of(np.asarray(video.frames(moments)), seconds=video.duration, count=video.num_frames)


def see(paths: Sequence[FilePath], *, is_video: bool, limits: Limits, jobs: int | None = None) -> list[Seen]:
    """Return what each file shows; a file that hangs or crashes its process is one that cannot be read.

    Args:
        paths: The files.
        is_video: Whether they are videos.
        limits: Of each file.
        jobs: Processes; by default the cores of this process.
    """
    jobs = min(jobs or len(os.sched_getaffinity(0)), max(len(paths), 1))
    files = Files(paths, is_video)
    with ThreadPoolExecutor(jobs) as pool:
        shares = list(pool.map(lambda first: _share(files, range(first, len(paths), jobs), limits), range(jobs)))
    return [shares[number % jobs][number // jobs] for number in range(len(paths))]


def _share(files: Files, numbers: Sequence[int], limits: Limits) -> list[Seen]:
    share: list[Seen] = []
    while len(share) < len(numbers):
        reader = Reader(files, limits)
        try:
            for each in reader.read(numbers[len(share) :], {}):
                share.append(each)
        except ChildError as fault:
            share.append(Seen(None, fault=f"the process reading it {fault}"))
        finally:
            reader.kill()
    return share
