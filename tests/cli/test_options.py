"""`options.json`, which the command line checks against before it imports what the options belong to."""

from mvrec.cli.options import options
from mvrec.cli.options.make import make_options


def test_file_equals_the_parsers_and_signatures():
    result, renew = make_options(), "python -m mvrec.cli.options.make writes it anew"
    for part in ("versions", "commands", "classes"):
        assert options()[part].keys() == result[part].keys(), renew
        for name, row in result[part].items():
            assert options()[part][name] == row, f"{name}: {renew}"
