"""docs/python.md and its notebook as their readers take them: all code runs, block by block."""

import json
import re
import shutil
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def folder(digits_run, digits, tmp_path, monkeypatch):
    """A folder with a run, a video and two classes of videos."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits_run.folder, "runs/demo")
    for name in ("grow", "move_left"):
        shutil.copytree(digits / "train" / name, Path("my_videos") / name)
    shutil.copy(next((digits / "test/grow").iterdir()), "clip.mp4")
    return tmp_path


def run_all(name: str, blocks: list[str]) -> dict:
    names: dict = {"__name__": name}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{name}, block {number}", "exec"), names)
    return names


def test_the_code_of_the_page_runs_and_gives_what_it_says(folder, capfd):
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "python.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 9
    names = run_all("python.md", blocks)
    expected = names["from_file"].output.probabilities
    assert names["probabilities"].double().sub(expected).abs().max() < 1e-5
    assert names["matrix"].shape == (2, *names["vector"].shape)
    assert (folder / "heat.png").is_file()
    assert (names["run"].folder / "predictions.csv").is_file()


def test_the_notebook_runs_from_the_first_to_the_last_cell_and_is_kept_without_outputs(folder, capfd):
    notebook = json.loads((DOCS / "first_hour.ipynb").read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] or cell["execution_count"] for cell in cells] == [None] * len(cells)
    names = run_all("first_hour.ipynb", ["".join(cell["source"]) for cell in cells])
    assert len(names["vectors"]) == len(names["results"]) == 6
    assert (folder / "heat.png").is_file()
