"""Videos that are encoded once for all tests."""

import shutil

import pytest
from video_files import write_video


@pytest.fixture(scope="session")
def encoded(tmp_path_factory):
    """The path of a video by suffix and options of `write_video`, written when it is first asked for."""
    folder, paths = tmp_path_factory.mktemp("encoded"), {}

    def get(suffix="mp4", name="", **options):
        key = (suffix, name, repr(sorted(options.items())))
        if key not in paths:
            paths[key] = write_video(folder / (name or f"{len(paths)}.{suffix}"), **options)
        return paths[key]

    return get


@pytest.fixture
def copied(encoded, tmp_path):
    """A copy of such a video, called by a name, for a test that changes it."""

    def get(name, **options):
        return shutil.copy(encoded(name.rpartition(".")[2], **options), tmp_path / name)

    return get


@pytest.fixture
def clip(copied):
    return copied("clip.mp4")
