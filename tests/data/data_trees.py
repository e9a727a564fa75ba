"""Small data sets on disk, and what an index or a data module says of them."""

import io
import tarfile

from mvrec.data.listing.layouts import find_split


def make(root, files):
    """Write files from their contents, text or bytes, or empty ones from their names; returns the root."""
    for name, content in (files if isinstance(files, dict) else dict.fromkeys(files, "")).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def listed(root, text, **options):
    """The index of a list `train.csv` of this text."""
    return find_split(make(root, {"train.csv": text}), "train", **options)


def labelled(index):
    """Path below the root, and label, of each sample."""
    return [(str(sample.path).removeprefix(f"{index.root}/"), sample.label) for sample in index]


def contents(data, split, stage="fit"):
    """Path below the root, and class name, or list of names, of each file of a split of a data module."""
    data.setup(stage)

    def names(label):
        return data.class_names[label] if isinstance(label, int) else [data.class_names[number] for number in label]

    return [(str(sample.path).removeprefix(f"{data.root}/"), names(sample.label)) for sample in data.index(split)]


def tar_of(files, mode="w", format=tarfile.PAX_FORMAT):
    """The bytes of a tar of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=format) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
