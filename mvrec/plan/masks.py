"""The contents of a folder of images with masks."""

from pathlib import Path

from mvrec.data.listing.file_kinds import IMAGES
from mvrec.data.listing.folds import Fold, Folds
from mvrec.data.listing.layouts import SPLITS, Layout
from mvrec.data.listing.mask_layouts import MaskFolders, Naming, find_mask_layout
from mvrec.data.views.targets import NoTarget
from mvrec.errors import UserError
from mvrec.plan.findings import SAMPLE, Findings, copies, described, spread
from mvrec.plan.media import probed


def look_at_masks(
    root: Path, *, val_fraction: float | None = None, fold: str | None = None, naming: Naming | None = None
) -> Findings:
    """Look at a folder of images with masks: list them all, and open some images.

    Args:
        root: The folder.
        val_fraction: Share of the images that validate in a folder without splits; by default it follows from their
            number.
        fold: `data.fold`, which splits the images in place of `val_fraction`.
        naming: How files are paired; by default by the same names.

    Raises:
        UserError: Images and masks are not of each other, or there is nothing to train on.
    """
    naming = naming or Naming()
    folders = find_mask_layout(root, naming, val_fraction=val_fraction)
    rows = {split: list(folders.rows(split)) for split in SPLITS if folders.has(split)}
    layout: Layout = folders
    if fold is not None:
        whole = find_mask_layout(root, naming, val_fraction=0.0)
        layout = Folds(whole, Fold.parse(fold), target_of=lambda row: NoTarget())
        rows = {split: list(layout.rows(split)) for split in SPLITS if layout.has(split)}
    if not rows.get("train"):
        raise UserError(f"data.root: {str(root)!r} has no training images: expected {folders.expected()}")
    every = [row for split_rows in rows.values() for row in split_rows]
    media = probed([root / row.path for row in spread(every, SAMPLE)], is_video=False)
    remarks = [*copies(root, rows, IMAGES, has_classes=False)]
    if media.unreadable:
        count = f"{len(media.unreadable)} of {len(media.unreadable) + media.num_read}"
        remarks.append(f"{count} images looked at cannot be read: {media.unreadable[0]}")
    return Findings(
        root,
        IMAGES,
        "images and masks" if folders.splits_files and fold is None else described(layout, root),
        not folders.splits_files or fold is not None,
        folders.val_fraction if isinstance(folders, MaskFolders) and folders.splits_files and fold is None else 0.0,
        {split: {"": len(split_rows)} for split, split_rows in rows.items()},
        {split: len(split_rows) for split, split_rows in rows.items()},
        multi_label=False,
        has_classes=False,
        media=media,
        remarks=tuple(remarks),
        has_masks=True,
    )
