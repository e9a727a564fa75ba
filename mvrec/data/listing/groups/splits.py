"""Splits and folds of files that keep groups together."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mvrec.data.listing.groups.rules import Grouping, groups
from mvrec.data.listing.lists import Row


def path_share(path: str) -> float:
    """Return a number in 0..1 derived from a path, evenly distributed."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def hash_order(names: Iterable[str]) -> list[str]:
    """Return names in the order of their hashes."""
    return sorted(names, key=lambda name: (path_share(name), name))


def grouping_of(rows: Sequence[Row], rule: str) -> Grouping:
    """Return the groups of rows, one per file; see `groups`."""
    columns = [dict(row.others) for row in rows]
    return groups([row.path for row in rows], rule, columns=columns, labels=[row.label for row in rows])


def groups_of_files(rows: Iterable[Row], root: Path, rule: str) -> tuple[dict[str, str], str]:
    """Return the group of each file by its path below `root`, and the line about a guess; rows may repeat files."""
    unique = list({row.path: row for row in rows}.values())
    grouping = grouping_of(unique, rule)
    return {str(root / row.path): group for row, group in zip(unique, grouping.of, strict=True)}, grouping.note


def validated(files: Sequence[tuple[str, str]], group_of: Sequence[str], *, fraction: float) -> set[str]:
    """Return the paths that validate: about a share of each class, whole groups with the lowest hashes.

    Without groups of several files these are those of each class with the lowest hashes, at least one and never all.
    A group is taken if most of its files are within the quotas of their classes and every class keeps one for training.

    Args:
        files: Path and class of each file.
        group_of: The group of each file.
        fraction: The share of each class; with 0 nothing validates.
    """
    if not fraction:
        return set()
    totals = Counter(label for _, label in files)
    quotas = {label: min(max(round(fraction * total), 1), total - 1) for label, total in totals.items()}
    parts: dict[str, Counter[str]] = {}
    for (_, label), group in zip(files, group_of, strict=True):
        parts.setdefault(group, Counter())[label] += 1
    counts: Counter[str] = Counter()
    val_groups: set[str] = set()

    def leaves_some(group: str) -> bool:
        return all(counts[label] + count < totals[label] for label, count in parts[group].items())

    def take(group: str) -> None:
        val_groups.add(group)
        counts.update(parts[group])

    for group in hash_order(parts):
        part = parts[group]
        useful = sum(min(count, max(quotas[label] - counts[label], 0)) for label, count in part.items())
        if 2 * useful > part.total() and leaves_some(group):
            take(group)
    for label in sorted(totals):
        candidates = [group for group in hash_order(parts) if group not in val_groups and parts[group][label]]
        candidates = [group for group in candidates if leaves_some(group)]
        if not counts[label] and quotas[label] and candidates:
            take(min(candidates, key=lambda group: parts[group].total()))
    return {path for (path, _), group in zip(files, group_of, strict=True) if group in val_groups}


def folded(strata: Mapping[str, Sequence[str]], group_of: Mapping[str, str], fold: tuple[int, int]) -> set[str]:
    """Return the paths that validate in a fold; over all folds each does once.

    Args:
        strata: Paths by class.
        group_of: The group of each path.
        fold: Its number from 1 on, and the number of folds.
    """
    number, folds = fold
    place_of: dict[str, int] = {}
    place = 0
    for stratum in sorted(strata):
        # The next class goes on where this one ended, so that folds differ by one group at most.
        for group in hash_order({group_of[path] for path in strata[stratum]} - place_of.keys()):
            place_of[group] = place % folds + 1
            place += 1
    return {path for paths in strata.values() for path in paths if place_of[group_of[path]] == number}
