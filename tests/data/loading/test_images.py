import io
import logging
import random
import re

import numpy as np
import pytest
import torch
from data_trees import make
from PIL import Image
from torchvision.transforms import v2

from mvrec.data import ImageNet, read_image
from mvrec.data.listing.archive import ArchiveMember
from mvrec.data.listing.file_kinds import IMAGES
from mvrec.data.listing.index import Row, SampleIndex
from mvrec.data.listing.layouts import find_split
from mvrec.data.loading import images as module
from mvrec.data.loading.batch import SampleKey, collate
from mvrec.data.loading.images import EvalImages, TrainImages, image_size, protocol_view
from mvrec.data.views.geometry import choose_geometry, random_crop_box
from mvrec.data.views.protocol import ImageProtocol
from mvrec.data.views.transforms import Augment, crop_and_resize, train_view
from mvrec.errors import DecodeError, UserError
from mvrec.seeds import derive_seed

PLAIN = Augment(interpolation="bicubic", flip_probability=0.0, rand_augment=None)


def picture(height=60, width=80, seed=0):
    """A smooth picture in colour, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


PICTURE = Image.fromarray(picture())
RAMP = np.tile(np.linspace(0, 1, 64), (64, 1))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def read(tmp_path):
    """Reads the bytes of a file, or an image after it has been encoded, whatever the name says."""

    def call(content, kind="", *, upright=True, **options):
        path = tmp_path / "a.JPEG"
        path.write_bytes(encoded(content, kind, **options) if kind else content)
        return read_image(path, upright=upright)

    return call


def pillows(content):
    """The pixels that Pillow sees in the bytes of a file."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_lossless_files_give_their_pixels_and_lossy_ones_those_of_pillow(read):
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        pixels = read(PICTURE, kind)
        np.testing.assert_array_equal(pixels, picture(), kind)
        assert pixels.flags.writeable  # torch warns of others
    content = encoded(PICTURE, "WEBP", quality=90)
    np.testing.assert_array_equal(read(content), pillows(content))
    frames = [Image.fromarray(picture(seed=seed)) for seed in (1, 2)]  # an animation is its first frame
    np.testing.assert_array_equal(read(PICTURE, "WEBP", save_all=True, append_images=frames, lossless=True), picture())


def test_grey_palette_cmyk_one_bit_and_alpha_become_rgb(read):
    for mode in ("L", "P"):
        np.testing.assert_array_equal(
            read(PICTURE.convert(mode), "PNG"), np.asarray(PICTURE.convert(mode).convert("RGB"))
        )
    assert np.abs(read(PICTURE.convert("CMYK"), "JPEG", quality=95).astype(int) - picture()).mean() < 4
    assert set(np.unique(read(PICTURE.convert("1"), "PNG"))) == {0, 255}
    clear = PICTURE.convert("RGBA")
    clear.putalpha(0)  # which is dropped and not blended
    np.testing.assert_array_equal(read(clear, "PNG"), picture())
    palette = PICTURE.convert("P")
    clear = read(palette, "PNG", transparency=bytes(range(256)))  # Pillow warns of these
    np.testing.assert_array_equal(clear, np.asarray(palette.convert("RGB")))


def test_grey_of_any_depth_keeps_its_brightness(read):
    ramps = [
        encoded(Image.fromarray((RAMP * 65535).astype(np.int32)), "TIFF"),
        encoded(Image.fromarray((RAMP * 255).astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
        encoded(Image.fromarray((RAMP * 255).astype(np.float32)), "TIFF"),
        encoded(Image.fromarray(RAMP > 0.5), "PNG"),
        *(f"P5 64 64 {most}\n".encode() + (RAMP * most).astype(">u2").tobytes() for most in (1023, 65535)),
    ]
    for number, content in enumerate(ramps):
        pixels = read(content)
        assert abs(pixels.mean() - 127.5) < 1, number
        assert (pixels[0, 0, 0], pixels[0, -1, 0]) == (0, 255), number
    levels = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1365  # of 16 bits the upper eight stay
    np.testing.assert_array_equal(
        read(Image.fromarray(levels), "PNG"), np.repeat((levels // 256)[..., None], 3, axis=2)
    )


def test_grey_without_a_known_white_is_refused(read):
    for values in (RAMP.astype(np.float32) - 0.5, (RAMP * 2**30).astype(np.int32)):
        with pytest.raises(DecodeError, match=r"grey values .*: convert the image to 8 or 16 bits$"):
            read(Image.fromarray(values), "TIFF")
    # The header of a FITS file may say by how much every value is to be raised.
    numbers = {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 2, "NAXIS1": 4, "NAXIS2": 2, "BZERO": 32768}
    header = "".join(f"{name:8}= {value:>20}".ljust(80) for name, value in numbers.items()) + "END"
    with pytest.raises(DecodeError, match="grey values of FITS: convert the image to 8 bits"):
        read(header.ljust(2880).encode() + np.full(8, -32768, ">i2").tobytes().ljust(2880, b"\0"))


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
    return encoded(PICTURE, kind, exif=exif)


@pytest.mark.parametrize("orientation", ORIENTED)
def test_orientation_in_exif_is_applied_where_asked_for(read, orientation):
    files = {kind: oriented(kind, orientation) for kind in ("JPEG", "PNG", "WEBP")}
    profile = b"\xff\xed\xea\x62" + bytes(60000)
    files["behind long blocks"] = files["JPEG"][:2] + 3 * profile + files["JPEG"][2:]
    for name, content in files.items():
        stored = read(content, upright=False)
        assert stored.shape == (60, 80, 3)
        np.testing.assert_array_equal(read(content), ORIENTED[orientation](stored), name)
    np.testing.assert_array_equal(read(oriented("TIFF", orientation)), ORIENTED[orientation](picture()))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "grey", "cmyk", "rgb"])
def test_jpegs_of_all_kinds_have_pillows_pixels(read, subsampling):
    mode = {"grey": "L", "cmyk": "CMYK"}.get(subsampling, "RGB")
    kind = {"rgb": {"keep_rgb": True}, "grey": {}, "cmyk": {}}.get(subsampling, {"subsampling": subsampling})
    for size in ((60, 80), (37, 51), (1, 1), (8, 300)):
        for options in ({}, {"progressive": True}, {"optimize": True, "quality": 30}):
            content = encoded(Image.fromarray(picture(*size)).convert(mode), "JPEG", **options, **kind)
            pixels = read(content)
            np.testing.assert_array_equal(pixels, pillows(content), f"{size} {options}")
            assert pixels.dtype == np.uint8
            assert pixels.flags.writeable


def test_plain_jpegs_do_not_go_through_pillow_and_broken_exif_is_no_matter(read, monkeypatch):
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x20\x00\x12"
    assert read(PICTURE, "JPEG", exif=exif).shape == (60, 80, 3)
    content = encoded(PICTURE, "JPEG")
    monkeypatch.setattr(module.Image, "open", lambda *args: pytest.fail("Pillow is twice as slow"))
    assert read(content).shape == (60, 80, 3)


def test_an_image_in_an_archive_is_read_in_place_or_named_with_its_archive(read, tmp_path):
    for kind in ("JPEG", "PNG"):
        content = encoded(PICTURE, kind)
        archive = tmp_path / "a.tar"
        archive.write_bytes(b"before" + content + b"after")
        member = ArchiveMember(archive, "n01/a.JPEG", 6, len(content))
        np.testing.assert_array_equal(read_image(member), read(content))
        with pytest.raises(DecodeError, match=r"a\.tar/n01/a\.JPEG: damaged or cut short|not an image"):
            read_image(ArchiveMember(archive, "n01/a.JPEG", 6, len(content) // 2))


def test_broken_and_missing_files_and_bombs_are_one_line(read, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    for content, cause in (
        (b"", r"is empty \(0 bytes\)"),
        (b"not an image at all", "not an image, or a damaged one"),
        (encoded(PICTURE, "JPEG")[:900], r"damaged or cut short \(.*truncated"),
        (encoded(PICTURE, "PNG")[:900], r"damaged or cut short \(.*truncated"),
        (encoded(PICTURE, "WEBP", quality=95)[:500], "damaged or cut short"),
        (b"\xff\xd8\xff\xe0", "not an image, or a damaged one|damaged or cut short"),
        (encoded(Image.fromarray(picture(150, 150)), "PNG"), "damaged or cut short .*decompression bomb"),
    ):
        with pytest.raises(DecodeError) as caught:
            read(content)
        assert re.search(cause, caught.value.cause)
        assert str(caught.value) == f"{tmp_path / 'a.JPEG'}: {caught.value.cause}"
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in caught.value.cause
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    for name, cause in (
        *(("missing.jpg", "no such file"), ("", "is a directory"), ("link.jpg", "is a broken link")),
        ("a.mp4", "a video, not an image"),
    ):
        with pytest.raises(DecodeError, match=cause):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("height", "width", "short_side", "size"),
    [
        *((375, 500, 256, 224), (500, 375, 257, 224), (300, 300, 64, 64), (120, 97, 256, 224)),
        *((256, 357, 256, 224), (359, 256, 256, 224)),  # rests of 0.5 that round up and down
        (62, 501, 248, 224),  # 501 / 62 * 248 is 2004, and just below it in floating point
    ],
)
def test_pixels_are_torchvisions(height, width, short_side, size):
    image = picture(height, width)
    for interpolation, most in (("bicubic", 2), ("bilinear", 1)):
        mode = v2.InterpolationMode(interpolation)
        steps = v2.Compose([v2.Resize(short_side, mode, antialias=True), v2.CenterCrop(size)])
        protocol = ImageProtocol(short_side=short_side, size=size, interpolation=interpolation)
        (view,) = protocol_view(image.copy(), protocol)
        assert view.dtype == torch.uint8
        assert torch.equal(view, steps(torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous()))
        # On PIL images, as timm does it, the filter's weights have more bits: its two passes round otherwise.
        pillow = torch.from_numpy(np.array(steps(Image.fromarray(image)))).permute(2, 0, 1)
        difference = (view.int() - pillow.int()).abs()
        assert difference.max() <= most
        assert difference.float().mean() < 0.05


def test_random_interpolation_draws_between_the_two():
    frames = picture()[None].copy()
    plain = {"flip_probability": 0.0, "rand_augment": None, "random_erasing": None}

    def view(interpolation, seed):
        augment = Augment(interpolation=interpolation, **plain)
        geometry = choose_geometry(*frames.shape[1:3], size=32, augment=augment, seed=seed)
        return train_view(frames, geometry, rand_augment=None, seed=seed)

    bicubic = [torch.equal(view("random", seed), view("bicubic", seed)) for seed in range(40)]
    bilinear = [torch.equal(view("random", seed), view("bilinear", seed)) for seed in range(40)]
    assert bicubic == [not same for same in bilinear]
    assert 8 < sum(bicubic) < 32


def crop_of_seed(image, item, size):
    """The crop of an image that the seed of an item asks for."""
    box = random_crop_box(*image.shape[:2], PLAIN, random.Random(derive_seed("pixels", item.seeds[0])))
    return crop_and_resize(image[None], box, (size, size), interpolation=PLAIN.interpolation)


def test_views_are_the_protocols_or_the_crop_of_a_seed_of_images_turned_or_not(tmp_path):
    path = make(tmp_path, {"a.jpg": oriented("JPEG", 6)}) / "a.jpg"
    index = SampleIndex([Row("a.jpg", "a")], root=tmp_path, class_names=["a", "b"])
    for upright in (False, True):
        protocol, image = ImageProtocol(short_side=30, size=30, upright=upright), read_image(path, upright=upright)
        assert torch.equal(EvalImages(index, protocol)[SampleKey(0, 0)].views, protocol_view(image, protocol))
        assert ("upright" in str(protocol)) == upright
        item = TrainImages(index, 24, PLAIN, upright=upright)[SampleKey(3, 0)]
        assert torch.equal(item.views, crop_of_seed(image, item, 24))  # (1, C, h, w)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes of training and validation images."""
    files = {}
    for split, count in (("train", 5), ("val", 2)):
        for label, name in enumerate(("n01", "n02")):
            for number in range(count):
                image = picture(60 + 10 * number, 80 - 10 * number, seed=10 * label + number)
                files[f"{split}/{name}/{number}.JPEG"] = encoded(Image.fromarray(image), "JPEG")
    return make(tmp_path_factory.mktemp("images") / "tree", files)


def test_repeats_are_decoded_once_a_key_may_name_some_and_a_batch_has_no_time_axis(tree, monkeypatch):
    opened = []
    monkeypatch.setattr(module, "read_image", lambda path, upright: opened.append(path) or read_image(path))
    images = TrainImages(find_split(tree, "train", kind=IMAGES), 32, Augment(), repeats=3)
    every = images[SampleKey(0, 4)]
    assert len(opened) == 1
    assert every.views.shape == (3, 3, 32, 32)
    some = images[SampleKey(0, 4, repeats=(0, 2))]
    assert some.seeds == (every.seeds[0], every.seeds[2])
    assert torch.equal(some.views, every.views[[0, 2]])
    other = images[SampleKey(0, 6)]
    batch = collate([some, other])
    assert batch.clips.dtype == torch.uint8
    assert torch.equal(batch.clips, torch.cat([some.views, other.views]))
    assert batch.targets.tolist() == [0, 0, 1, 1, 1]


def test_the_data_module_gives_images(tree):
    data = ImageNet(str(tree), size=32, batch_size=4, repeats=3, num_workers=0)
    data.setup("fit")
    assert (data.num_classes, data.class_names) == (2, ("n01", "n02"))
    assert (data.clip_shape, data.clips_per_step) == ((3, 32, 32), 4)
    batches = list(data.train_dataloader())
    assert [tuple(batch.clips.shape) for batch in batches] == [(4, 3, 32, 32)] * 2
    assert len({int(index) for batch in batches for index in batch.sample_ids}) == 3  # of 10 images
    (batch,) = data.val_dataloader()
    assert (batch.sample_ids.tolist(), batch.targets.tolist()) == ([0, 1, 2, 3], [0, 0, 1, 1])
    views = [protocol_view(read_image(sample.path), data.val_protocol) for sample in data.index("val")]
    assert torch.equal(batch.clips, torch.cat(views))
    assert str(data.val_protocol) == "val images, short side 36, crop 32, bicubic"


def test_a_crop_fraction_sets_the_short_side_and_impossible_numbers_are_refused(tree):
    for size, fraction, short_side in ((224, 0.875, 256), (224, 0.9, 248), (384, 1.0, 384)):
        protocol = ImageNet(str(tree), size=size, crop_fraction=fraction).test_protocol
        assert protocol.short_side == short_side
        assert protocol.as_dict()["normalisation"]["mean"] == (0.485, 0.456, 0.406)
    for name in ("crop_fraction", "size", "repeats"):
        with pytest.raises(UserError, match=rf"data\.{name} must .*got 0"):
            ImageNet(str(tree), **{name: 0})


def test_test_reads_val_where_there_is_no_test_split_and_says_so(tree, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mvrec"), "propagate", True)  # the command line turns it off
    caplog.set_level("INFO")

    def tested(root, **options):
        caplog.clear()
        data = ImageNet(str(root), size=32, **options)
        data.setup("test")
        return len(data.index("test")), str(data.test_protocol).partition(",")[0]

    assert tested(tree) == (4, "val images")
    assert f"{tree} has no test split: reading the images of val instead" in caplog.text
    # With a test split nothing is said, and val can be asked for.
    make(tmp_path, {"test.csv": "path,label\nval/n01/0.JPEG,n01\nval/n02/0.JPEG,n02\n"})
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(tree / split)
    for options, result in (({}, (2, "test images")), ({"test_split": "val"}, (4, "val images"))):
        assert tested(tmp_path, **options) == result
        assert "no test split" not in caplog.text


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("upright", [True, False])
def test_the_header_says_the_size_of_the_pixels_however_they_are_turned(tmp_path, ending, upright):
    for orientation in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{ending}"
        Image.new("RGB", (30, 20)).save(path, exif=exif)
        assert image_size(path, upright=upright) == read_image(path, upright=upright).shape[:2]
