"""docs/own_code.md as its reader takes it: its files are written, its commands run."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from mvrec import class_paths

PAGE = (Path(__file__).parents[2] / "docs/own_code.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
FILES = {text.split("\n")[0].removeprefix("# "): text for language, text in BLOCKS if language}
COMMANDS = [line for language, text in BLOCKS if not language for line in text.splitlines()]


@pytest.fixture
def reader(digits, tmp_path, monkeypatch):
    """A folder with the page's files and some videos."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    for split in ("train", "val"):
        folder = Path("my_videos") / split
        folder.mkdir(parents=True)
        for label in ("grow", "move_left"):
            for number, path in enumerate(sorted((digits / split / label).iterdir())):
                shutil.copy(path, folder / f"{label}_{number:03d}.mp4")
    return tmp_path


@pytest.fixture
def fresh(monkeypatch):
    """What a new process knows of modules of one's own: nothing."""

    def forget():
        monkeypatch.setattr(class_paths, "_named", set())
        monkeypatch.setattr(class_paths, "_folders", [])
        monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not folder.endswith("/mine")])
        for name in ("my_models", "my_data"):
            sys.modules.pop(name, None)

    forget()
    yield forget
    forget()


def test_the_page_works_as_it_stands(command, reader, fresh):
    assert list(FILES) == ["mine/my_models.py", "mine/my_data.py", "mine/my.yaml"]
    fit, recognize, resume = (shlex.split(line)[1:] for line in COMMANDS)
    plain = ["--trainer.accelerator=cpu", "--data.num_workers=1"]
    code, _, err = command(*fit, *plain)
    assert code == 0, err
    assert "2 classes" in err
    for arguments, flags in ((recognize, []), (resume, [*plain, "--trainer.max_epochs=2"])):
        fresh()
        without = [word for word in arguments if not word.endswith(".py") and word != "--trust"]
        code, _, err = command(*without, *flags)
        assert code == 2, err
        assert "my_models.MyNet" in err.splitlines()[-1]
        assert "add --trust FOLDER/my_models.py" in err.splitlines()[-1]
        fresh()
        code, _, err = command(*arguments, *flags)
        assert code == 0, err
    assert len(Path("found.csv").read_text("utf-8").splitlines()) == 5
