"""The `mvrec` command: finds the sub-command and loads only what it needs.

Nothing heavy is imported here, so that help, version and typing errors answer at once.
"""

import errno
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from mvrec import __version__
from mvrec.errors import UserError, nearest
from mvrec.messages import show_messages

USAGE_ERROR = 2
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

HELP = """\
usage: mvrec COMMAND ...

train and evaluate (each takes --config FILE and single values such as --trainer.max_epochs 10):
  fit        train, with validation
  validate   score the validation split
  test       score the test split with the full protocol
  predict    write the predictions for the test split

others:
  recognize  name what is to be seen in videos, images, cameras or streams
  models     list the networks: size, cost, published accuracy, which checkpoints load
  benchmark  measure what a training clip costs on one's own data: `mvrec benchmark data --config FILE`
  convert    write any known checkpoint as safetensors, with a report of what was loaded
  demo       generate the moving digits data set, train on it, evaluate
  demo-images  the same with images of digits and a network of every family

`mvrec COMMAND --help` tells more. `mvrec --version` prints the version.
"""


def _lightning(command: str, arguments: list[str]) -> None:
    from mvrec.lightning_cli import run

    run([command, *arguments])


def _recognize(command: str, arguments: list[str]) -> None:
    from mvrec.commands.recognize import main as recognize

    recognize(arguments)


def _demo(command: str, arguments: list[str]) -> None:
    from mvrec.commands.demo import main as demo

    demo(arguments)


def _demo_images(command: str, arguments: list[str]) -> None:
    from mvrec.commands.demo_images import main as demo_images

    demo_images(arguments)


def _models(command: str, arguments: list[str]) -> None:
    from mvrec.commands.models import main as models

    models(arguments)


def _benchmark(command: str, arguments: list[str]) -> None:
    from mvrec.commands.benchmark import main as benchmark

    benchmark(arguments)


def _convert(command: str, arguments: list[str]) -> None:
    from mvrec.commands.convert import main as convert

    convert(arguments)


COMMANDS: dict[str, Callable[[str, list[str]], None]] = {
    "fit": _lightning,
    "validate": _lightning,
    "test": _lightning,
    "predict": _lightning,
    "recognize": _recognize,
    "models": _models,
    "benchmark": _benchmark,
    "convert": _convert,
    "demo": _demo,
    "demo-images": _demo_images,
}


def fail(message: str) -> NoReturn:
    """Print one line on stderr and leave with the exit code of a usage error."""
    print(f"mvrec: error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    sys.exit(USAGE_ERROR)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")  # noqa: T201
        return
    if arguments[0] == "--version":
        print(f"mvrec {__version__}")  # noqa: T201
        return
    command, *rest = arguments
    if command not in COMMANDS:
        fail(f"unknown command {command!r}{nearest(command, COMMANDS)} (mvrec --help lists them)")
    show_messages()
    try:
        COMMANDS[command](command, rest)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        fail(f"{error.strerror}{f': {error.filename}' if error.filename else ''}; nothing half-written is left")
