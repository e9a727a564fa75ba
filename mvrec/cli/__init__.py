"""The command line: finds a command, and runs Lightning's four with mvrec's checks."""

from mvrec.cli.late_imports import install

install()  # before anything in this package imports Lightning
