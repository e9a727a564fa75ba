"""The commands that are not Lightning's, one per file, and the parser of their arguments."""

import argparse
import re
from typing import NoReturn

from mvrec.errors import nearest
from mvrec.messages import fail


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line with the nearest flag."""

    def error(self, message: str) -> NoReturn:
        """Print an error with the way to the help, and exit with 2."""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        flags = re.findall(r"--[\w-]+", self.format_usage())
        fail(f"{message}{nearest(unknown[1], flags) if unknown else ''} ({self.prog} --help)")
