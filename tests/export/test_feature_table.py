"""Tables of features, read back from every format."""

import csv

import numpy as np
import pytest
from pyarrow import parquet

from mvrec.data.listing.index import Sample
from mvrec.errors import UserError
from mvrec.export.feature_table import FeatureTable, check_table, write_table
from mvrec.inference.sources import columns_of

COLUMNS = {"path": ["мои/a.mp4", "b, c.mp4"], "start_seconds": [0.0, 1.5], "label": ["走る", ""], "file": ["=1+1", "x"]}
TABLE = FeatureTable(COLUMNS, np.array([[1, 0.1], [2, 3e-8]], np.float32))


def test_npz_and_csv_come_back_as_they_were(tmp_path):
    write_table(tmp_path / "t.npz", TABLE)
    with np.load(tmp_path / "t.npz") as arrays:
        assert {name: arrays[name].tolist() for name in COLUMNS} == COLUMNS
        assert np.array_equal(arrays["vector"], TABLE.vectors)
    write_table(tmp_path / "t.csv", TABLE)
    assert (tmp_path / "t.csv").read_bytes().startswith(b"\xef\xbb\xbfpath,")  # UTF-8 to a spreadsheet
    with (tmp_path / "t.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == COLUMNS["label"]
    vectors = [[row["vector_0"], row["vector_1"]] for row in rows]
    assert np.array_equal(np.array(vectors, np.float32), TABLE.vectors)


def test_parquet_has_a_list_per_row(tmp_path):
    write_table(tmp_path / "t.parquet", TABLE)
    read = parquet.read_table(tmp_path / "t.parquet").to_pydict()
    assert {name: read[name] for name in COLUMNS} == COLUMNS
    assert np.array_equal(np.array(read["vector"], np.float32), TABLE.vectors)


def test_without_pyarrow_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"this needs pyarrow: .*\[table\]"):
        check_table(tmp_path / "t.parquet")
    check_table(tmp_path / "t.npz")
    with pytest.raises(UserError, match=r"must end in .parquet, .npz, .csv, got '.*t.parqet'; did you mean '.parquet'"):
        check_table(tmp_path / "t.parqet")


def test_labels_come_from_lists_and_from_folders_below_the_one_given(tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("run/a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "list.csv").write_text("path,label,subject,vector\nb.mp4,jump,Ann,v\n")
    samples = [Sample(tmp_path / "run/a.mp4", 0), Sample(tmp_path / "b.mp4", 0)]
    assert columns_of([str(tmp_path)], samples) == [{"label": "run"}, {}]
    listed = columns_of([str(tmp_path / "list.csv")], samples[1:])
    assert listed == [{"label": "jump", "subject": "Ann", "list_vector": "v"}]
