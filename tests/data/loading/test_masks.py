"""Masks are read value by value, and what is no mask is refused with its value."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from mask_trees import quarters, write_mask
from PIL import Image

from mvrec.data.loading.masks import MaskCoding, MaskError, read_mask
from mvrec.errors import DecodeError

GOLDEN = Path(__file__).parents[2] / "golden/dense/seg_reduce_zero_label_mmseg.json"
VALUES = quarters(values=(0, 3, 7, 255))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def narrow_png(path: Path, values: list[list[int]], bits: int) -> None:
    """A grey PNG of 1, 2 or 4 bits, which Pillow does not write."""
    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        rows += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    header = struct.pack(">IIBBBBB", len(values[0]), len(values), bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "gif"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_grey_values_and_palette_indices_are_read_as_they_are(tmp_path, mode, ending):
    path = tmp_path / f"mask.{ending}"
    write_mask(path, VALUES, mode=mode, **({"optimize": False} if ending == "gif" else {}))
    if (mode, ending) == ("L", "gif"):  # Pillow gives it a palette of its own
        return
    assert np.array_equal(read_mask(path), VALUES)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_scaled_to_255(tmp_path, bits):
    values = [[number % 2**bits for number in range(8)], [(number * 3) % 2**bits for number in range(8)]]
    narrow_png(tmp_path / "mask.png", values, bits)
    assert read_mask(tmp_path / "mask.png").tolist() == values


def refusal(path: Path, **options) -> str:
    with pytest.raises(MaskError) as error:
        read_mask(path, **options)
    return error.value.cause


def test_what_cannot_hold_classes_is_refused_in_one_line(tmp_path):
    grey = np.repeat(VALUES[..., None], 3, 2)
    colours = grey.copy()
    colours[0, 0] = (9, 8, 7)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray((VALUES * 300.0).astype(np.uint16)).save(tmp_path / "wide.png")
    Image.fromarray(VALUES).save(tmp_path / "lossy.jpg")
    Image.fromarray(VALUES).convert("LA").save(tmp_path / "alpha.png")
    advice = "save it as an indexed or grey PNG, or name each class's colour in palette.txt (name R G B)"
    assert refusal(tmp_path / "colours.png") == f"RGB colours, not class numbers: {advice}"
    equal = "its channels are equal, save it as 8-bit grey"
    assert refusal(tmp_path / "grey.png") == f"RGB colours, not class numbers: {equal}"
    assert refusal(tmp_path / "alpha.png") == f"LA colours, not class numbers: {equal}"
    assert refusal(tmp_path / "wide.png") == "mask of more than 8 bits, with values up to 10964: save it with 8 bits"
    assert refusal(tmp_path / "lossy.jpg") == "JPEG changes the values of a mask: save masks as PNG"
    for content, cause in ((b"no mask", "not an image, or a damaged one"), (b"", "empty")):
        (tmp_path / "broken.png").write_bytes(content)
        with pytest.raises(DecodeError, match=cause) as error:
            read_mask(tmp_path / "broken.png")
        assert not isinstance(error.value, MaskError)


def test_a_mask_cut_short_is_damaged(tmp_path):
    write_mask(tmp_path / "mask.png", np.random.default_rng(0).integers(0, 256, (64, 64)))
    (tmp_path / "mask.png").write_bytes((tmp_path / "mask.png").read_bytes()[:1500])
    with pytest.raises(DecodeError, match="damaged or cut short"):
        read_mask(tmp_path / "mask.png")


COLOURS = {(255, 0, 0): 1, (0, 0, 0): 0, (0, 128, 255): 2}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_a_palette_file_become_class_numbers(tmp_path, mode):
    numbers = np.random.default_rng(0).integers(0, 3, (20, 30))
    of_number = np.array([colour for colour, _ in sorted(COLOURS.items(), key=lambda entry: entry[1])], np.uint8)
    image = Image.fromarray(of_number[numbers])
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", colours=COLOURS), numbers)


def test_a_colour_of_no_class_is_named_with_its_place(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[4:6, 7] = (254, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    cause = refusal(tmp_path / "mask.png", colours=COLOURS)
    assert cause == (
        "2 pixels have colours of no class, such as (254, 0, 0) at column 7, row 4: "
        "add a line `name 254 0 0` to the file of colours"
    )


def test_the_zero_label_is_removed_as_recorded():
    recording = json.loads(GOLDEN.read_text())
    values = np.array(recording["input"]["png_grey_values"], np.uint8)
    coding = MaskCoding([str(number) for number in range(254)], range(1, 255), (0, 255))
    assert coding.classes(values, Path("mask.png")).tolist() == recording["outputs"]["reduced"]
    plain = MaskCoding([str(number) for number in range(255)], range(255), (255,))
    assert plain.classes(values, Path("mask.png")).tolist() == recording["outputs"]["plain"]


def test_a_value_of_no_class_is_named_with_its_pixels():
    coding = MaskCoding(["a", "b", "c"], [0, 1, 2], [255])
    with pytest.raises(MaskError) as error:
        coding.classes(quarters(values=(0, 1, 9, 17)), Path("m.png"))
    assert str(error.value) == (
        "m.png: value 9 (560 pixels) and 1 other values, but the 3 classes have the values 0..2, 255 not labelled: "
        "name all classes, or leave the value out with data.ignore 9"
    )
