"""The `mvrec` command: finds the sub-command and loads only what it needs.

Nothing heavy is imported here, so that help, version and typing errors answer at once.
"""

import io
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from mvrec import __version__
from mvrec.class_paths import debugging, take_debug, take_trusted
from mvrec.cli.help.hints import command_hint
from mvrec.errors import UserError
from mvrec.machine import allow_open_files, closed_path, let_waiting_threads_sleep, limit_threads, machine_fault
from mvrec.machine.large_pages import use_large_pages
from mvrec.messages import fail, show_messages
from mvrec.runs.signals import requests

HELP = """\
usage: mvrec COMMAND ...

train and evaluate (each takes --config FILE and single values such as --trainer.max_epochs 10):
  fit        train, with validation; `mvrec fit --data.root my_videos` plans the rest from the files and this machine
  validate   score the validation split
  test       score the test split with the full protocol
  predict    write the predictions for the test split

others:
  init       write that plan as a file instead, to read and change
  recognize  name what is to be seen in videos, images, cameras or streams
  serve      a page in the browser: drop a video or image, or use the camera
  data       look before training: `data show` what the network gets, `data audit` what is wrong with the files
  report     one HTML file about a run: curves, scores, confusions, worst mistakes
  compare    which of several runs is better, and how sure that is
  sweep      a run for every line of a file of values, or a search
  probe      are a network's features enough, or fine-tune, or label more?
  explain    where a network looks: heat over a video or image
  extract    features of videos or images as files
  export     ONNX, torch.export or safetensors, with class names and preprocessing inside
  hub        push weights to a model hub, or pull them
  doctor     check this machine, or a launch of several processes (--dist)
  models     list the networks: size, cost, published accuracy, which checkpoints load
  weights    list the published weights of every network, or fetch one: `mvrec weights get NAME`
  benchmark  measure what a training clip costs on one's own data: `mvrec benchmark data --config FILE`
  convert    write any known checkpoint as safetensors, with a report of what was loaded
  recipes    list the configurations that come with mvrec; `recipes show NAME` prints one
  prep       make a raw download trainable: lists, checks, smaller files, tars
  demo       generate the moving digits data set, train on it, evaluate
  demo-images  the same with images of digits and a network of every family
  demo-segmentation  the same with the class of every pixel
  demo-actions  the same with videos of several digits, and which of them does what
  demo-detection  the same with images of several digits, and the box and mask of each

A checkpoint of a network of one's own: `--trust FOLDER/my_models.py` with any command lets files name its classes.
`--debug` with any command shows where an error of one's own code comes from.
`mvrec COMMAND --help` tells more. `mvrec --version` prints the version.
"""


def _lightning(command: str, arguments: list[str]) -> None:
    from mvrec.cli.help.pages import help_page

    if (page := help_page(command, arguments)) is not None:
        print(page, end="")  # noqa: T201
        return
    from mvrec.cli.options.check import check_early

    check_early([command, *arguments])  # before torch and Lightning are imported
    from mvrec.cli.lightning import run

    run([command, *arguments])


def _of_module(name: str) -> Callable[[str, list[str]], None]:
    def call(command: str, arguments: list[str]) -> None:
        import_module(f"mvrec.{name}").main(arguments)

    return call


LIGHTNING = ("fit", "validate", "test", "predict")
MODULES = (
    *("recognize", "report", "explain", "extract", "export", "hub"),
    *("init", "doctor", "models", "benchmark", "convert", "recipes", "prep", "demos.demo", "demos.demo-images"),
    *("demos.demo-segmentation", "demos.demo-actions", "demos.demo-detection"),
)
COMMANDS: dict[str, Callable[[str, list[str]], None]] = {
    **dict.fromkeys(LIGHTNING, _lightning),
    **{name.rpartition(".")[2]: _of_module(f"commands.{name.replace('-', '_')}") for name in MODULES},
    **{name: _of_module(f"{name}.command") for name in ("weights", "serve", "compare", "sweep", "probe")},
    "data": _of_module("looking.command"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files that are not UTF-8 stay what they are
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")  # noqa: T201
        return
    if arguments[0] == "--version":
        print(f"mvrec {__version__}")  # noqa: T201
        return
    command, *rest = arguments
    if command not in COMMANDS:
        fail(f"unknown command {command!r}{command_hint(command, COMMANDS)} (mvrec --help lists them)")
    show_messages()
    allow_open_files()
    let_waiting_threads_sleep()
    limit_threads()
    use_large_pages()
    with _errors_as_lines():
        if command == "fit":
            requests.listen()  # before torch is imported, which takes seconds: no signal is lost
        else:
            requests.leave()
        COMMANDS[command](command, take_trusted(take_debug(rest)))
        sys.stdout.flush()


@contextmanager
def _errors_as_lines() -> Iterator[None]:
    """Report errors of the user and of the machine in one line each; give the signals back at the end."""
    try:
        yield
    except UserError as error:
        if debugging():
            traceback.print_exc()
        fail(str(error))
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
            sys.exit(1)
        message = machine_fault(error) or closed_path(error)
        if message is None:
            raise
        fail(message)
    finally:
        requests.restore()


def _nobody_reads() -> bool:
    """Return whether the reader of stdout has closed it, as in `mvrec models | head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))
