"""The lint of words: what it reports, and what it lets pass."""

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("words", Path(__file__).parents[1] / ".ci/words.py")
words = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(words)


FAULTS = {
    "found = 1": "variable 'found'",
    "def load(what): pass": "variable 'what'",
    "self.known = 1": "variable 'known'",
    'def load():\n    """The file."""': "open with a verb",
    'def load():\n    """What became of it."""': "name what it describes",
    'class Load:\n    """Whether it loads."""': "name what it describes",
    "# nobody mends it\n": "'mends': write 'fix'",
    "raise ValueError('cannot be had')": "unsupported",
}
PLAIN = (
    "checkpoint = 1",
    'def load():\n    """Return the file."""',
    'def forward(x):\n    """`(B, C)` to `(B, K)`."""',
    'class Load:\n    """The file."""\n    @property\n    def is_open(self):\n        """Whether the file is open."""',
)


def test_faults_are_reported_and_plain_words_pass():
    for text, fault in FAULTS.items():
        assert any(fault in message for _, message in words.file_faults(text)), text
    for text in PLAIN:
        assert not list(words.file_faults(text)), text


def test_without_git_no_subject_is_checked(monkeypatch, tmp_path):
    monkeypatch.setattr(words, "ROOT", tmp_path)
    assert not list(words.subject_faults())
    monkeypatch.setenv("PATH", "")
    assert not list(words.subject_faults())
