"""docs/own_code.md as its reader takes it: its files are written, its commands run."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mvrec import class_paths

pytestmark = pytest.mark.usefixtures("no_pictures")
DOCS = Path(__file__).parents[2] / "docs"


def read(page):
    """Return the files of a page by name, and its commands."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    files = {text.split("\n")[0].removeprefix("# "): text for language, text in blocks if language}
    return files, [line for language, text in blocks if not language for line in text.splitlines()]


FILES, COMMANDS = read("own_code.md")
PARTS, PARTS_COMMANDS = read("own_parts.md")


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
        for name in ("my_models", "my_backbone", "my_data", "my_parts", "my_arrays", "my_decoder"):
            sys.modules.pop(name, None)

    call()
    yield call
    call()


def test_the_page_works_as_it_stands(command, digits, forget, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(FILES) == 6
    write(FILES, digits)
    arrays, fit, recognize, resume = (shlex.split(line)[1:] for line in COMMANDS)
    code, _, err = command(*arrays, *PLAIN)
    assert code == 0, err
    assert "2 classes" in err
    assert "(4/4 videos scored" in err
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


def weights(path):
    return torch.load(path, weights_only=False)["state_dict"]


def test_own_parts_train_resume_exactly_and_are_scored(command, digits, forget, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write({**FILES, **PARTS}, digits)
    fit, resume, test, *_ = (shlex.split(line)[1:] for line in PARTS_COMMANDS)
    code, out, err = command(*fit, *PLAIN)
    assert code == 0, err
    assert re.search(r"brier 0\.\d+, kappa -?\d\.\d+ \(4/4 videos", err)
    assert "brier 0." in out  # by the callback
    checkpoint = torch.load("runs/parts/checkpoints/last.ckpt", weights_only=False)
    assert checkpoint["mvrec"]["parts"]["my_parts.Focal"]["file"] == str(tmp_path / "mine/my_parts.py")
    code, _, err = command(*resume, *PLAIN)
    assert code == 0, err
    assert "code of my_" not in err
    code, _, err = command(*fit, *PLAIN, "--trainer.max_epochs=2", "--run_dir=runs/whole")
    assert code == 0, err
    resumed, whole = (weights(f"runs/{run}/checkpoints/last.ckpt") for run in ("parts", "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    forget()
    with Path("mine/my_parts.py").open("a", encoding="utf-8") as file:
        file.write("# another version\n")
    code, _, err = command(*resume, *PLAIN, "--trainer.max_epochs=3")
    assert code == 0, err
    (line,) = (line for line in err.splitlines() if "resume: changed" in line)
    parts = r"code of my_parts.Focal, my_parts.Noise, my_parts.Pause, my_parts.brier in \S+/mine/my_parts.py"
    assert re.search(parts, line)
    assert "my_models" not in line
    forget()
    code, _, err = command(*test[:-2], *PLAIN)
    assert code == 2
    assert re.search(r"its metric is my_parts.brier, .* add --trust my_parts", err.splitlines()[-1])
    forget()
    code, _, err = command(*test, *PLAIN)
    assert code == 0, err
    assert {"brier", "kappa"} < json.loads(Path("runs/parts/metrics.json").read_text("utf-8"))["metrics"].keys()


def test_an_own_decoder_trains_is_recorded_and_recognises(command, digits, forget, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write({**FILES, **PARTS}, digits)
    Path("stacks").mkdir()
    for split in ("train", "val"):
        for number, label in enumerate("abab"):
            np.save(f"stacks/{split}_{number}.npy", np.full((8, 40, 48), 60 + 100 * (label == "b"), np.uint8))
        rows = [f"{split}_{number}.npy,{label}" for number, label in enumerate("abab")]
        Path(f"stacks/{split}.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    Path("stacks/train_0.npy").write_bytes(b"no stack")
    fit, recognize = (shlex.split(line)[1:] for line in PARTS_COMMANDS[-2:])
    code, _, err = command(*fit, *PLAIN, "--data.max_bad_fraction=0.5")
    assert code == 0, err
    assert re.search(r"train_0.npy: data.decoder: my_decoder.Stack raised \w+: .*; --debug shows where", err)
    assert "(4/4 videos scored" in err
    checkpoint = torch.load("runs/stacks/checkpoints/last.ckpt", weights_only=False)
    assert checkpoint["mvrec"]["parts"]["my_decoder.Stack"]["file"] == str(tmp_path / "mine/my_decoder.py")
    forget()
    code, _, err = command(*recognize)
    assert code == 0, err
    assert len(Path("found.csv").read_text("utf-8").splitlines()) == 5
