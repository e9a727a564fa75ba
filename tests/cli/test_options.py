"""`options.json`, which the command line checks against before it imports what the options belong to."""

from mvrec.cli.options import options
from mvrec.cli.options.make import make_options


def test_file_equals_the_parsers_and_signatures():
    result, renew = make_options(), "python -m mvrec.cli.options.make writes it anew"
    for part in ("versions", "commands", "classes"):
        assert options()[part].keys() == result[part].keys(), renew
        for name, row in result[part].items():
            assert options()[part][name] == row, f"{name}: {renew}"


def test_defaults_and_texts_of_a_class_come_before_those_of_its_parents():
    rows = options()["classes"]["mvrec.data.MaskFolder"]
    assert (rows["protocol"]["default"], rows["augment.scale"]["default"]) == ("whole", None)
    assert rows["protocol"]["doc"].startswith("How the network sees images")
    assert rows["protocol"]["doc"].endswith("by default images are scored in their own size.")
    assert options()["classes"]["mvrec.data.DigitImages"]["augment.flip_probability"]["default"] == 0
