"""The tables of docs/performance.md are those of benchmarks/results."""

import re
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def page(script):
    return script("page")


def test_the_tables_of_the_page_are_those_of_the_results(page, tmp_path, monkeypatch, capsys):
    text = page.PAGE.read_text()
    assert page.filled(text) == text, "run python benchmarks/page.py"
    folder = shutil.copytree(page.FOLDER, tmp_path / "results")
    changed = next(folder.glob("*/mvit.json"))
    changed.write_text(changed.read_text().replace('"training step', '"another step'))
    other = page.filled(text, folder)
    assert "| another step" in other
    monkeypatch.setattr(page, "PAGE", tmp_path / "performance.md")
    page.PAGE.write_text(other)
    monkeypatch.setattr("sys.argv", ["page.py", "--check"])
    with pytest.raises(SystemExit, match="run python benchmarks/page"):
        page.main()
    monkeypatch.setattr("sys.argv", ["page.py"])
    page.main()
    assert page.PAGE.read_text() == text


def test_every_file_has_a_table_and_every_table_a_benchmark(page):
    tables = {name for _, name, *_ in re.findall(page.MARKED, page.PAGE.read_text())}
    assert {path.stem for path in page.FOLDER.glob("*/*.json")} <= tables
    assert all((page.FOLDER.parent / f"{name}.py").exists() for name in tables)


def test_a_table_has_the_columns_that_its_rows_need(page):
    row = page.Row
    assert page.by_row([row("net", "step", peer="timm", mvrec=1234.5, other=0.04, unit="ms", ratio=[2.0, 2.1]),
                        row("net", "start", mvrec=1.2, low=1.0, high=1.5, goal=2.0, more={"MFU": 0.3})]) == (
        "| What | Measure | Peer | mvrec | Peer's | Ratio | Range | Goal | MFU |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| net | step | timm | 1,234 ms | 0.04 ms | 2.00, 2.10 |  |  |  |\n"
        "| net | start |  | 1.2 |  |  | 1 to 1.5 | below 2 | 0.3 |"
    )  # fmt: skip
    assert page.by_subject([row("a", "step", ratio=1.0), row("b", "step", ratio=2.0, goal=1.5)]) == (
        "| Measure | Goal | a | b |\n| --- | --- | --- | --- |\n| step | 1.5 | 1.00 | 2.00 |"
    )


def test_a_measurement_runs_what_fits_and_names_what_it_leaves_out(page, monkeypatch):
    commands = []

    def run(words, *, timeout):
        name = Path(words[1]).stem
        commands.append((name, *words[2:]))
        if name == "slow":
            raise page.subprocess.TimeoutExpired(words, timeout)
        return page.subprocess.CompletedProcess(words, int(name == "broken"))

    quick = dict.fromkeys(("good", "slow", "broken"), (("--quick",), 1))
    monkeypatch.setattr(page, "BENCHMARKS", {**quick, "long": ((), 9)})
    monkeypatch.setattr(page, "LEFT_OUT", {"other": "needs a GPU"})
    monkeypatch.setattr(page.subprocess, "run", run)
    assert page.measured(5) == [
        "other: needs a GPU",
        "slow: stopped after 1 minutes, with the rows measured by then",
        "broken: failed with exit code 1",
        "long: 5.0 minutes were left, it needs up to 9",
    ]
    assert commands == [(name, "--quick", "--json") for name in quick]


def test_every_benchmark_is_measured_or_left_out_for_a_reason(page):
    scripts = {path.stem for path in page.FOLDER.parent.glob("*.py")} - {"page"}
    assert scripts <= page.BENCHMARKS.keys() | page.LEFT_OUT.keys()
