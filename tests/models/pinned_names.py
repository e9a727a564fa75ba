"""Names and shapes in the state dicts of all variants, as files: weights on people's disks are bound to them.

As a script it writes the files anew: python tests/models/pinned_names.py
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from zoo_builds import released

from mvrec.models import list_models

FOLDER = Path(__file__).parent / "state_dict_names"
NUMBERED = re.compile(r"(.*?block\w*\.)(\d+)(\..*)")


def listed(name: str) -> list[str]:
    """The variant's tensors, one line each, but blocks that are alike on one: `blocks.0,2-3.norm1.weight 96`."""
    state: Mapping[str, Tensor] = released(name).state_dict()
    groups: dict[tuple[str, str, str], list[int]] = {}
    for key, tensor in state.items():
        match = NUMBERED.fullmatch(key)
        before, index, after = match.groups() if match else (key, None, "")
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        group = groups.setdefault((before, after, shape), [])
        if index is not None:
            group.append(int(index))
    return [f"{before}{_ranges(blocks)}{after} {shape}" for (before, after, shape), blocks in groups.items()]


def _ranges(numbers: list[int]) -> str:
    """`[0, 2, 3, 4]` as `0,2-4`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def main() -> None:
    """Write the names as they are now."""
    FOLDER.mkdir(exist_ok=True)
    for name in list_models():
        (FOLDER / f"{name}.txt").write_text("\n".join(listed(name)) + "\n")


if __name__ == "__main__":
    main()
