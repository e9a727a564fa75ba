"""Results for files and arrays: small typed objects, in the order of what was asked for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from mvrec.errors import DecodeError, UserError
from mvrec.files import at_home
from mvrec.inference.class_maps.drawing import OPACITY, painted
from mvrec.inference.overlay import write_indexed_png, write_png
from mvrec.tasks.outputs import Output, PixelOutput


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a path whose file is written in the block.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


@dataclass(frozen=True)
class Result:
    """A result for a file, a part of it, a part of a stream, or an array.

    Attributes:
        source: The file or stream; "array", or "array 3" in a list.
        start_seconds: Start of the part; `None` for an image and for frames of unknown rate.
        end_seconds: End of the part.
        error: Why the file could not be read, or "".
    """

    source: str
    start_seconds: float | None
    end_seconds: float | None
    error: str = ""

    @property
    def span(self) -> tuple[float | None, float | None]:
        """Start and end of the part in seconds."""
        return self.start_seconds, self.end_seconds

    def check(self) -> None:
        """Check that the file was read.

        Raises:
            DecodeError: The file could not be read.
        """
        if self.error:
            raise DecodeError(self.source, self.error)

    def _place(self) -> dict[str, Any]:
        return {"path": self.source, "start_seconds": self.start_seconds, "end_seconds": self.end_seconds}


@dataclass(frozen=True)
class Prediction(Result):
    """The prediction for a file, a part of it, a part of a stream, or an array.

    Attributes:
        output: The task's prediction in full, such as `output.probabilities`; `None` for an unreadable file.
    """

    output: Output | None = None

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the most probable classes with their probabilities, at most `k`.

        Raises:
            DecodeError: The file could not be read.
            UserError: The task ranks no classes.
        """
        return self._output().best(k)

    @property
    def label(self) -> str:
        """The most probable class; raises what `top` raises."""
        return self.top(1)[0][0]

    def as_dict(self, k: int = 5) -> dict[str, Any]:
        """Return plain values, as a line of `mvrec recognize --format jsonl` has them; with `error` if there is one."""
        error = {"error": self.error} if self.error else {}
        return {**self._place(), **({} if self.output is None else self.output.fields(k)), **error}

    def as_row(self, k: int = 1) -> dict[str, Any]:
        """Return flat values, for a table: `pandas.DataFrame(result.as_row(5) for result in results)`.

        The columns are those of `mvrec recognize --format csv --top k`: class_1, probability_1, class_2 and so on, or
        the numbers that a network predicts.
        """
        return {**self._place(), **({} if self.output is None else self.output.row(k)), "error": self.error}

    def _output(self) -> Output:
        self.check()
        assert self.output is not None
        return self.output

    def __str__(self) -> str:
        return f"{self.source}: {f'unreadable: {self.error}' if self.output is None else self.output.text(5)}"


@dataclass(frozen=True, eq=False)
class PicturePrediction(Prediction):
    """A prediction that can be drawn over its image, frame of a video, or array.

    Attributes:
        pixels: The image, uint8 (H, W, 3).
    """

    pixels: npt.NDArray[np.uint8] | None = field(default=None, repr=False)

    def overlay(self, opacity: float = OPACITY) -> npt.NDArray[np.uint8]:
        """Return the image with the prediction over it, uint8 (H', W', 3).

        Args:
            opacity: Share of the colours, from 0 to 1.

        Raises:
            DecodeError: The file could not be read.
        """
        raise NotImplementedError

    def save_overlay(self, path: str | os.PathLike[str], *, opacity: float = OPACITY) -> None:
        """Write the overlay as PNG.

        Raises:
            DecodeError: The file could not be read.
            UserError: The picture cannot be written.
        """
        with writing(at_home(path)) as path:
            write_png(path, self.overlay(opacity), about=self.source)


@dataclass(frozen=True, eq=False)
class PixelPrediction(PicturePrediction):
    """The class of each pixel of an image, of a frame of a video, or of an array.

    Attributes:
        output: The prediction: `output.classes` uint8 (H, W), and `output.shares` of the image by class name.
        pixels: The image, uint8 (H, W, 3).
    """

    def overlay(self, opacity: float = OPACITY) -> npt.NDArray[np.uint8]:
        """Return the image under the colours of its classes, uint8 (H, W, 3).

        Args:
            opacity: Share of the colours, from 0 to 1.

        Raises:
            DecodeError: The file could not be read.
        """
        output = cast("PixelOutput", self._output())
        assert self.pixels is not None
        return painted(self.pixels, output.classes, output.colours, opacity=opacity)

    def save_mask(self, path: str | os.PathLike[str]) -> None:
        """Write the class numbers as a PNG with a palette, which `mvrec.data.MaskFolder` reads.

        Raises:
            DecodeError: The file could not be read.
            UserError: The mask cannot be written.
        """
        output = cast("PixelOutput", self._output())
        with writing(at_home(path)) as path:
            write_indexed_png(path, output.classes, output.colours)


@dataclass(frozen=True, eq=False)
class Features(Result):
    """Features of a file, a part of it, or an array; `numpy.asarray` takes them as they are.

    Attributes:
        values: float32 (D,), or with views and maps more axes; `None` for an unreadable file.
    """

    values: npt.NDArray[np.float32] | None = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        self.check()
        return np.array(self.values, dtype, copy=True) if copy else np.asarray(self.values, dtype)
