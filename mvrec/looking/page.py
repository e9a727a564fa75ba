"""The page of `mvrec data show`."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import simplejpeg

from mvrec.data.sets.recognition_data import RecognitionData
from mvrec.data.views.targets import MaskMap
from mvrec.inference.overlay import legend_picture
from mvrec.looking.places import has_places
from mvrec.looking.views import ShownView
from mvrec.report.charts import jpeg_data, png_data
from mvrec.report.markup import Html, facts, join, name_of, tag
from mvrec.report.page import page
from mvrec.report.sections import Section
from mvrec.tasks.segmentation.colours import colours

SPLITS = {"train": "training", "val": "validation"}
LOSSLESS = 96  # pixels of a side, up to which pictures are PNGs
LONGEST = 16000  # pixels of a strip, which any browser draws
SECONDS = 0.12  # a frame is shown
JPEG_QUALITY = 92
STYLE = """
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1rem 2rem; }
.views { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; align-items: start; }
.view { font-size: .8rem; overflow-wrap: anywhere; }
.view p { margin: .2rem 0; }
.view dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .5rem; margin: .2rem 0; }
.view dd { margin: 0; }
.clip { aspect-ratio: 1; width: 100%; max-width: 14rem; background-size: auto 100%; image-rendering: auto; }
.drawn { width: 100%; max-width: 14rem; margin-top: .3rem; }
.small { image-rendering: pixelated; }
.clip:hover { animation-play-state: paused !important; }
@keyframes play { to { background-position-x: 100%; } }
"""


def data_page(data: RecognitionData, views: Sequence[ShownView], notes: Sequence[str]) -> str:
    """Return the page over views, class by class.

    Args:
        data: The data module that they are from.
        views: At least one.
        notes: Lines about files that could not be read.
    """
    names = [name for name in (*data.class_names, "") if any(name in view.classes for view in views)]
    other = "no class" if data.class_names and not has_places(data.target_type) else "files"
    sections = [Section(name or other, _pair([view for view in views if name in view.classes])) for name in names]
    sections[0] = Section(sections[0].title, join([tag("style", Html(STYLE)), sections[0].content]))
    if issubclass(data.target_type, MaskMap):
        sections[0] = Section(sections[0].title, join([_colours(data.class_names), sections[0].content]))
    subtitle = f"{_shapes(views)} as the network gets them; seed {data.seed or 0}; {data.layout.describe()}"
    return page(str(data.root.name), "data show", sections, subtitle=subtitle, notes=notes)


def _shapes(views: Sequence[ShownView]) -> str:
    sizes = {view.pixels.shape[:3] for view in views}
    if len(sizes) > 1:
        return f"views of {len(sizes)} sizes"
    (shape,) = sizes
    return f"{' x '.join(map(str, shape if shape[0] > 1 else shape[1:]))} pixels"


def _colours(names: Sequence[str]) -> Html:
    """Return the colour of each class of a mask."""
    return tag("img", src=png_data(legend_picture(names, colours(len(names)))), alt="colours of the classes")


def _pair(views: Sequence[ShownView]) -> Html:
    parts = []
    for split, title in SPLITS.items():
        shown = [_view(view) for view in views if view.split == split]
        content = tag("div", *shown, class_="views") if shown else tag("p", "none", class_="faint")
        parts.append(tag("div", tag("h3", title), content))
    return tag("div", *parts, class_="pair")


def _view(view: ShownView) -> Html:
    path = tag("p", name_of(view.path), class_="path")
    drawn = None if view.drawn is None else _still(view.drawn, f"{view.label}, drawn")
    return tag(
        "div", _picture(view), drawn, tag("p", tag("b", name_of(view.label))), path, facts(view.choices), class_="view"
    )


def _picture(view: ShownView) -> Html:
    """Return an image, or a strip of a clip's frames that plays as the background of a box."""
    count, height, width = view.pixels.shape[:3]
    most = max(LONGEST // width, 1)
    frames = view.pixels if count <= most else view.pixels[np.linspace(0, count - 1, most).round().astype(int)]
    strip = np.ascontiguousarray(np.concatenate(list(frames), axis=1))
    is_small = max(height, width) <= LOSSLESS
    source = _data_of(strip, is_small=is_small)
    style = f"background-image:url({source});aspect-ratio:{width}/{height}"
    if len(frames) > 1:
        seconds = SECONDS * len(frames)
        style += f";animation:play {seconds:.2f}s steps({len(frames)},jump-none) infinite"
    label = f"{view.label}, {len(frames)} frames" if len(frames) > 1 else view.label
    return tag("div", role="img", aria_label=label, class_="clip small" if is_small else "clip", style=style)


def _still(picture: npt.NDArray[np.uint8], text: str) -> Html:
    """Return a picture with masks or boxes."""
    source = _data_of(picture, is_small=max(picture.shape[:2]) <= LOSSLESS)
    return tag("img", src=source, alt=text, class_="drawn small" if max(picture.shape[:2]) <= LOSSLESS else "drawn")


def _data_of(picture: npt.NDArray[np.uint8], *, is_small: bool) -> str:
    pixels = np.ascontiguousarray(picture)
    return png_data(pixels) if is_small else jpeg_data(simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY))
