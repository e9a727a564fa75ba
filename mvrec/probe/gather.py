"""Features of files, each computed once and kept in a folder."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mvrec.errors import DecodeError
from mvrec.inference.features import Selection, extract, is_complete, settings_of, target_files

if TYPE_CHECKING:
    from mvrec.data.listing.index import Sample
    from mvrec.inference.recogniser import Recogniser

VECTOR = Selection()
TOKENS = Selection(stage=-1, pool="none")

log = logging.getLogger("mvrec")


@dataclass(frozen=True)
class Gathered:
    """The places of the features of files.

    Attributes:
        stems: Path of each file's features without suffix; `None` of those that cannot be read.
        reused: Files whose features were there before.
    """

    stems: list[Path | None]
    reused: int

    @property
    def read(self) -> npt.NDArray[np.bool_]:
        """Whether each file could be read, (N,)."""
        return np.array([stem is not None for stem in self.stems], bool)

    def vectors(self) -> npt.NDArray[np.float64]:
        """Return the mean vector over the views of each file that could be read, (N', D)."""
        return np.stack([load(stem).mean(0, dtype=np.float64) for stem in self.stems if stem is not None])


def load(stem: Path) -> npt.NDArray[np.float32]:
    """Return the features of a file, views first."""
    features: npt.NDArray[np.float32] = np.load(target_files(stem, "npy")[0])
    return features


def gather(
    recogniser: "Recogniser",
    samples: "Sequence[Sample]",
    folder: Path,
    *,
    selection: Selection = VECTOR,
    weights: str,
    batch_size: int,
) -> Gathered:
    """Compute the features of files that the folder does not have yet.

    Args:
        recogniser: The network.
        samples: The files.
        folder: Where features are kept; a file's are replaced once it or the network changes.
        selection: Which features.
        weights: The hash of the network's weights; see `weights_hash`.
        batch_size: Views at a time.

    Raises:
        UserError: The network lacks these features, or they cannot be written.
    """
    selection.check(recogniser)
    settings = settings_of(recogniser, selection, "npy", sha256=weights)
    settings["protocol"].pop("split", None)  # the views are what counts
    stems: list[Path | None] = []
    reused = 0
    for sample in tqdm(samples, disable=None, unit="file", desc=folder.name):
        stem = folder / _name(sample)
        try:
            if is_complete(stem, sample, settings, "npy"):
                reused += 1
            else:
                extract(
                    recogniser,
                    sample,
                    stem,
                    selection=selection,
                    form="npy",
                    settings=settings,
                    views_per_forward=batch_size,
                )
            stems.append(stem)
        except DecodeError as error:
            log.warning("left out: %s", error)
            stems.append(None)
    return Gathered(stems, reused)


def weights_hash(network: Any) -> str:
    """Return a hash of all tensors of a network, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _name(sample: "Sample") -> str:
    """Return a name for the features of a file or of a span of it."""
    text = f"{sample.path}\n{sample.start_seconds}\n{sample.end_seconds}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
