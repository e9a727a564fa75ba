import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from video_files import write_video

import mvrec
from mvrec.data.video.stream import Stream
from mvrec.inference.timeline.segments import TimelineKnobs, merge
from mvrec.inference.timeline.windows import clip_seconds


@pytest.fixture
def recognize(command, small_run, small_data):
    """The JSON lines of `mvrec recognize` of the test videos, and its messages."""

    def call(*arguments, source=small_data / "test", expected=0):
        code, out, err = command("recognize", source, "--ckpt", small_run, "--format=jsonl", *arguments)
        assert code == expected, err
        return [json.loads(line) for line in out.splitlines()], err

    return call


def test_a_timeline_merges_the_windows_of_each_video(recognize, tmp_path, small_data):
    flags = ("--window=0.5", "--stride=0.25")
    parts, _ = recognize(*flags, "--top=100")
    names = sorted({entry["class"] for part in parts for entry in part["classes"]})
    knobs = TimelineKnobs(on=0.15, off=0.1)
    expected = []
    for path in dict.fromkeys(part["path"] for part in parts):
        of_video = [part for part in parts if part["path"] == path]
        rows = [{entry["class"]: entry["probability"] for entry in part["classes"]} for part in of_video]
        starts, ends = (np.array([part[key] for part in of_video]) for key in ("start_seconds", "end_seconds"))
        segments = merge([[row[name] for name in names] for row in rows], starts, ends, names, knobs)
        expected += [
            (path, part.name, part.start, part.end, pytest.approx(part.confidence, abs=1e-5)) for part in segments
        ]
    assert len(expected) > 1
    truth = tmp_path / "truth.csv"
    rows = [f"{path},{label},{start},{end}" for path, label, start, end, _ in expected]
    truth.write_text("\n".join(["path,label,start,end", *rows]))
    lines, err = recognize(*flags, "--timeline", "--on=0.15", "--off=0.1", f"--truth={truth}")
    keys = ("path", "label", "start_seconds", "end_seconds", "confidence")
    assert [tuple(line[key] for key in keys) for line in lines] == expected
    assert "tIoU mAP 100.00 % at 0.5" in err


def test_a_truth_of_other_videos_is_refused_and_of_some_is_said(recognize, small_data, tmp_path):
    videos = sorted((small_data / "test").rglob("*.*"))
    truth = tmp_path / "truth.csv"
    truth.write_text(f"path,label,start,end\n{videos[0].name},grow,0,1\n")
    lines, err = recognize("--timeline", f"--truth={truth}", expected=2)
    assert lines == []
    assert "none of its videos is among the recognised files" in err.splitlines()[-1]
    assert f"it has {tmp_path / videos[0].name} (there is no such file), and they have {videos[0]};" in err
    truth.write_text(f"path,label,start,end\n{videos[0]},grow,0,1\n{videos[1].name},grow,0,1\n")
    _, err = recognize("--timeline", f"--truth={truth}")
    assert "1 video of" in err
    assert f"not among the recognised files, so true segments there count as missed: {tmp_path}" in err
    assert f"{len(videos) - 1} videos not in {truth}, so all segments there count as wrong: {videos[1]}" in err
    assert "(2 segments of 1 class in" in err


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--on=0.4"], "--on is for timelines: add --timeline"),
        (["--timeline", "--off=0.9"], "0 < off <= on <= 1"),
        (["--timeline", "--background=nothing"], "'nothing' is no class"),
        (["--timeline", "--masks=o"], "--timeline writes no masks"),
        (["--page=o.html"], "--page is for timelines: add --timeline"),
        (["--timeline", "--truth=absent.csv"], "absent.csv"),
        (["--timeline", "--page=."], "--page . is a folder"),
        (["--timeline", "--page=/proc/none/page.html"], "cannot write /proc/none/page.html: "),
    ],
)
def test_a_timeline_that_cannot_be_is_refused_in_one_line(command, small_run, small_data, flags, fault):
    code, _, err = command("recognize", small_data / "test", "--ckpt", small_run, *flags)
    assert code == 2
    assert fault in err.splitlines()[-1]


def test_python_gets_the_segments_of_the_command(recognize, small_run, tmp_path):
    write_video(tmp_path / "a.mp4", num_frames=60, size=(64, 64), fps=10)
    (tmp_path / "nö.mp4").write_bytes(b"no video")
    videos = list(mvrec.load(small_run).segments(tmp_path, timeline=mvrec.TimelineKnobs(on=0.1, off=0.05)))
    rows = [row for video in videos for row in video.as_rows()]
    lines, _ = recognize("--timeline", "--on=0.1", "--off=0.05", source=tmp_path, expected=1)
    keys = ("path", "start_seconds", "confidence", "error")
    assert [[row.get(key) for key in keys] for row in rows] == [[line.get(key) for key in keys] for line in lines]
    assert [len(video) > 0 for video in videos] == [True, False]
    with pytest.raises(mvrec.DecodeError, match="nö"):
        mvrec.load(small_run).segments(tmp_path / "nö.mp4")


def test_windows_are_as_long_as_a_clip_at_the_rate_of_each_file(small_run, tmp_path):
    protocol = mvrec.load(small_run).protocol
    protocol = replace(protocol, clip=replace(protocol.clip, target_fps=None))
    model = mvrec.load(small_run, protocol=protocol)
    knobs = mvrec.TimelineKnobs(on=0.1, off=0.05)
    for fps in (10, 20):
        write_video(tmp_path / f"{fps}.mp4", num_frames=60, size=(64, 64), fps=fps)
        window = protocol.clip.num_frames * protocol.clip.stride_frames / fps
        video = model.segments(tmp_path / f"{fps}.mp4", timeline=knobs)
        expected = model.segments(tmp_path / f"{fps}.mp4", timeline=knobs, window=window, stride=window / 2)
        assert list(video) == list(expected) != []
        assert video.span == (0.0, 60 / fps)
        with Stream(f"file://{tmp_path}/{fps}.mp4") as stream:
            assert clip_seconds(protocol, stream.fps) == window
    with pytest.raises(mvrec.UserError, match="'nothing' is no class"):
        model.segments(tmp_path, timeline=mvrec.TimelineKnobs(background="nothing"))


def test_segments_are_drawn_into_the_videos_and_a_page(recognize, tmp_path):
    folder = tmp_path / "vídeos <b>"
    folder.mkdir()
    write_video(folder / "a b.mp4", num_frames=20, size=(64, 64), fps=10)
    (folder / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "truth.csv").write_text("path,label,start,end\nvídeos <b>/a b.mp4,move_left,0.5,1\n", encoding="utf-8")
    flags = ("--timeline", "--on=0.1", "--off=0.05", "--window=1")
    page, videos = tmp_path / "new/page.html", tmp_path / "drawn"
    lines, _ = recognize(
        *(*flags, f"--truth={tmp_path}/truth.csv", f"--page={page}", f"--overlays={videos}"), source=folder, expected=1
    )
    text = page.read_text(encoding="utf-8")
    assert "vídeos &lt;b&gt;/a b.mp4" in text
    assert "<b>/" not in text
    assert "tIoU mAP" in text
    assert all(f"{line['label']}, 0:00.0 to 0:02.0, {100 * line['confidence']:.1f} %" in text for line in lines[:-1])
    assert "move_left, 0:00.5 to 0:01.0<" in text
    recognize(*flags, f"--page={page}", source=folder, expected=1)
    text = page.read_text(encoding="utf-8")
    for line in lines[:-1]:
        assert f'<bdi>{line["label"]}</bdi></td><td class="num">{100 * line["confidence"]:.1f} %</td>' in text
    assert "tIoU" not in text
    assert [path.name for path in videos.iterdir()] == ["a b.mp4"]
    with mvrec.open_video(videos / "a b.mp4") as video:
        assert video.num_frames == 20
        assert video.times[10] == pytest.approx(1.0)
        assert video.size == (320 + 2 * 20, 320)


def test_the_report_of_a_run_shows_segments_and_their_score(command, recognize, small_run, small_data, tmp_path):
    run = shutil.copytree(small_run, tmp_path / "run")
    segments, truth = tmp_path / "segments.csv", tmp_path / "truth.csv"
    recognize("--timeline", "--on=0.1", "--off=0.05", "--format=csv", f"--output={segments}")
    (path,) = {line.split(",")[0] for line in segments.read_text("utf-8-sig").splitlines()[1:2]}
    truth.write_text(f"path,label,start,end\n{path},grow,0,1\n{path[:-4]}x.mp4,grow,0,1\n")
    code, _, err = command("report", run, "--segments", segments, "--truth", truth)
    assert code == 0, err
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "(2 segments of 1 class in" in page
    assert f"<bdi>{path}</bdi>" in page
    assert "grow, 0:00.0 to 0:01.0<" in page
    truth.write_text(f"path,label,start,end\n{path[:-4]}x.mp4,grow,0,1\n")
    code, _, err = command("report", run, "--segments", segments, "--truth", truth)
    assert code == 2
    assert f"none of its videos is among those of {segments}" in err
    for text, fault in (
        ("path,label\na,grow\n", ": no column start_seconds"),
        ("path,start_seconds,end_seconds,label,confidence\na,0,1,grov,1\n", ":2: 'grov' is no class of the run; did"),
        ("path,start_seconds,end_seconds,label,confidence\na,0,x,grow,1\n", ":2: could not convert"),
    ):
        segments.write_text(text)
        code, _, err = command("report", run, "--segments", segments)
        assert code == 2
        assert f"segments.csv{fault}" in err
