"""The objects of images in packed arrays.

A million objects take a few allocations, which loader workers share; see `mvrec.data.listing.index`.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.objects.shapes import Floats, ShapePacking, Shapes, encoded_polygons
from mvrec.errors import UserError

NO_CLASS = -1
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class ImageObjects:
    """The objects of an image as their file has them.

    Attributes:
        path: The image, relative to the root of its table or absolute.
        height: Of the image in pixels; 0 if the file does not say it.
        width: The same.
        image_id: The id of the image in the file.
        boxes: float64 (N, 4), x, y, width and height.
        labels: int32 (N,).
        crowd: bool (N,), whether a box holds many objects, or is ignored in scores for another reason.
        areas: float64 (N,), in square pixels.
        ids: int64 (N,), the ids of the objects in the file.
        shapes: The shape of each object.
        source: The file, for messages.
    """

    path: str
    height: int
    width: int
    image_id: int
    boxes: Floats
    labels: npt.NDArray[np.int32]
    crowd: Bools
    areas: Floats
    ids: Ints
    shapes: Shapes
    source: str = ""

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def has_shapes(self) -> bool:
        """Whether every object has a shape."""
        return bool(self.shapes.present.all())

    def polygons(self, number: int) -> list[Floats]:
        """Return the polygons of an object in pixels, float64 (n, 2) each; none for an object with run lengths."""
        return self.shapes.polygons(number)

    def rle(self, number: int, height: int, width: int) -> dict[str, Any] | None:
        """Return the mask of an object as COCO's compressed run lengths, polygons as pycocotools fills them.

        Args:
            number: The object.
            height: Of the image in pixels.
            width: The same.

        Returns:
            `{"size": [height, width], "counts": bytes}`; `None` for an object without a shape.
        """
        if runs := self.shapes.compressed(number):
            return {"size": [height, width], "counts": runs}
        polygons = self.polygons(number)
        return encoded_polygons(polygons, height, width) if polygons else None


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """Images in the order of their file, and their objects.

    Attributes:
        names: uint8, the paths of the images one after the other.
        name_ends: int64 (I,), the end of each path.
        heights: int32 (I,), in pixels; 0 if the file does not say it.
        widths: int32 (I,).
        image_ids: int64 (I,).
        starts: int64 (I + 1,), the first object of each image.
        boxes: float64 (N, 4), x, y, width and height as the file says.
        labels: int32 (N,), numbers of classes.
        crowd: bool (N,).
        areas: float64 (N,).
        ids: int64 (N,).
        shapes: The shape of each object.
        class_names: In label order.
        class_ids: The number of each class in the file, such as COCO's category id.
        source: The file, for messages.
    """

    names: npt.NDArray[np.uint8]
    name_ends: Ints
    heights: npt.NDArray[np.int32]
    widths: npt.NDArray[np.int32]
    image_ids: Ints
    starts: Ints
    boxes: Floats
    labels: npt.NDArray[np.int32]
    crowd: Bools
    areas: Floats
    ids: Ints
    shapes: Shapes
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    source: str

    def __post_init__(self) -> None:
        for values in self._arrays():
            values.setflags(write=False)

    def __len__(self) -> int:
        return len(self.name_ends)

    @property
    def num_objects(self) -> int:
        """The number of all objects."""
        return len(self.boxes)

    @property
    def nbytes(self) -> int:
        """Size of the packed arrays in bytes."""
        return sum(values.nbytes for values in (*self._arrays(), *self.shapes.arrays()))

    @property
    def has_shapes(self) -> bool:
        """Whether there are objects, and all of them have a shape."""
        return self.num_objects > 0 and bool(self.shapes.present.all())

    @property
    def object_images(self) -> Ints:
        """The image of each object: int64 (N,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @property
    def learned_counts(self) -> Ints:
        """The number of objects of each image that are no crowd: int64 (I,)."""
        return np.bincount(self.object_images[~self.crowd], minlength=len(self)).astype(np.int64)

    def path(self, number: int) -> str:
        """Return the path of an image."""
        begin = self.name_ends[number - 1] if number else 0
        return self.names[begin : self.name_ends[number]].tobytes().decode("utf-8", "surrogateescape")

    def paths(self) -> list[str]:
        """Return the paths of all images."""
        return [self.path(number) for number in range(len(self))]

    def objects(self, number: int) -> ImageObjects:
        """Return the objects of an image."""
        first, last = int(self.starts[number]), int(self.starts[number + 1])
        return ImageObjects(
            self.path(number),
            int(self.heights[number]),
            int(self.widths[number]),
            int(self.image_ids[number]),
            self.boxes[first:last],
            self.labels[first:last],
            self.crowd[first:last],
            self.areas[first:last],
            self.ids[first:last],
            self.shapes.part(first, last),
            self.source,
        )

    def where(self, number: int) -> str:
        """Return the place of an object, for messages: its file, its id, and its image."""
        image = int(np.searchsorted(self.starts, number, side="right")) - 1
        return f"{self.source}: object {self.ids[number]} of {self.path(image)} (image {self.image_ids[image]})"

    def class_counts(self) -> Ints:
        """Return the number of objects of each class, crowds included: int64 (K,)."""
        return np.bincount(self.labels, minlength=len(self.class_names)).astype(np.int64)

    def with_classes(self, names: Sequence[str], ids: Sequence[int] | None = None) -> "ObjectTable":
        """Return the table with labels of other classes, matched by name.

        Args:
            names: In label order. Names that are not in the table have no objects.
            ids: The number of each class; by default those of the table, or the following ones.

        Raises:
            UserError: An object is of a class that is not among the names.
        """
        if tuple(names) == self.class_names and ids is None:
            return self
        number_of = {name: number for number, name in enumerate(names)}
        numbers = np.array([number_of.get(name, NO_CLASS) for name in self.class_names], np.int32)
        labels = numbers[self.labels] if self.num_objects else self.labels
        if len(strange := np.flatnonzero(labels == NO_CLASS)):
            name, first_names = self.class_names[self.labels[strange[0]]], ", ".join(list(names)[:10])
            raise UserError(
                f"{self.where(int(strange[0]))}: {name!r} is none of the {len(names)} classes: {first_names}"
            )
        if ids is None:
            present_ids = dict(zip(self.class_names, self.class_ids, strict=True))
            free = iter(range(max(self.class_ids, default=0) + 1, max(self.class_ids, default=0) + 1 + len(names)))
            ids = [present_ids[name] if name in present_ids else next(free) for name in names]
        return replace(self, labels=labels, class_names=tuple(names), class_ids=tuple(ids))

    def only_objects(self, mask: Bools) -> "ObjectTable":
        """Return the table with some of its objects, bool (N,); all images stay."""
        if mask.all():
            return self
        counts = np.bincount(self.object_images[mask], minlength=len(self))
        return replace(
            self,
            starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
            shapes=self.shapes.taken(np.flatnonzero(mask)),
            **{name: getattr(self, name)[mask] for name in _OF_OBJECTS},
        )

    def only_images(self, mask: Bools) -> "ObjectTable":
        """Return the table with some of its images, bool (I,), and their objects."""
        if mask.all():
            return self
        objects = self.only_objects(mask[self.object_images])
        lengths = np.diff(self.name_ends, prepend=0)
        return replace(
            objects,
            names=self.names[np.repeat(mask, lengths)],
            name_ends=np.cumsum(lengths[mask]),
            starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(objects.starts)[mask])]),
            **{name: getattr(self, name)[mask] for name in _OF_IMAGES},
        )

    def renamed(self, paths: Sequence[str]) -> "ObjectTable":
        """Return the table with other paths of its images, one for each."""
        names, ends = _packed(paths)
        return replace(self, names=names, name_ends=ends)

    def digest(self) -> str:
        """Return the SHA-256 of images, objects and classes."""
        digest = hashlib.sha256("\n".join(self.class_names).encode("utf-8", "surrogateescape"))
        for values in (*self._arrays(), *self.shapes.arrays()):
            digest.update(f"{values.dtype}{values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def _arrays(self) -> tuple[npt.NDArray[np.generic], ...]:
        names = ("names", "name_ends", "starts", *_OF_IMAGES, *_OF_OBJECTS)
        return tuple(getattr(self, name) for name in names)


_OF_IMAGES = ("heights", "widths", "image_ids")
_OF_OBJECTS = ("boxes", "labels", "crowd", "areas", "ids")


def _packed(paths: Sequence[str]) -> tuple[npt.NDArray[np.uint8], Ints]:
    parts = [path.encode("utf-8", "surrogateescape") for path in paths]
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    return np.frombuffer(b"".join(parts), np.uint8), np.cumsum(lengths)


class ObjectPacking:
    """Arrays that grow image by image and object by object, and keep no Python object for any.

    Args:
        source: The file, for messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._names, self._ends = bytearray(), array("q")
        self._sizes, self._image_ids = array("i"), array("q")  # height and width in turn
        self._boxes, self._areas = array("d"), array("d")
        self._images, self._labels, self._ids = array("i"), array("i"), array("q")
        self._crowd = bytearray()
        self._shapes = ShapePacking()

    @property
    def num_images(self) -> int:
        """The number of images so far."""
        return len(self._ends)

    @property
    def num_objects(self) -> int:
        """The number of objects so far."""
        return len(self._ids)

    def add_image(self, path: str, height: int = 0, width: int = 0, image_id: int | None = None) -> int:
        """Add an image and return its number; its id is one more than this by default."""
        self._names += path.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._names))
        self._sizes.extend((height, width))
        self._image_ids.append(len(self._ends) if image_id is None else image_id)
        return len(self._ends) - 1

    def set_size(self, image: int, height: int, width: int) -> None:
        """Set the size of an image, which a shape of it tells."""
        self._sizes[2 * image], self._sizes[2 * image + 1] = height, width

    def size_of(self, image: int) -> tuple[int, int]:
        """Return height and width of an image; 0 if they are unknown."""
        return self._sizes[2 * image], self._sizes[2 * image + 1]

    def add_object(
        self,
        image: int,
        label: int,
        box: Box,
        *,
        area: float | None = None,
        crowd: bool = False,
        object_id: int | None = None,
        polygons: Sequence[Sequence[float]] = (),
        runs: bytes = b"",
    ) -> None:
        """Add an object of any of the images.

        Args:
            image: The number of its image.
            label: The number of its class.
            box: x, y, width and height.
            area: In square pixels; that of the box by default.
            crowd: Whether it counts neither in training nor in a score.
            object_id: Its id; by default its number, from 1 on.
            polygons: Its shape, x and y in turn.
            runs: Its shape as compressed run lengths.
        """
        self._images.append(image)
        self._labels.append(label)
        self._boxes.extend(box)
        self._areas.append(box[2] * box[3] if area is None else area)
        self._crowd.append(crowd)
        self._ids.append(len(self._images) if object_id is None else object_id)
        self._shapes.add(polygons, runs)

    def table(self, class_names: Sequence[str], class_ids: Sequence[int] | None = None) -> ObjectTable:
        """Return the table; objects of an image keep their order.

        Args:
            class_names: In label order.
            class_ids: The number of each class; from 1 on by default.
        """
        images = np.frombuffer(self._images, np.int32)
        order = np.argsort(images, kind="stable")
        counts = np.bincount(images, minlength=self.num_images)
        sizes = np.frombuffer(self._sizes, np.int32).reshape(-1, 2)
        return ObjectTable(
            names=np.frombuffer(bytes(self._names), np.uint8),
            name_ends=np.frombuffer(self._ends, np.int64),
            heights=np.ascontiguousarray(sizes[:, 0]),
            widths=np.ascontiguousarray(sizes[:, 1]),
            image_ids=np.frombuffer(self._image_ids, np.int64),
            starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
            boxes=np.frombuffer(self._boxes, np.float64).reshape(-1, 4)[order],
            labels=np.frombuffer(self._labels, np.int32)[order],
            crowd=np.frombuffer(bytes(self._crowd), np.bool_)[order],
            areas=np.frombuffer(self._areas, np.float64)[order],
            ids=np.frombuffer(self._ids, np.int64)[order],
            shapes=self._shapes.shapes().taken(order),
            class_names=tuple(class_names),
            class_ids=tuple(class_ids) if class_ids is not None else tuple(range(1, len(class_names) + 1)),
            source=self.source,
        )
