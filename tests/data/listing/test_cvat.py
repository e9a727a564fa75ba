"""CVAT's annotations of videos and of single images as boxes of key frames."""

import pytest
from cvat_files import box, task, write_xml
from video_files import write_video

from mvrec.data import VideoBoxes
from mvrec.data.listing.boxes.cvat import read_cvat
from mvrec.data.listing.boxes.reading import FrameRule, read_boxes
from mvrec.data.loading.frames.seconds import FrameSeconds
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.errors import UserError


def ten_per_second(video, frame):
    return frame / 10


ACTIONS = ["action", "talks"]


def test_tracks_give_a_key_frame_per_second_with_the_actions_of_their_attributes(tmp_path):
    body = '<track id="0" label="person">\n' + "".join(box(frame, frame) for frame in range(5, 26))
    body += box(30, talks="true") + box(40, outside=1) + box(50, action="none") + "</track>"
    body += '<track id="3" label="dog barks"><box frame="20" outside="0" xtl="5" ytl="5" xbr="9" ybr="9"/></track>'
    path = write_xml(tmp_path / "x.xml", body)
    rows = list(read_cvat(path, ten_per_second, attributes=ACTIONS))
    assert [(row.seconds, row.label, row.person) for row in rows] == [
        *((0.5, "walk", "7/0"), (1.0, "walk", "7/0"), (2.0, "walk", "7/0"), (3.0, "walk", "7/0")),
        *((3.0, "talks", "7/0"), (5.0, "", "7/0"), (2.0, "dog barks", "7/3")),
    ]
    assert {(row.path, row.relative) for row in rows} == {("a.mp4", False)}
    assert rows[0].corners == (5, 2, 30.5, 40)
    lines = path.read_text().splitlines()
    assert 'frame="5"' in lines[rows[0].line - 1]
    assert len(list(read_cvat(path, ten_per_second, every=None, attributes=ACTIONS))) == 21 + 2 + 1 + 1
    assert [row.seconds for row in read_cvat(path, ten_per_second, every=0.5)][:3] == [0.5, 0.5, 1.0]
    assert {row.label for row in read_cvat(path, ten_per_second)} >= {"walk", "33"}


def test_attributes_of_a_label_that_the_file_does_not_describe_are_actions(tmp_path):
    tasks = "<task><id>7</id><source>a.mp4</source></task>"
    path = write_xml(tmp_path / "x.xml", f'<track id="0" label="person">{box(0, talks="true")}</track>', tasks=tasks)
    assert [row.label for row in read_cvat(path, ten_per_second)] == ["walk", "talks", "33"]


def test_each_second_with_boxes_has_a_key_frame_that_tracks_share(tmp_path):
    """Every seventh frame is annotated, and the second track begins within the first second."""
    tracks = {"0": range(0, 40, 7), "1": range(7, 40, 7), "2": range(19, 22)}
    boxes = {name: "".join(map(box, frames)) for name, frames in tracks.items()}
    body = "".join(f'<track id="{name}" label="person">{text}</track>' for name, text in boxes.items())
    rows = read_cvat(write_xml(tmp_path / "x.xml", body), ten_per_second, attributes=ACTIONS)
    seconds: dict[str, list[float]] = {}
    for row in rows:
        seconds.setdefault(row.person, []).append(row.seconds)
    assert seconds == {"7/0": [0.0, 1.4, 2.1, 3.5], "7/1": [1.4, 2.1, 3.5], "7/2": [2.1]}


def test_boxes_of_images_are_read_by_the_video_of_their_task_or_by_the_folder_of_their_names(tmp_path):
    image = '<box label="person" xtl="1" ytl="2" xbr="3" ybr="4"><attribute name="action">sit</attribute></box></image>'
    video = write_xml(tmp_path / "v.xml", f'<image id="7" name="frame_000007" width="9" height="9">{image}')
    assert [(row.path, row.seconds, row.label) for row in read_cvat(video, ten_per_second)] == [("a.mp4", 0.7, "sit")]
    body = f'<image id="7" name="clips/b/000012.jpg" width="9" height="9">{image}'
    folder = write_xml(tmp_path / "f.xml", body, tasks=task(1, "images"))
    assert [(row.path, row.seconds) for row in read_cvat(folder, ten_per_second)] == [("clips/b", 1.2)]


def test_a_project_has_a_video_per_task(tmp_path):
    tasks = f"<project><tasks>{task(1, 'b.mp4')}{task(2, 'x', source='c.mp4')}</tasks></project>"
    body = "".join(f'<track id="0" label="person" task_id="{number}">{box(10)}</track>' for number in (1, 2))
    rows = read_cvat(write_xml(tmp_path / "p.xml", body, tasks=tasks), ten_per_second, attributes=ACTIONS)
    assert [(row.path, row.person) for row in rows] == [("b.mp4", "1/0"), ("c.mp4", "2/0")]


@pytest.mark.parametrize(
    ("body", "tasks", "line", "message"),
    [
        ('<track id="0" label="person">\n<box frame="1', None, 1, "not XML: "),
        (f'<track id="0" label="person">\n{box(10)}</track>', task(1, "x"), 1, "the file names no video"),
        ('\n<track id="0" label="p"><box frame="x"/></track>', None, 1, "'x' is not the number of a frame"),
        ('\n<track id="0" label="p"><box frame="0" xtl="1"/></track>', None, 1, "ytl is empty"),
        (
            '<image id="0" name="a.jpg"><box label="p"/></image>',
            task(1, "x"),
            0,
            "the image 'a.jpg' is not numbered in",
        ),
    ],
)
def test_wrong_xml_is_one_line_with_its_place(tmp_path, body, tasks, line, message):
    path = write_xml(tmp_path / "x.xml", body, tasks=tasks)
    first = path.read_text().partition(body)[0].count("\n") + 1
    with pytest.raises(UserError, match=rf"^{path}:{first + line}: {message}") as error:
        list(read_cvat(path, ten_per_second))
    assert "\n" not in str(error.value)


def test_without_videos_their_times_are_unknown(tmp_path):
    path = write_xml(tmp_path / "x.xml", "")
    with pytest.raises(UserError, match="CVAT numbers frames, whose times are unknown here"):
        list(read_boxes(path))
    assert list(read_boxes(path, FrameRule(ten_per_second))) == []


def test_frames_have_the_times_of_their_video(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/a.mp4", num_frames=20, fps=25)
    write_video(tmp_path / "b.mp4", num_frames=6, ticks=[0, 20, 40, 160, 180, 200])
    seconds = FrameSeconds(tmp_path)
    assert [seconds("a.mp4", frame) for frame in (0, 5, 30)] == [0, 0.2, 1.2]
    assert [round(seconds("b.mp4", frame), 4) for frame in (1, 3, 4)] == [round(t / 600, 4) for t in (20, 160, 180)]
    assert seconds("b.mp4", 7) > 200 / 600
    assert seconds("gone.mp4", 15) == 0.5


def test_videos_with_a_file_of_cvat_per_task_become_batches(tmp_path):
    for name in "abcd":
        write_video(tmp_path / f"{name}.mp4", num_frames=75, fps=25)
        body = '<track id="0" label="person">' + "".join(box(frame) for frame in range(75)) + "</track>"
        body = body.replace("walk", "sit") if name in "bd" else body
        write_xml(tmp_path / f"annotations/{name}.xml", body, tasks=task(1, name, source=f"{name}.mp4"))
    settings = {"clip": ClipSpec(4, 2), "size": 32, "batch_size": 2, "num_workers": 0, "seed": 0, "attributes": ACTIONS}
    data = VideoBoxes(str(tmp_path), val_fraction=0.25, **settings)
    data.setup("fit")
    assert set(data.class_names) == {"sit", "walk"}
    assert (len(data.index("train")), len(data.index("val"))) == (9, 3)
    assert [sample.start_seconds for sample in data.index("val")] == [0, 1, 2]
    batch = next(iter(data.val_dataloader()))
    assert [target["places"].shape[0] for target in batch.targets] == [1, 1]
    assert batch.targets[0]["places"][0].tolist() == pytest.approx([1 / 64, 2 / 48, 30.5 / 64, 40 / 48])
