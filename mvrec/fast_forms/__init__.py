"""The faster form of each operation on this machine: the verdict about times, and the user's cache of verdicts.

Importing this module costs nothing.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from mvrec.files import json_text, user_cache, write_atomically

FAST, PLAIN, UNCLEAR = "fast", "plain", "unclear"  # of an unclear operation the plain form runs
EQUAL = 1.05  # up to this ratio of times both forms are equally fast, and the plain one runs
# Settings that change which instructions the libraries use.
_SETTINGS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")


def verdict(ratios: Sequence[float]) -> str:
    """Return the faster form by the times of the plain one over those of the fast one; of five one may disagree."""
    ratios, outliers = sorted(ratios), len(ratios) // 5
    if ratios[outliers] > EQUAL:
        return FAST
    return PLAIN if ratios[-1 - outliers] <= EQUAL else UNCLEAR


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "model\t"))]
    return " ".join(dict.fromkeys(named)) or platform.processor() or platform.machine()


def conditions(
    *, torch: str, instructions: str, dtype: str, threads: int, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return all that a verdict holds for, the key of the cache."""
    settings = {name: environ[name] for name in _SETTINGS if name in environ}
    where = {"processor": processor(), "instructions": instructions, "torch": torch}
    return where | settings | {"dtype": dtype, "threads": str(threads)}


def folder() -> Path:
    """Return the cache of verdicts."""
    return user_cache() / "fast_forms"


def path_of(where: Mapping[str, str]) -> Path:
    """Return the file of verdicts under such conditions."""
    digest = hashlib.sha256(json.dumps(dict(where), sort_keys=True).encode()).hexdigest()
    return folder() / f"{digest[:16]}.json"


def read_forms(where: Mapping[str, str], operations: Sequence[str]) -> dict[str, str] | None:
    """Return the form of each operation, `None` if the cache lacks one or has other conditions."""
    try:
        content = json.loads(path_of(where).read_text(encoding="utf-8"))
        forms = {name: str(content["forms"][name]) for name in operations}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    valid = set(forms.values()) <= {FAST, PLAIN, UNCLEAR} and content.get("conditions") == dict(where)
    return forms if valid else None


def keep_forms(where: Mapping[str, str], forms: Mapping[str, str]) -> dict[str, str]:
    """Keep forms, unless another process did so in the meantime; return those that hold from now on."""
    earlier = read_forms(where, list(forms))
    if earlier is not None:
        return earlier
    path = path_of(where)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json_text({"conditions": dict(where), "forms": dict(forms)}, indent=2) + "\n")
    except OSError:  # a cache that cannot be written costs the next process a measurement
        pass
    return dict(forms)


def kept_here() -> list[tuple[Path, dict[str, str], dict[str, str]]]:
    """Return file, conditions and forms of each entry of the cache that is about this processor."""
    entries = []
    for path in sorted(folder().glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            where, forms = dict(content["conditions"]), dict(content["forms"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if where.get("processor") == processor():
            entries.append((path, where, forms))
    return entries
