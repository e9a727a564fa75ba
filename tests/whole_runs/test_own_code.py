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


PLAIN = ["--trainer.accelerator=cpu", "--data.num_workers=1"]


def write(files, digits):
    """Write the files of a page, and videos of two classes named after them."""
    Path("mine").mkdir()
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    for path in (path for label in ("grow", "move_left") for path in digits.glob(f"*/{label}/*")):
        target = Path("my_videos", path.parts[-3], f"{path.parts[-2]}_{path.stem[-3:]}.mp4")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


@pytest.fixture
def forget(monkeypatch):
    """Forget modules of one's own, as a new process does."""

    def call():
        monkeypatch.setattr(class_paths, "_named", set())
        monkeypatch.setattr(class_paths, "_folders", [])
        monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not folder.endswith("/mine")])
        for name in ("my_models", "my_backbone", "my_data"):
            sys.modules.pop(name, None)

    call()
    yield call
    call()


def test_the_page_works_as_it_stands(command, digits, forget, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(FILES) == ["mine/my_models.py", "mine/my_backbone.py", "mine/my_data.py", "mine/my.yaml"]
    write(FILES, digits)
    fit, recognize, resume = (shlex.split(line)[1:] for line in COMMANDS)
    code, _, err = command(*fit, *PLAIN, "--model.backbone=my_backbone.MyBackbone", "--run_dir=runs/backbone")
    assert code == 0, err
    code, _, err = command(*fit, *PLAIN)
    assert code == 0, err
    assert "MyNet (16 features), 0.00 M parameters, 2 classes" in err
    for arguments, flags in ((recognize, []), (resume, [*PLAIN, "--trainer.max_epochs=2"])):
        forget()
        without = [word for word in arguments if not word.endswith(".py") and word != "--trust"]
        code, _, err = command(*without, *flags)
        assert code == 2, err
        assert "my_models.MyNet" in err.splitlines()[-1]
        assert "add --trust FOLDER/my_models.py" in err.splitlines()[-1]
        forget()
        code, _, err = command(*arguments, *flags)
        assert code == 0, err
    assert len(Path("found.csv").read_text("utf-8").splitlines()) == 5
