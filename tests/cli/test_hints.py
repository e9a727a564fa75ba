"""Hints for names that other libraries have for our keys and commands."""

from pathlib import Path

from mvrec import errors
from mvrec.cli.help.hints import NAMES_ELSEWHERE, OURS, command_hint, key_hint, stray_hint
from mvrec.cli.main import COMMANDS
from mvrec.errors import install_hint


def hint(key: str, *siblings: str, accepts=lambda key: True) -> str:
    return key_hint(key, siblings=siblings, accepts=accepts)


def test_each_name_of_others_stands_for_one_key():
    names = [name for text in NAMES_ELSEWHERE.values() for name in text.split()]
    assert sorted(names) == sorted(OURS)


def test_a_key_of_another_library_names_ours():
    for key, expected in {
        "lr": "'model.optimizer.lr'?",
        "maxEpochs": "'trainer.max_epochs'?",
        "batch-size": "'data.batch_size'?",
        "model.num_classes": ": leave it out, the number of classes follows from the data",
        "fp16": "'trainer.precision'? (--trainer.precision 16-mixed or bf16-mixed)",
        "trainer.epochs": "'trainer.max_epochs'?",
        "criterion": "'model.loss'?",
    }.items():
        assert expected in hint(key, "min_epochs", "trainer"), key
    assert hint("colour", "min_epochs", "trainer") == ""


def test_a_sibling_of_nearly_the_same_name_comes_first_and_a_key_that_is_not_accepted_is_not_named():
    assert hint("data.batchsize", "batch_size") == "; did you mean 'batch_size'?"
    assert hint("momentum", accepts=lambda key: False) == ""


def test_an_argument_without_a_flag_says_which_flag_it_may_be_for():
    for argument, expected in {
        "a.yaml": ": a configuration is named by --config a.yaml",
        "mvit_b_16x4": ": --config mvit_b_16x4 takes the recipe, --model.backbone mvit_b_16x4 the network alone",
        "-lr": ": flags begin with two dashes, such as --model.optimizer.lr VALUE",
        "trainer.max_epochs=3": ": flags begin with two dashes, such as --trainer.max_epochs VALUE",
        "3": ": each value stands behind its flag",
    }.items():
        assert stray_hint(argument, accepts_checkpoint=False) == f"unexpected argument {argument!r}{expected}"


def test_a_command_of_another_tool_names_ours():
    meanings = {"train": "fit", "eval": "test", "infer": "recognize", "fti": "fit", "gradcam": "explain"}
    for name, actual in meanings.items():
        assert command_hint(name, COMMANDS) == f"; did you mean {actual!r}?"
    assert command_hint("xyzzy", COMMANDS) == ""


def test_an_extra_is_installed_as_the_package_was(monkeypatch, tmp_path):
    root = Path(errors.__file__).parents[1]
    monkeypatch.chdir(root)
    monkeypatch.setattr(errors.sys, "executable", str(root / ".venv/bin/python"))
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert install_hint("export") == ".venv/bin/pip install -e '.[export]'"
    monkeypatch.chdir(tmp_path)
    assert install_hint("export") == f"{root}/.venv/bin/pip install -e '{root}[export]'"
    monkeypatch.setattr(Path, "is_file", lambda path: False)  # no pyproject.toml: a wheel
    assert install_hint("export") == "pip install 'mvrec[export]'"
