"""The verdict about two forms, and the cache of verdicts: faults of its files cost a measurement, never a run."""

import json

import pytest

from mvrec import fast_forms
from mvrec.fast_forms import FAST, PLAIN, UNCLEAR, conditions, keep_forms, kept_here, path_of, read_forms, verdict

FORMS = {"one": FAST, "another": UNCLEAR}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MVREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def here(**changes: object) -> dict[str, str]:
    facts = {"torch": "2.15.0", "instructions": "AVX2", "dtype": "float32", "threads": 1, "environ": {}}
    return conditions(**(facts | changes))


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([1.2, 1.1, 1.3, 1.1, 1.2], FAST),
        ([1.2, 1.1, 0.3, 1.1, 1.2], FAST),  # load has slowed one round
        ([1.2, 0.9, 0.3, 1.1, 1.2], UNCLEAR),
        ([0.8, 0.9, 2.3, 0.7, 0.9], PLAIN),
        ([1.0, 1.02, 1.04, 1.0, 0.99], PLAIN),  # equal
        ([1.6, 1.7], FAST),
        ([1.6, 0.5], UNCLEAR),
    ],
)
def test_verdict_allows_one_round_of_five_to_disagree(ratios, expected):
    assert verdict(ratios) == expected


def test_kept_forms_hold_for_equal_conditions_only():
    assert read_forms(here(), list(FORMS)) is None
    assert keep_forms(here(), FORMS) == FORMS
    assert read_forms(here(), list(FORMS)) == FORMS
    others = [{"torch": "2.16.0"}, {"instructions": "AVX512"}, {"dtype": "bfloat16"}, {"threads": 2}]
    for change in [*others, {"environ": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}]:
        assert read_forms(here(**change), list(FORMS)) is None, change


def test_entry_of_another_processor_is_ignored(monkeypatch):
    keep_forms(here(), FORMS)
    assert [forms for _, _, forms in kept_here()] == [FORMS]
    path = path_of(here())
    monkeypatch.setattr(fast_forms, "processor", lambda: "another one")
    path.rename(path_of(here()))  # a cache that was copied
    assert read_forms(here(), list(FORMS)) is None
    assert kept_here() == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"forms": 3}', b"\xff\xfe", json.dumps({"forms": FORMS | {"one": "other"}})]
)
def test_broken_entry_is_ignored_and_replaced(content):
    path = path_of(here())
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_forms(here(), list(FORMS)) is None
    assert kept_here() == []
    assert keep_forms(here(), FORMS) == FORMS == read_forms(here(), list(FORMS))


def test_entry_without_an_operation_of_this_version_is_measured_again():
    keep_forms(here(), {"one": FAST})
    assert read_forms(here(), list(FORMS)) is None


def test_cache_that_cannot_be_written_changes_nothing(cache):
    cache.write_text("a file in the place of the folder")
    assert keep_forms(here(), FORMS) == FORMS
    assert read_forms(here(), list(FORMS)) is None
    assert kept_here() == []


def test_of_two_processes_that_measure_at_once_the_first_one_decides():
    keep_forms(here(), FORMS)
    assert keep_forms(here(), FORMS | {"one": PLAIN}) == FORMS
