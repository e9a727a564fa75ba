"""A data module of one's own says by one method what its targets are."""

import pytest
from data_trees import make

from mvrec.data import VideoFolder
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.lists import Row
from mvrec.data.views.targets import ClassIndex, Values
from mvrec.errors import UserError


class Ages(VideoFolder):
    """Two numbers per video: one stands in the place of the label, the other in a column of its own."""

    def target(self, row):
        return Values((float(row.label), float(dict(row.others).get("weight", 0))))


def ages(root, train):
    data = Ages(str(make(root, {"train.csv": train, "val.csv": "path,label,weight\nc.mp4,3,4\n"})))
    data.setup("fit")
    return data


def test_a_data_module_gives_targets_of_its_own(tmp_path):
    text = "path,label,weight,start,end\na.mp4,0.5,70,,\nb.mp4,-2,80.5,1,2\na.mp4,1,60,,\na.mp4,0.5,9,,\n"
    data = ages(tmp_path, text)
    index = data.index("train")
    assert data.target_type is index.target_type is Values
    assert [index.target(row).values for row in range(4)] == [(0.5, 70.0), (-2.0, 80.5), (1.0, 60.0), (0.5, 9.0)]
    assert (index[1].path, index[1].start_seconds) == (tmp_path / "b.mp4", 1.0)
    assert data.index("val").target(0) == Values((3.0, 4.0))
    assert (data.class_names, data.class_counts, data.val_protocol.aggregation) == ((), [], "mean of values")


def test_the_digest_of_such_an_index_tells_its_labels_apart(tmp_path):
    def digest(*labels):
        rows = [Row("a", label) for label in labels]
        return SampleIndex(rows, root=tmp_path, target_of=lambda row: Values((float(row.label),))).digest()

    assert digest("1", "2") == digest("1", "2") != digest("1", "3")


def test_a_target_that_cannot_be_made_or_has_another_type_is_said_before_the_first_step(tmp_path):
    for label, message in {"old": "could not convert string to float: 'old'", "nan": "values must be finite"}.items():
        with pytest.raises(UserError, match=f"train.csv:3: {message}"):
            ages(tmp_path, f"path,label\na.mp4,1\nb.mp4,{label}\n")
    rows = [Row("a", "x", source="l.csv", line=2), Row("b", "y", source="l.csv", line=3)]
    with pytest.raises(UserError, match=r"l.csv:3: the target is ClassIndex, at l.csv:2 it is Values"):
        SampleIndex(rows, root=tmp_path, target_of=lambda row: Values((1.0,)) if row.label == "x" else ClassIndex(0))
