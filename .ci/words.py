"""Check the words of the code: names, docstrings, messages and commit subjects (CONTRIBUTING, "Words")."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("mvrec", "benchmarks", "data_prep", "tests")
EXAMPLES = "tests/test_words.py"  # has a fault of each kind
PAGES = ("README.md", "CHANGELOG.md", "docs/**/*.md", "configs/**/*.yaml")
# Earlier commits have longer subjects.
SUBJECTS_SINCE = "2026-11-29T21:30:00Z"
LONGEST_SUBJECT = 72

# Participles and pronouns that fit a value of any type.
NAMES = frozenset(
    "asked beside chosen found given gone held here how kept known made me meant mine nothing one our ours own said "
    "seen something sought spoken taken their theirs them there thing those told wanted what who why".split()
)
# First words that make a riddle of a summary, of whatever it is a summary.
OPENINGS = frozenset(
    "and are as has how is it nothing of that there these those what when where whether which who whoever whose why "
    "with without".split()
)
# A function's summary opens with one of these.
VERBS = frozenset(
    "accept accumulate add align allow announce answer append apply ask assert attach attend augment average batch "
    "begin benchmark bind blend blur build calibrate call cast catch change check choose clear close collate collect "
    "combine compare compile complete compute concatenate configure connect continue convert convolve copy correct "
    "count create crop cut decide declare decode decrypt defer define delay delete derive describe detect determine "
    "disable discard display distinguish divide do download draw drop dump enable encode end enlarge ensure enter "
    "equalise erase estimate evaluate exchange exclude exit expand expect explain export express extend extract fail "
    "feed fetch fill filter find finish fit flip flush follow forbid forget fork format forward free freeze gather "
    "generate give group guard guess handle hash hide hold identify ignore import increase index infer initialise "
    "insert inspect install interpolate interrupt invert iterate join judge keep kill label launch leave let limit "
    "link list listen load locate lock log look lower make map mark match measure merge mix modify move multiply name "
    "normalise note notify number offer open order overwrite pack pad parse pass paste pick place plan plot point "
    "pool posterise predict prefer prefix prepare preprocess present prevent print process project prove provide "
    "prune publish push put quarantine quote raise randomise rank rate read rebuild recognise recompute record reduce "
    "refuse register reinstall reject release remember remove rename render renew reopen repeat rephrase replace "
    "report request require reserve reset reshape resize resolve restart restore resume return reuse rotate round run "
    "sample save say scale scan score search seed seek select send separate serve set settle shard share sharpen "
    "shear shift show shrink shut simulate skip slant sleep smooth solarise sort split spread stack start state stay "
    "step stop store stretch strip subtract suggest sum summarise swap switch take tell test time tokenise total "
    "trace track train transcode transform translate transpose treat trust try turn undo unpack update upload use "
    "validate verify view visit wait walk warn watch weight wrap write yield zero".split()
)
# Words of other languages' idioms, each with the field's word for it.
IDIOMS = {
    r"mend(s|ed|ing)?": "fix",
    r"st(ands?|ood) still": "hung",
    r"gets? on": "continues",
    r"c(an|ould) ?(not|no longer)? be had": "available, unsupported",
    r"in vain": "without success",
    r"go(es)? by": "pass",
    r"beside": "next to",
    r"news": "INFO",
    r"be(come|came|comes) of": "name the result",
    r"(does|do|did|do as it|do with it|do with) as (it|they) likes?": "say what it does",
}
IDIOM = re.compile("|".join(rf"(?P<i{number}>\b{idiom}\b)" for number, idiom in enumerate(IDIOMS)), re.IGNORECASE)
Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def bound_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of every variable, attribute and parameter that the code binds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.lineno, node.name


def opening_fault(node: Definition, summary: str, *, verbs: bool = True) -> str | None:
    """Return the fault of a summary's first word, None where it has none; code such as `(B, K)` may open any.

    Args:
        node: The function, class or module.
        summary: Its docstring's first line.
        verbs: Whether a function's summary must open with a verb; a fixture's may name its value.
    """
    if not summary[0].isalpha():
        return None
    word = re.match(r"[\w'-]+", summary)[0].lower()
    is_attribute = _is_attribute(node)
    if word in OPENINGS and not (is_attribute and word == "whether"):
        return f"docstring opens with {word!r}: name what it describes"
    if verbs and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and word not in VERBS and not is_attribute:
        return f"docstring opens with {word!r}: open with a verb in the imperative (VERBS in {Path(__file__).name})"
    return None


def _is_attribute(node: Definition) -> bool:
    decorators = getattr(node, "decorator_list", ())
    names = {getattr(decorator, "id", getattr(decorator, "attr", "")) for decorator in decorators}
    return bool(names & {"property", "cached_property"})


def file_faults(text: str, *, verbs: bool = True) -> Iterator[tuple[int, str]]:
    """Yield line and fault of everything in a Python file that breaks a rule; see `opening_fault`."""
    tree = ast.parse(text)
    for line, name in bound_names(tree):
        if name in NAMES:
            yield line, f"variable {name!r} fits a value of any type: use a noun of the domain"
    for node in ast.walk(tree):
        if isinstance(node, Definition) and (summary := ast.get_docstring(node)):
            fault = opening_fault(node, summary, verbs=verbs)
            if fault:
                yield node.body[0].lineno, fault
    yield from idiom_faults(text)


def idiom_faults(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and fault of every idiom in a text."""
    for number, line in enumerate(text.splitlines(), 1):
        for match in IDIOM.finditer(line):
            yield number, f"{match[0]!r}: write {list(IDIOMS.values())[int(match.lastgroup[1:])]!r} or what is meant"


def subject_faults() -> Iterator[str]:
    """Yield the fault of every recent commit whose subject is too long; none where there is no git or no history."""
    command = ["git", "log", "--no-merges", f"--since={SUBJECTS_SINCE}", "--format=%h %s"]
    try:
        log = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return
    for line in log.splitlines():
        commit, _, subject = line.partition(" ")
        if len(subject) > LONGEST_SUBJECT:
            yield f"commit {commit}: the subject has {len(subject)} characters, more than {LONGEST_SUBJECT}: {subject}"


def main() -> int:
    """Print one line per fault; the exit code says whether there is one."""
    faults = list(subject_faults())
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name == EXAMPLES:
            continue
        text, verbs = path.read_text(encoding="utf-8"), not name.startswith("tests/")
        faults += [f"{name}:{line}: {fault}" for line, fault in file_faults(text, verbs=verbs)]
    for path in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        faults += [f"{path.relative_to(ROOT)}:{line}: {fault}" for line, fault in idiom_faults(text)]
    print("\n".join(faults) or "words: no fault")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
