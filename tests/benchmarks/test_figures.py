"""Figures of benchmarks: machines have stable slugs, and every row is in the file as soon as it is measured."""

import argparse
import json

import pytest


@pytest.fixture(scope="module")
def figures(script):
    return script("results.figures")


@pytest.mark.parametrize(
    ("vendor", "family", "model", "name", "flags", "slug"),
    [
        ("AuthenticAMD", 26, 2, "AMD EPYC", "avx2 avx512f avx512_bf16", "zen5-avx512"),
        ("AuthenticAMD", 25, 17, "AMD EPYC 9654", "avx2 avx512f", "zen4-avx512"),
        ("AuthenticAMD", 25, 1, "AMD EPYC 7763", "avx2", "zen3-avx2"),
        ("GenuineIntel", 6, 143, "Intel(R) Xeon(R) Platinum 8481C", "avx2 avx512f amx_tile", "xeon-amx"),
        ("GenuineIntel", 6, 85, "Intel(R) Xeon(R) CPU @ 2.00GHz", "avx2 avx512f", "xeon-avx512"),
    ],
)
def test_a_processor_has_a_slug(figures, vendor, family, model, name, flags, slug):
    lines = [("vendor_id", vendor), ("cpu family", family), ("model", model), ("model name", name), ("flags", flags)]
    text = "\n".join(f"{key}\t: {value}" for key, value in lines)
    assert figures.cpu_slug(f"{text}\n\n{text.replace(name, 'the second core')}") == slug


def test_every_row_is_in_the_file_at_once(figures, tmp_path, monkeypatch):
    path = tmp_path / "net.json"
    arguments = ["--quick", "--json", str(path), "--only", "mvit"]
    monkeypatch.setattr("sys.argv", ["/somewhere/benchmarks/net.py", *arguments])
    parser = argparse.ArgumentParser()
    figures.add_option(parser)
    options, _ = parser.parse_known_args(arguments)
    measured = figures.Figures.of(options, "net", packages=("torch",), gpu="NVIDIA H200")
    rows = [
        figures.Row("mvit", "inference", peer="timm", ratio=1.5, more={"MFU": 0.25}),
        figures.Row("mvit", "training"),
    ]
    for number, row in enumerate(rows, start=1):
        measured.add(row)
        assert figures.Figures.read(path).rows == rows[:number]
    content = json.loads(path.read_text())
    assert content["command"] == "python benchmarks/net.py --quick --only mvit"
    assert content["machine"] == "h200"
    measured.add(figures.Row("mvit", "rounded", mvrec=1 / 3, more={"MFU": 2 / 3}))
    assert figures.Figures.read(path).rows[-1] == figures.Row("mvit", "rounded", mvrec=0.33333, more={"MFU": 0.66667})
    assert content["rows"][1] == {"subject": "mvit", "measure": "training"}


def test_without_a_path_the_file_is_that_of_this_machine(figures):
    parser = argparse.ArgumentParser()
    figures.add_option(parser)
    measured = figures.Figures.of(parser.parse_args(["--json"]), "net", packages=())
    assert measured.path == figures.FOLDER / figures.cpu_slug() / "net.json"
    assert figures.Figures.of(parser.parse_args([]), "net", packages=()).path is None
