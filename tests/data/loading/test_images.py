import io
import logging
import random
import re
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mvrec.data import ImageNet, read_image
from mvrec.data.listing.archive import ArchiveMember
from mvrec.data.listing.file_kinds import IMAGES
from mvrec.data.listing.index import Row, SampleIndex
from mvrec.data.listing.layouts import find_split
from mvrec.data.loading import images as module
from mvrec.data.loading.batch import PADDING_ID, SampleKey, collate
from mvrec.data.loading.images import EvalImages, TrainImages, protocol_view
from mvrec.data.views.geometry import choose_geometry, random_crop_box
from mvrec.data.views.protocol import ImageProtocol
from mvrec.data.views.targets import ClassIndex
from mvrec.data.views.transforms import (
    Augment,
    crop_and_resize,
    train_view,
)
from mvrec.errors import DecodeError, UserError
from mvrec.seeds import derive_seed

WHOLE = Augment((1.0, 1.0), (4 / 3, 4 / 3), flip_probability=0.0, rand_augment=None, random_erasing=None)


def picture(height=60, width=80, seed=0):
    """A smooth picture in colour, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_lossless_files_give_their_pixels_and_lossy_ones_those_of_pillow(tmp_path):
    pixels = picture()
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        found = read_image(write(tmp_path / "a.JPEG", encoded(Image.fromarray(pixels), kind)))  # whatever the name says
        np.testing.assert_array_equal(found, pixels, kind)
        assert found.flags.writeable  # torch warns of others
    path = write(tmp_path / "a.bin", encoded(Image.fromarray(pixels), "WEBP", quality=90))
    assert np.abs(read_image(str(path)).astype(int) - pixels).mean() < 4
    np.testing.assert_array_equal(read_image(str(path)), np.asarray(Image.open(path)))


def test_grey_palette_cmyk_and_one_bit_become_rgb(tmp_path):
    image = Image.fromarray(picture())

    def read(mode, kind="PNG", **options):
        return read_image(write(tmp_path / "a", encoded(image.convert(mode), kind, **options)))

    for mode in ("L", "P"):
        np.testing.assert_array_equal(read(mode), np.asarray(image.convert(mode).convert("RGB")), mode)
    assert np.abs(read("CMYK", "JPEG", quality=95).astype(int) - picture()).mean() < 4
    assert set(np.unique(read("1"))) == {0, 255}


def test_sixteen_bits_of_grey_keep_the_upper_eight(tmp_path):
    levels = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1365
    found = read_image(write(tmp_path / "deep.png", encoded(Image.fromarray(levels), "PNG")))
    np.testing.assert_array_equal(found, np.repeat((levels // 256)[..., None], 3, axis=2))


RAMP = np.tile(np.linspace(0, 1, 64), (64, 1))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("TIFF", (RAMP * 65535).astype(np.int32)),
        ("TIFF", (RAMP * 255).astype(np.int32)),
        ("TIFF", RAMP.astype(np.float32)),
        ("TIFF", (RAMP * 255).astype(np.float32)),
        ("PNG", RAMP > 0.5),
        ("PPM", (RAMP * 65535).astype(np.uint16)),
    ],
)
def test_a_grey_ramp_of_any_depth_keeps_its_brightness(tmp_path, kind, values):
    found = read_image(write(tmp_path / "a", encoded(Image.fromarray(values), kind)))
    assert abs(found.mean() - 127.5) < 1
    assert (found[0, 0, 0], found[0, -1, 0]) == (0, 255)


def test_big_endian_and_ten_bit_grey(tmp_path):
    for most in (1023, 65535):
        header = f"P5 64 64 {most}\n".encode()
        found = read_image(write(tmp_path / "a.pgm", header + (RAMP * most).astype(">u2").tobytes()))
        assert abs(found.mean() - 127.5) < 1


@pytest.mark.parametrize("values", [RAMP.astype(np.float32) - 0.5, (RAMP * 2**30).astype(np.int32)])
def test_grey_without_a_known_white_is_refused(tmp_path, values):
    with pytest.raises(DecodeError, match=r"grey values .*: convert the image to 8 or 16 bits$"):
        read_image(write(tmp_path / "a.tif", encoded(Image.fromarray(values), "TIFF")))


def test_grey_of_fits_is_refused(tmp_path):
    """Its header may say by how much every value is to be raised."""
    numbers = {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 2, "NAXIS1": 4, "NAXIS2": 2, "BZERO": 32768}
    header = "".join(f"{name:8}= {value:>20}".ljust(80) for name, value in numbers.items()) + "END"
    content = header.ljust(2880).encode() + np.full(8, -32768, ">i2").tobytes().ljust(2880, b"\0")
    with pytest.raises(DecodeError, match="grey values of FITS: convert the image to 8 bits"):
        read_image(write(tmp_path / "a.fits", content))


def test_alpha_is_dropped_and_not_blended(tmp_path):
    pixels = picture()
    alpha = np.zeros((*pixels.shape[:2], 1), np.uint8)
    image = Image.fromarray(np.concatenate([pixels, alpha], axis=2))
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.png", encoded(image, "PNG"))), pixels)
    palette = Image.fromarray(pixels).convert("P")
    content = encoded(palette, "PNG", transparency=bytes(range(256)))  # Pillow warns of these
    np.testing.assert_array_equal(read_image(write(tmp_path / "p.png", content)), np.asarray(palette.convert("RGB")))


# What is shown of stored pixels, as the table of the standard has it: where row 0 and column 0 of the file belong.
ORIENTED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


def oriented(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(picture()), kind, exif=exif)


@pytest.mark.parametrize("orientation", ORIENTED)
def test_orientation_in_exif_is_applied_where_asked_for(tmp_path, orientation):
    for kind in ("JPEG", "PNG", "WEBP"):
        path = write(tmp_path / "a.jpg", oriented(kind, orientation))
        stored = read_image(path, upright=False)
        assert stored.shape == (60, 80, 3)
        np.testing.assert_array_equal(read_image(path), ORIENTED[orientation](stored), kind)


@pytest.mark.parametrize("orientation", ORIENTED)
def test_orientation_of_tiff_and_behind_long_blocks_is_applied(tmp_path, orientation):
    path = write(tmp_path / "a.tif", oriented("TIFF", orientation))
    np.testing.assert_array_equal(read_image(path), ORIENTED[orientation](picture()))
    jpeg = oriented("JPEG", orientation)
    profile = b"\xff\xed\xea\x62" + bytes(60000)
    path = write(tmp_path / "a.jpg", jpeg[:2] + 3 * profile + jpeg[2:])
    np.testing.assert_array_equal(read_image(path), ORIENTED[orientation](read_image(path, upright=False)))


def test_the_protocol_says_whether_images_are_turned(tmp_path):
    path = write(tmp_path / "train/a/a.jpg", oriented("JPEG", 6))
    index = SampleIndex([Row("train/a/a.jpg", "a")], root=tmp_path, class_names=["a", "b"])
    for upright in (False, True):
        protocol, image = ImageProtocol(short_side=30, size=30, upright=upright), read_image(path, upright=upright)
        assert torch.equal(EvalImages(index, protocol)[SampleKey(0, 0)].views, protocol_view(image, protocol))
        assert ("upright" in str(protocol)) == upright
        item = TrainImages(index, 24, WHOLE, upright=upright)[SampleKey(0, 0)]
        assert torch.equal(item.views, expected_view(image, item, WHOLE, 24))


def expected_view(image, item, augment, size):
    """The crop of an image that the seed of an item asks for."""
    box = random_crop_box(*image.shape[:2], augment, random.Random(derive_seed("pixels", item.seeds[0])))
    return crop_and_resize(image[None], box, (size, size), interpolation=augment.interpolation)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "grey", "cmyk", "rgb"])
def test_jpegs_of_all_kinds_have_pillows_pixels(tmp_path, subsampling):
    modes, path = {"grey": "L", "cmyk": "CMYK"}, tmp_path / "a.png"
    how = {"rgb": {"keep_rgb": True}, "grey": {}, "cmyk": {}}.get(subsampling, {"subsampling": subsampling})
    for size in ((60, 80), (37, 51), (1, 1), (8, 300)):
        image = Image.fromarray(picture(*size)).convert(modes.get(subsampling, "RGB"))
        for options in ({}, {"progressive": True}, {"optimize": True, "quality": 30}):
            write(path, encoded(image, "JPEG", **options, **how))
            found = read_image(path)
            np.testing.assert_array_equal(found, np.asarray(Image.open(path).convert("RGB")), f"{size} {options}")
            assert found.dtype == np.uint8
            assert found.flags.writeable


def test_plain_jpegs_do_not_go_through_pillow(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jpg", encoded(Image.fromarray(picture()), "JPEG"))
    monkeypatch.setattr(module.Image, "open", lambda *args: pytest.fail("Pillow is twice as slow"))
    assert read_image(path).shape == (60, 80, 3)


def test_an_image_in_an_archive_is_read_in_place_or_named_with_its_archive(tmp_path):
    for kind in ("JPEG", "PNG"):
        content = encoded(Image.fromarray(picture()), kind)
        archive = write(tmp_path / "a.tar", b"before" + content + b"after")
        member = ArchiveMember(archive, "n01/a.JPEG", 6, len(content))
        np.testing.assert_array_equal(read_image(member), read_image(write(tmp_path / "a", content)))
        with pytest.raises(DecodeError, match=r"a\.tar/n01/a\.JPEG: damaged or cut short|not an image"):
            read_image(ArchiveMember(archive, "n01/a.JPEG", 6, len(content) // 2))


def test_broken_exif_is_no_matter(tmp_path):
    content = encoded(Image.fromarray(picture()), "JPEG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x20\x00\x12")
    assert read_image(write(tmp_path / "a.jpg", content)).shape == (60, 80, 3)


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    path = write(
        tmp_path / "a.webp", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    )
    np.testing.assert_array_equal(read_image(path), picture())


def png_with_broken_data():
    content = bytearray(encoded(Image.fromarray(picture()), "PNG"))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def bomb():
    """A PNG that says it is 30000 x 30000."""

    def chunk(kind, content):
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = chunk(b"IHDR", (30000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BROKEN = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "text": (b"not an image at all", "not an image, or a damaged one"),
    "half a JPEG": (encoded(Image.fromarray(picture()), "JPEG")[:900], r"damaged or cut short \(.*truncated"),
    "half a PNG": (encoded(Image.fromarray(picture()), "PNG")[:900], r"damaged or cut short \(.*truncated"),
    "half a WebP": (encoded(Image.fromarray(picture()), "WEBP", quality=95)[:500], "damaged or cut short"),
    "a header alone": (b"\xff\xd8\xff\xe0", "not an image, or a damaged one|damaged or cut short"),
    "broken PNG data": (png_with_broken_data(), "damaged or cut short"),
    "a bomb": (bomb(), "damaged or cut short .*decompression bomb"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_line(tmp_path, name):
    content, cause = BROKEN[name]
    path = write(tmp_path / "broken.JPEG", content)
    with pytest.raises(DecodeError) as caught:
        read_image(path)
    assert re.search(cause, caught.value.cause)
    assert str(caught.value) == f"{path}: {caught.value.cause}"
    assert "\n" not in str(caught.value)
    assert str(path) not in caught.value.cause


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(DecodeError, match="no such file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(DecodeError, match="is a directory"):
        read_image(tmp_path)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(DecodeError, match="is a broken link"):
        read_image(tmp_path / "link.jpg")


# Wide, tall and square; rests of 0.5 that round up and down; smaller than the crop; and 501 / 62 * 248, which is 2004
# and just below it in floating point.
SIZES = [(375, 500), (500, 375), (256, 357), (256, 359), (357, 256), (300, 300), (120, 97), (62, 501)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pixels_are_torchvisions(height, width):
    image = picture(height, width)
    for short_side, size in ((256, 224), (248, 224), (257, 224), (64, 64)):
        for interpolation, most in (("bicubic", 2), ("bilinear", 1)):
            mode = v2.InterpolationMode(interpolation)
            steps = v2.Compose([v2.Resize(short_side, mode, antialias=True), v2.CenterCrop(size)])
            protocol = ImageProtocol(short_side=short_side, size=size, interpolation=interpolation)
            (found,) = protocol_view(image.copy(), protocol)
            assert found.dtype == torch.uint8
            assert torch.equal(found, steps(torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous())), protocol
            # On PIL images, as timm does it, the filter's weights have more bits: its two passes round otherwise.
            pillow = torch.from_numpy(np.array(steps(Image.fromarray(image)))).permute(2, 0, 1)
            difference = (found.int() - pillow.int()).abs()
            assert difference.max() <= most, protocol
            assert difference.float().mean() < 0.05, protocol


def test_random_interpolation_draws_between_the_two():
    frames = picture(200, 300)[None].copy()
    plain = {"flip_probability": 0.0, "rand_augment": None, "random_erasing": None}

    def view(interpolation, seed):
        geometry = choose_geometry(
            *frames.shape[1:3], size=32, augment=Augment(interpolation=interpolation, **plain), seed=seed
        )
        return train_view(frames, geometry, rand_augment=None, seed=seed)

    bicubic = [torch.equal(view("random", seed), view("bicubic", seed)) for seed in range(40)]
    bilinear = [torch.equal(view("random", seed), view("bilinear", seed)) for seed in range(40)]
    assert bicubic == [not same for same in bilinear]
    assert 8 < sum(bicubic) < 32


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes of training and validation images; one of each split lies deeper, some files are no images."""
    root = tmp_path_factory.mktemp("images") / "tree"
    sizes = [(60, 80), (80, 60), (70, 70)]
    for split, count in (("train", 5), ("val", 2)):
        for label, name in enumerate(("n01", "n02")):
            for number in range(count):
                folder = root / split / name / ("images" if number == 1 else "")
                image = Image.fromarray(picture(*sizes[number % 3], seed=10 * label + number))
                write(folder / f"{name}_{number}.JPEG", encoded(image, "JPEG", quality=95))
    write(root / "train/n01/notes.txt", b"")
    write(root / "train/n02/.hidden.JPEG", b"")
    write(root / "train/n02/n02_boxes.txt", b"")
    return root


def listed(root, split="train"):
    return find_split(root, split, kind=IMAGES)


def test_folders_are_listed_without_opening_a_file(tree, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    index = listed(tree)
    assert index.class_names == ("n01", "n02")
    files = [str(sample.path.relative_to(tree / "train")) for sample in index]
    assert files[:5] == [
        *(f"n01/n01_{number}.JPEG" for number in (0, 2, 3, 4)),
        "n01/images/n01_1.JPEG",
    ]
    assert index.labels.tolist() == [0] * 5 + [1] * 5


def test_evaluation_reads_the_protocols_view(tree):
    index = listed(tree, "val")
    images = EvalImages(index, ImageProtocol(short_side=40, size=32))
    for row in range(len(images)):
        item = images[SampleKey(0, row)]
        assert torch.equal(item.views, protocol_view(read_image(index[row].path), images.protocol))
        assert (item.targets, item.sample_id, item.bad) == ((ClassIndex(row // 2),), row, ())
    padding = images[SampleKey(0, 1, counted=False)]
    assert padding.sample_id == PADDING_ID


def test_a_view_is_the_crop_that_its_seed_draws(tree):
    index = listed(tree)
    plain = Augment(interpolation="bicubic", flip_probability=0.0, rand_augment=None)
    item = TrainImages(index, 32, plain)[SampleKey(3, 7)]
    assert torch.equal(item.views, expected_view(read_image(index[7].path), item, plain, 32))  # (1, C, h, w)


def test_repeats_are_decoded_once_and_a_key_may_name_some(tree, monkeypatch):
    opened = []
    monkeypatch.setattr(module, "read_image", lambda path, upright: opened.append(path) or read_image(path))
    images = TrainImages(listed(tree), 32, Augment(), repeats=3)
    every = images[SampleKey(0, 4)]
    assert len(opened) == 1
    assert every.views.shape == (3, 3, 32, 32)
    assert len({view.numpy().tobytes() for view in every.views}) == 3
    some = images[SampleKey(0, 4, repeats=(0, 2))]
    assert some.seeds == (every.seeds[0], every.seeds[2])
    assert torch.equal(some.views, every.views[[0, 2]])


def test_a_batch_of_images_has_no_time_axis(tree):
    images = TrainImages(listed(tree), 32, Augment(), repeats=2)
    batch = collate([images[SampleKey(0, row)] for row in (0, 6)])
    assert batch.clips.shape == (4, 3, 32, 32)
    assert batch.clips.dtype == torch.uint8
    assert torch.equal(batch.clips[2:], images[SampleKey(0, 6)].views)
    assert batch.targets.tolist() == [0, 0, 1, 1]


def test_the_data_module_gives_images(tree):
    data = ImageNet(str(tree), size=32, batch_size=4, repeats=3, num_workers=0)
    data.setup("fit")
    assert (data.num_classes, data.class_names) == (2, ("n01", "n02"))
    assert (data.clip_shape, data.clips_per_step) == ((3, 32, 32), 4)
    batches = list(data.train_dataloader())
    assert [tuple(batch.clips.shape) for batch in batches] == [(4, 3, 32, 32)] * 2
    assert len({int(index) for batch in batches for index in batch.sample_ids}) == 3  # of 10 images
    (batch,) = data.val_dataloader()
    assert batch.sample_ids.tolist() == [0, 1, 2, 3]
    assert str(data.val_protocol) == "val images, short side 36, crop 32, bicubic"


def test_a_crop_fraction_sets_the_short_side(tree):
    for size, fraction, short_side in ((224, 0.875, 256), (224, 0.9, 248), (384, 1.0, 384)):
        protocol = ImageNet(str(tree), size=size, crop_fraction=fraction).test_protocol
        assert protocol.short_side == short_side
        assert protocol.as_dict()["normalisation"]["mean"] == (0.485, 0.456, 0.406)


def test_impossible_numbers_are_refused_with_their_key(tree):
    for name, value in {"crop_fraction": 0, "size": 0, "repeats": 0}.items():
        with pytest.raises(UserError, match=rf"data\.{name} must .*got {value}"):
            ImageNet(str(tree), **{name: value})


def test_test_reads_val_where_there_is_no_test_split_and_says_so(tree, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mvrec"), "propagate", True)  # the command line turns it off
    data = ImageNet(str(tree), size=32)
    with caplog.at_level("INFO"):
        data.setup("test")
    assert f"{tree} has no test split: reading the images of val instead" in caplog.text
    assert len(data.index("test")) == 4
    assert str(data.test_protocol).startswith("val images")
    # With a test split nothing is said, and val can be asked for.
    own = tmp_path / "own"
    own.mkdir()
    (own / "train").symlink_to(tree / "train")
    (own / "val").symlink_to(tree / "val")
    write(own / "test.csv", b"path,label\nval/n01/n01_0.JPEG,n01\nval/n02/n02_0.JPEG,n02\n")
    caplog.clear()
    data, asked = ImageNet(str(own), size=32), ImageNet(str(own), size=32, test_split="val")
    with caplog.at_level("INFO"):
        data.setup("test")
        asked.setup("test")
    assert "no test split" not in caplog.text
    assert (len(data.index("test")), len(asked.index("test"))) == (2, 4)
    assert str(data.test_protocol).startswith("test images")
    assert str(asked.test_protocol).startswith("val images")
