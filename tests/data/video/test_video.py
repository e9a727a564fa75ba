import importlib.util
import os
import pickle
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from video_files import damage, read_numbers, truncate, write_audio, write_video

from mvrec.data.video import opening as opening_module
from mvrec.data.video.opening import describe_decoder, open_video
from mvrec.errors import DecodeError, UserError

HAS_DECORD = importlib.util.find_spec("decord") is not None
needs_decord = pytest.mark.skipif(not HAS_DECORD, reason="decord has no wheels for this machine")
needs_torchcodec = pytest.mark.skipif(
    "torchcodec 0" not in describe_decoder("torchcodec"), reason="torchcodec finds no FFmpeg here"
)
DECODERS = ["auto", pytest.param("decord", marks=needs_decord), pytest.param("torchcodec", marks=needs_torchcodec)]

CUT = {
    "h264.mkv": {"num_frames": 60},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "h264.ts": {"num_frames": 60},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 0},
    "h264_b_frames.avi": {"num_frames": 60},
}


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mp4")


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_auto_is_pyav(clip, decoder):
    with open_video(clip, decoder) as video:
        assert video.decoder == "pyav"


@pytest.mark.parametrize("decoder", DECODERS)
def test_what_a_decoder_is_can_be_said_in_one_line(decoder):
    line = describe_decoder(decoder)
    name = {"auto": "PyAV", "pyav": "PyAV"}.get(decoder, decoder)
    assert re.fullmatch(rf"{decoder}: {name} \d+\.\d+[^\n]*", line)


@pytest.mark.parametrize("decoder", DECODERS)
def test_indices_may_repeat_and_run_backwards(clip, decoder):
    with open_video(clip, decoder) as video:
        assert read_numbers(video.frames([9, 3, 9, 31, 0, 3])) == [9, 3, 9, 31, 0, 3]
        assert read_numbers(video.frames(torch.tensor([5, 4]))) == [5, 4]
        assert read_numbers(video.frames(range(31, 28, -1))) == [31, 30, 29]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("indices", [[32], [-1], [0, 31, 99]])
def test_index_out_of_range_is_named(clip, decoder, indices):
    with (
        open_video(clip, decoder) as video,
        pytest.raises(ValueError, match=r"0\.\.31 .*clip\.mp4, got \[(32|-1|99)\]"),
    ):
        video.frames(indices)


@pytest.mark.parametrize("indices", [[], [0.5], [[0, 1]], [True], 3])
def test_indices_must_be_a_list_of_integers(clip, indices):
    with open_video(clip) as video, pytest.raises(ValueError, match="list of integers"):
        video.frames(indices)


def test_path_with_colon_spaces_and_unicode(tmp_path, monkeypatch):
    (tmp_path / "zoë is here").mkdir()
    monkeypatch.chdir(tmp_path / "zoë is here")
    write_video(tmp_path / "plain.mp4").rename("http:é %03d.mp4")
    with open_video("http:é %03d.mp4") as video:
        assert read_numbers(video.frames([7])) == [7]


def _missing(path):
    pass


def _dead_link(path):
    path.symlink_to(path.parent / "nowhere.mp4")


def _header_only(path):
    truncate(write_video(path), 0.01)


def _cut_between_packets(path):
    import av

    write_video(path, num_frames=60, faststart=True)
    with av.open(str(path)) as container:
        position = list(container.demux(video=0))[30].pos
    truncate(path, position / path.stat().st_size)


BROKEN = {
    "missing": (_missing, "no such file"),
    "directory": (Path.mkdir, "is a directory"),
    "pipe": (os.mkfifo, "is not a regular file"),
    "dead link": (_dead_link, "is a link to a file that is not there"),
    "empty": (Path.touch, r"is empty \(0 bytes\)"),
    "text": (lambda path: path.write_text("no video at all\n" * 200), "no video, damaged or cut short"),
    "header only": (_header_only, "no video, damaged or cut short"),
    "cut before its header": (
        lambda path: truncate(write_video(path), 0.6),
        "no video, damaged or cut short",
    ),
    "cut after its header": (
        lambda path: truncate(write_video(path, num_frames=60, faststart=True), 0.5),
        r"cut short: it ends with packet \d+ of 60",
    ),
    "last bytes gone": (
        lambda path: truncate(write_video(path, faststart=True), 0.99),
        "cut short: it ends with packet 32 of 32",
    ),
    "cut between packets": (_cut_between_packets, "cut short: it ends with packet 30 of 60"),
    "sound only": (write_audio, "there is no video in it"),
    "absurd rate": (lambda path: write_video(path, fps=5000), "frame rate of 5000 per second cannot be"),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_one_quick_line(tmp_path, capfd, case, decoder):
    break_file, cause = BROKEN[case]
    path = tmp_path / "broken.mp4"
    break_file(path)
    capfd.readouterr()  # what the encoder had to say
    start = time.process_time()
    with pytest.raises(DecodeError, match=cause) as caught:
        open_video(path, decoder)
    assert time.process_time() - start < 2
    assert caught.value.path == str(path)
    assert str(caught.value) == f"{path}: {caught.value.cause}"
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(clip):
    clip.chmod(0)
    with pytest.raises(DecodeError, match="Permission denied"):
        open_video(clip)


@pytest.mark.parametrize("decoder", DECODERS)
def test_damage_inside_is_a_decode_error(tmp_path, capfd, decoder):
    path = damage(write_video(tmp_path / "damaged.mp4", num_frames=120), 0.4, 0.7)
    capfd.readouterr()
    start = time.process_time()
    with open_video(path, decoder) as video, pytest.raises(DecodeError) as caught:
        video.frames(range(120))
    assert time.process_time() - start < 2
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.cause
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.77, 0.98])
@pytest.mark.parametrize("name", CUT)
def test_what_is_promised_of_a_cut_file_can_be_read(tmp_path, name, fraction):
    """These containers do not say how much there should be: what is there counts, and no frame more."""
    path = truncate(write_video(tmp_path / name, **CUT[name]), fraction)
    try:
        video = open_video(path)
    except DecodeError:
        return
    with video:
        numbers = read_numbers(video.frames(range(video.num_frames)))
    # Near the end one may be missing, if one shown after it was stored before it, or be only half there.
    assert numbers[:-4] == list(range(len(numbers) - 4))


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_a_decoder_that_is_not_installed(clip, monkeypatch, decoder):
    monkeypatch.setattr(opening_module, "_is_installed", lambda package: package != decoder)
    with open_video(clip) as video:
        assert video.decoder == "pyav"
    with pytest.raises(UserError, match=f"{decoder} is not installed here: .*choose"):
        open_video(clip, decoder)
    assert describe_decoder(decoder) == f"{decoder}: not installed"


@pytest.mark.parametrize("how", ["finds no FFmpeg", "does not import"])
def test_torchcodec_that_does_not_load_is_one_line(clip, monkeypatch, how):
    package = types.ModuleType("torchcodec")
    package.ffmpeg_major_version, package.decoders = None, types.ModuleType("torchcodec.decoders")
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None if how == "does not import" else package.decoders)
    monkeypatch.setattr(opening_module, "_is_installed", lambda package: True)
    with pytest.raises(UserError, match=r"^torchcodec does not load here: install FFmpeg [^\n]*$"):
        open_video(clip, "torchcodec")
    assert describe_decoder("torchcodec").startswith("torchcodec: torchcodec does not load here")


def test_unknown_decoder(clip):
    with pytest.raises(UserError, match="must be auto, decord, pyav or torchcodec, got 'opencv'"):
        open_video(clip, "opencv")


@pytest.mark.parametrize("decoder", DECODERS)
def test_files_and_threads_are_given_back(clip, tmp_path, decoder):
    def held():
        return [len(list(Path("/proc/self", kind).iterdir())) for kind in ("fd", "task")]

    broken = truncate(write_video(tmp_path / "broken.mp4", faststart=True), 0.5)

    def use():
        with open_video(clip, decoder) as video:
            video.frames([3, 30])
        with pytest.raises(DecodeError):
            open_video(broken, decoder)

    use()
    before = held()
    for _ in range(20):
        use()
    assert held() == before


def test_memory_stays_level(clip):
    def resident_mb():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def use(times):
        for _ in range(times):
            with open_video(clip) as video:
                video.frames([0, 31])

    use(50)
    before = resident_mb()
    use(200)
    assert resident_mb() - before < 1.5  # 8 KB for each open; a leaked picture alone is 9


def test_importing_loads_no_decoder():
    # The package itself imports all data modules, and so torch.
    code = (
        "import sys, types, mvrec\n"
        "package = sys.modules['mvrec.data'] = types.ModuleType('mvrec.data')\n"
        f"package.__path__ = [{str(Path(opening_module.__file__).parents[1])!r}]\n"
        "import mvrec.data.video.video, mvrec.data.video.pyav, mvrec.data.video.decord, mvrec.data.video.torchcodec\n"
        "print(sorted({'av', 'decord', 'torch', 'torchcodec'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_decode_error_survives_pickling():
    error = DecodeError(Path("a b.mp4"), "cut\nshort")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is DecodeError
    assert (copy.path, copy.cause, str(copy)) == ("a b.mp4", "cut short", "a b.mp4: cut short")


def test_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)
