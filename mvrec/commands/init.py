"""`mvrec init`: the plan of a run as a configuration file."""

import logging
from collections.abc import Sequence

from mvrec.cli.config_check import CONFIG_FLAGS, Entry, entries, expand_flags, trust_named
from mvrec.cli.options.check import check_early
from mvrec.cli.planning import plan_of, settings_of, task_of_folder
from mvrec.errors import UserError
from mvrec.files import at_home, write_atomically
from mvrec.messages import CommandParser

log = logging.getLogger("mvrec")


def main(arguments: list[str]) -> None:
    """Look at a folder of videos or images and write how `mvrec fit` would train on it, with the reasons."""
    parser = CommandParser(
        prog="mvrec init",
        description=main.__doc__,
        epilog="Flags of `mvrec fit`, such as --model.weights FILE_OR_RUN, go before the plan.",
    )
    parser.add_argument("folder", help="your files: FOLDER/<class name>/<file>, or FOLDER/train.csv with path,label")
    parser.add_argument("-o", "--output", default="plan.yaml", help="the file to write (default: %(default)s)")
    options, flags = parser.parse_known_args(arguments)
    output = at_home(options.output)
    if output.exists():
        raise UserError(f"--output: {output} exists: remove it, or name another file")
    if not output.parent.is_dir():
        raise UserError(f"--output: there is no folder {str(output.parent)!r}")
    if any(flag.partition("=")[0] in CONFIG_FLAGS for flag in flags):
        raise UserError("--config: init writes a configuration and takes none, only single flags of mvrec fit")
    fit = ["--data.root", options.folder, *flags]
    check_early(["fit", *fit])
    settings = entries([*expand_flags(fit)])
    trust_named(settings)
    text = _configuration(settings, folder=options.folder, output=options.output)
    write_atomically(output, text)
    print(f"wrote {output}: mvrec fit --config {options.output}")  # noqa: T201


def _configuration(settings: Sequence[Entry], *, folder: str, output: str) -> str:
    """Return the plan as YAML, with what flags set in place of what they override."""
    from mvrec.cli.task_choice import named_task, path_of, task_class
    from mvrec.plan.as_yaml import as_yaml
    from mvrec.plan.learning import Choice
    from mvrec.plan.text import facts
    from mvrec.tasks.classification.task import Classification

    named = named_task(settings) or task_of_folder(settings)
    task = Classification if named is None else task_class(named.value, where=named.where)
    plan = plan_of(settings, task=task)
    head = [
        f"How to train on {folder}, as `mvrec init` has planned it; change what you like.",
        f"  mvrec fit --config {output}",
        *(f"{line.about}: {line.text}" for line in facts(plan)),
        *(f"note: {remark}" for remark in plan.findings.remarks),
    ]
    for remark in plan.findings.remarks:
        log.warning("%s", remark)
    root = Choice("data.root", folder, "your files")
    others = [choice for choice in settings_of(settings) if choice.key not in ("data.root", "model")]
    path = "" if task is Classification else path_of(task)
    return as_yaml([plan.choices[0], root, *plan.choices[1:], *others], head=head, task=path)
