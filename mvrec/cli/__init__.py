"""The command line: finding a command, and Lightning's four with checks of their own."""

from mvrec.cli.late_imports import install

install()  # before anything in this package imports Lightning
