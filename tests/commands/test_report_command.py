"""`mvrec report` on real runs: of videos and images, tested and not, moved, without matplotlib."""

import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tarfile
from base64 import b64decode

import av
import numpy as np
import pytest
import simplejpeg
from PIL import Image
from video_files import read_number, write_video

from mvrec.cli.main import main as mvrec
from mvrec.commands.report import main
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import ClipProtocol, ImageProtocol, Views
from mvrec.errors import DecodeError, install_hint
from mvrec.inference.thumbnails import find_file, thumbnails
from mvrec.tasks.classification.report import mistakes_section
from mvrec.tasks.classification.run_results import read_predictions


@pytest.fixture(scope="module")
def tested(tmp_path_factory, digits_run):
    """A run of the tiny network, tested."""
    run = shutil.copytree(digits_run.folder, tmp_path_factory.mktemp("a folder <&> ü") / "run")
    mvrec(["test", "--ckpt_path", str(run / "checkpoints/best.ckpt"), "--run_dir", str(run)])
    return run


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def pictures(page):
    """The thumbnails in a page."""
    return [decoded(b64decode(text)) for text in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]


def test_a_tested_run_shows_what_the_network_saw_and_the_same_when_rendered_again(tested, tmp_path, capsys):
    main([str(tested), "--mistakes", "3"])
    out = capsys.readouterr().out
    page = (tested / "report.html").read_text()
    assert "of 24 videos scored, 0 could not be read" in page
    assert "4x4 at own fps" in page
    assert "counterclockwise" in page
    for title in ("Training", "Parameter groups", "Environment", "Configuration"):
        assert f">{title}</h2>" in page
    shown = pictures(page)
    assert len(shown) == 3 * 4  # four frames of each
    assert all(picture.shape == (64, 64, 3) and picture.std() > 5 for picture in shown)
    assert any(not np.array_equal(shown[0], other) for other in shown[1:4])  # it moves
    assert page.count("no picture") == 0
    assert sorted(path.name for path in (tested / "report").iterdir()) == ["classes.png", "confusion.png", "curves.png"]
    assert str(tested / "report.html") in out
    main([str(tested), "--mistakes", "3", "-o", str(tmp_path / "a/again.html")])
    assert (tmp_path / "a/again.html").read_text() == page
    assert (tmp_path / "a/again/curves.png").is_file()


@pytest.fixture
def copied(tested, tmp_path):
    """A copy of the tested run without its checkpoints."""
    left_out = shutil.ignore_patterns("checkpoints", "report", "report.html")
    return shutil.copytree(tested, tmp_path / "run", ignore=left_out)


@pytest.fixture
def no_figures(monkeypatch):
    """No matplotlib, whose figures take seconds."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))


def test_neither_network_nor_checkpoint_nor_matplotlib_is_needed(copied, no_figures, monkeypatch, capsys):
    monkeypatch.setattr("torch.nn.Module.__call__", lambda *_: pytest.fail("the network was run"))
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("a checkpoint was loaded"))
    main([str(copied)])
    assert capsys.readouterr().out.count(install_hint("plot")) == 1
    page = (copied / "report.html").read_text()
    assert len(pictures(page)) > 0
    assert page.count(install_hint("plot").replace("'", "&#x27;")) == 1
    assert "<polyline" in page  # the curves are there all the same
    assert not (copied / "report").exists()
    with (copied / "metrics.csv").open("a") as file:
        file.write("7,1.2e-\n")
    main([str(copied), "--mistakes=0"])
    assert "metrics.csv is damaged" in capsys.readouterr().out
    assert "metrics.csv is damaged" in (copied / "report.html").read_text()


def test_a_report_without_pictures_imports_neither_torch_nor_lightning(copied):
    code = (
        "import sys\nfrom mvrec.cli.main import main\nmain(sys.argv[1:])\n"
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    program = [sys.executable, "-c", code, "report", str(copied), "--mistakes", "0"]
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_videos_that_have_moved_are_found_below_the_root(copied, no_figures, digits):
    def page(*arguments):
        main([str(copied), "--mistakes", "3", *arguments])
        return (copied / "report.html").read_text()

    text = (copied / "predictions.csv").read_text()
    (copied / "predictions.csv").write_text(text.replace(str(digits), "/nowhere/data"))
    moved = page()
    assert "no picture: the file is not there any more" in moved
    assert not pictures(moved)
    complete = page("--root", str(digits))
    assert len(pictures(complete)) > 0
    assert "no picture" not in complete


ONE_FRAME = ClipProtocol(ClipSpec(num_frames=1), Views(num_clips=1, short_side=64), size=64)


def half_white(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 255
    return pixels


def save_jpeg(path, height, width):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(simplejpeg.encode_jpeg(half_white(height, width), colorspace="RGB"))


def test_an_image_is_what_the_protocol_makes_of_it(tmp_path):
    path = tmp_path / "ein bild ü.jpg"
    save_jpeg(path, 90, 301)
    (content,) = thumbnails(path, ImageProtocol(short_side=256, size=224), pixels=100)
    picture = decoded(content)
    assert picture.shape == (100, 100, 3)
    assert picture[:, :40].mean() < 10
    assert picture[:, 60:].mean() > 245
    (content,) = thumbnails(path, ImageProtocol(short_side=40, size=32), pixels=100)
    assert decoded(content).shape == (32, 32, 3)


@pytest.mark.parametrize("kind", ["jpeg", "video"])
def test_pictures_are_as_players_show_them(tmp_path, kind):
    """Mirrored in the file's header: what is dark on the left of the stored pixels is dark on the right."""
    stored = half_white(64, 64)
    if kind == "jpeg":
        exif, path = Image.Exif(), tmp_path / "a.jpg"
        exif[0x0112] = 2
        Image.fromarray(stored).save(path, exif=exif)
        protocol = ImageProtocol(short_side=64, size=64, upright=True)
    else:
        path = tmp_path / "a.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width = stream.height = 64
            stream.set_display_matrix([-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
            container.mux(stream.encode())
        protocol = ONE_FRAME
    (content,) = thumbnails(path, protocol)
    picture = decoded(content)
    assert picture[:, :28].mean() > 230
    assert picture[:, 36:].mean() < 25


def test_the_part_that_was_scored_is_shown(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=100, size=(64, 64))
    listed = tmp_path / "predictions.csv"
    columns = "path,label,class_1,probability_1,views,error,start_seconds,end_seconds"
    listed.write_text(f"{columns}\n{path},walk,run,0.9,1,,2.000,3.000\n")
    (row,) = read_predictions(listed)
    (content,) = thumbnails(path, ONE_FRAME, span=row.span)
    assert 60 <= read_number(decoded(content)) < 90
    assert "from 2 s to 3 s" in mistakes_section([row], 1, "videos", lambda row: [content])


def test_files_in_a_tar_and_in_a_moved_tar(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    save_jpeg(old / "x.jpg", 40, 40)
    new.mkdir()
    with tarfile.open(old / "val.tar", "w") as archive:
        archive.add(old / "x.jpg", "n01/x.jpg")
    recorded = f"{old}/val.tar/n01/x.jpg"
    protocol = ImageProtocol(short_side=32, size=32)
    assert thumbnails(find_file(recorded), protocol)
    shutil.move(old / "val.tar", new / "val.tar")
    with pytest.raises(DecodeError, match="not there any more"):
        find_file(recorded)
    assert thumbnails(find_file(recorded, new), protocol)
    with pytest.raises(DecodeError, match="not below"):
        find_file(f"{old}/val.tar/n01/y.jpg", new)


def test_the_longest_end_of_a_path_wins(tmp_path):
    for name in ("x.jpg", "b/x.jpg"):
        save_jpeg(tmp_path / name, 8, 8)
    assert find_file("/gone/a/b/x.jpg", tmp_path) == tmp_path / "b/x.jpg"
    assert find_file("/gone/c/x.jpg", tmp_path) == tmp_path / "x.jpg"
    with pytest.raises(DecodeError):
        find_file("/gone/c/z.jpg", tmp_path)
