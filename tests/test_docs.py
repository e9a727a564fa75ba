"""Links, commands and names of tests of the README and of the pages below docs/."""

import argparse
import importlib
import itertools
import re
import shlex
from pathlib import Path

from mvrec.cli.main import COMMANDS, LIGHTNING
from mvrec.cli.options import class_options, command_options, options
from mvrec.errors import UserError
from mvrec.recipes import recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "slurm/README.md", "data_prep/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
FIT_FLAGS = ("benchmark", "demo", "demo-images")  # which hand other flags on to `fit`
OWN_CONFIGS = (
    *("CONFIG", "mine/my.yaml", "mine/parts.yaml", "mine/arrays.yaml", "runs/mine/config.yaml", "my.yaml", "NAME"),
    *("plan.yaml", "mine/decoder.yaml"),
)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
# Keys below a class that a flag chooses: those of any class of the family.
FAMILIES = {
    "data": "mvrec.data.",
    "model": "mvrec.tasks.",
    "model.backbone": "mvrec.models.",
    "model.optimizer": "torch.optim.",
    "trainer.callbacks": "lightning.pytorch.callbacks.",
    "trainer.logger": "lightning.pytorch.loggers.",
}


def commands_of(page):
    """Words of all commands of a page, with bare flags such as `--data.size 64` as those of `fit`."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    blocks, prose = re.findall(FENCED, text), re.sub(FENCED, "", text)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()[1:-1]]
    for line in [*lines, *re.findall(r"`([^`]+)`", prose)]:
        if line.startswith(("--data.", "--model.", "--trainer.", "--checkpoint.")):
            line = f"mvrec fit {line}"
        start = re.match(r"((srun|torchrun|sbatch) .*?)?(\.venv/bin/mvrec|mvrec|slurm/fit\.sbatch) (?=[a-z])", line)
        if start and "..." not in line:
            words = shlex.split(re.sub(r" --trust \S+| > .*", "", line[start.end() :]))
            yield ["fit", "--config", *words] if "sbatch" in start[3] else words


def is_key(command, key):
    names = list(command_options(command))
    for prefix, family in FAMILIES.items():
        if key.startswith(f"{prefix}."):
            paths = [path for path in options()["classes"] if path.startswith(family)]
            names += [f"{prefix}.{name}" for path in paths for name in class_options(path)]
    return any(f"{name}.".startswith(f"{key}.") for name in names)


def test_links_and_paths_lead_to_files():
    for page in PAGES:
        text = re.sub(FENCED, "", page.read_text("utf-8"))
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
        assert [link for link in links if not (page.parent / link).exists()] == [], page
        named = re.findall(r"`((?:tests|mvrec|benchmarks|configs)/[\w/]+\.(?:py|yaml))", text)
        assert [path for path in named if "foo" not in path and not (ROOT / path).exists()] == [], page


def test_facts_and_promises_name_tests_that_are_there():
    for page in ("docs/trust.md", "tests/README.md"):
        rows = [line.split("|") for line in (ROOT / page).read_text("utf-8").splitlines() if re.match(r"\|.*`", line)]
        names = [name for row in rows for name in re.findall(r"`([\w/]+\.py)?(?:::)?(test_\w+)?`", row[2])]
        assert len(names) > 50, page
        text = ""
        for path, test in names:
            text = (ROOT / "tests" / path).read_text("utf-8") if path else text
            assert not test or f"\ndef {test}(" in text, f"{page}: {test}"


class ParsedError(Exception):
    """The arguments of a command are right."""


PARSE = argparse.ArgumentParser.parse_known_args


def parse_only(parser, *arguments):
    """Check arguments and run nothing."""
    _, unknown = PARSE(parser, *arguments)
    if parser.prog in ("mvrec sweep", "mvrec probe", "mvrec data show"):  # which hand other flags on to `fit`
        unknown = [word for word in unknown if word.startswith("--") and not is_key("fit", word[2:])]
    assert unknown == []
    raise ParsedError


def test_commands_have_known_names_and_flags(monkeypatch, capsys):
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_only)
    commands = [(page, *words) for page in PAGES for words in commands_of(page)]
    assert len(commands) > 100
    for page, command, *words in commands:
        place = f"{page.name}: mvrec {command} {shlex.join(words)}"
        assert command in COMMANDS, place
        if command in (*LIGHTNING, *FIT_FLAGS):
            for key in [word[2:].partition("=")[0] for word in words if word.startswith("--")]:
                free = key in ("config", "configs", "print_config", "trust", "resume") or key.endswith("help")
                assert free or is_key("fit" if command in FIT_FLAGS else command, key), f"{place}: {key}"
            named = [after for flag, after in itertools.pairwise(words) if flag == "--config"]
            named = [name for name in named if name not in OWN_CONFIGS]
            assert [name for name in named if name not in recipes() and not (ROOT / name).is_file()] == [], place
        elif words:
            try:
                COMMANDS[command](command, words)
            except ParsedError:
                continue
            except UserError as error:
                message = str(error)
            except SystemExit:
                message = capsys.readouterr().err
            else:
                continue
            # a mention of a flag, without what the command is to work on
            assert "arguments are required" in message, place


def test_python_code_imports_names_that_exist():
    for page in PAGES:
        for line in re.findall(r"^from (mvrec[\w.]*) import (.+)$", page.read_text("utf-8"), re.MULTILINE):
            module = importlib.import_module(line[0])
            assert [name for name in re.split(r"[\s,()]+", line[1]) if name and not hasattr(module, name)] == [], page
