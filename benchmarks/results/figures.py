"""Figures of benchmarks as files: benchmarks/results/MACHINE/NAME.json, from which page.py makes docs/performance.md.

A benchmark offers `--json [PATH]` by `add_option`, opens `Figures.of(options, "mvit", packages=(...))` and adds rows as
it measures them. Each row is written at once, so that a run that ends early loses nothing. Without PATH the file is
MACHINE/NAME.json here and replaces the earlier one, so run the whole benchmark for it; for parts of it give a PATH.

    from results.figures import Figures, Row, add_option
    add_option(parser)
    figures = Figures.of(options, "mvit", packages=("torch", "torchvision"))
    figures.add(Row("mvit_b_16x4", "training step, bf16", peer="torchvision", mvrec=1.2, other=2.0, unit="CPU s",
                    ratio=1.64, low=1.60, high=1.67, goal=1.6))

A file is an object:

- `machine`: the slug (`zen5-avx512`, `xeon-amx`, `h200`), `processor`: the machine in words, `cores`: their number;
- `versions`: of Python and the packages, `date`: UTC, `command`: the command line, `load`: the load averages of one
  minute at the start and at the last row;
- `rows`: a list of objects with the attributes of `Row`; those that are not set are left out;
- `left_out`: of a run that lacks rows, a line for each with the reason;
- `source`: only of figures that were not measured by the script as it is: where they come from.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
HERE = Path("MACHINE/NAME.json")  # stands for the file of this machine


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        subject: The measured network, file or command, by its name in the code.
        measure: What was measured of it, such as "training step, bf16".
        peer: What it is compared with, or "".
        mvrec: mvrec's figure, in `unit`.
        other: The peer's figure, in `unit`.
        unit: "CPU s", "CPU ms", "MiB", "clips/s" and the like.
        ratio: How many times as good as the peer mvrec is; a list of the figures of several runs where there were some.
        low: The lowest ratio of the turns; without a peer, mvrec's lowest figure.
        high: The highest one.
        goal: What `ratio` should reach; without a ratio, what mvrec's figure should stay below.
        note: A remark of a few words for the page.
        more: Further columns of this benchmark's table, by name.
    """

    subject: str
    measure: str = ""
    peer: str = ""
    mvrec: float | None = None
    other: float | None = None
    unit: str = ""
    ratio: float | list[float] | None = None
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    note: str = ""
    more: dict[str, float | str | None] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """Return the attributes that are set, figures with five digits."""
        return {name: _short(value) for name, value in asdict(self).items() if value not in (None, "", {})}


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


@dataclass
class Figures:
    """The figures of one benchmark on one machine.

    Attributes:
        name: The benchmark, and stem of the file.
        about: The file without its rows.
        rows: The rows.
        path: Where to write them, if anywhere.
    """

    name: str
    about: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    path: Path | None = None

    @classmethod
    def of(cls, options: argparse.Namespace, name: str, *, packages: tuple[str, ...], gpu: str = "") -> "Figures":
        """Start the figures of a run with the options of `add_option`.

        Args:
            options: The parsed options, of which `json` is read.
            name: The benchmark.
            packages: Distributions whose versions belong to the figures.
            gpu: Name of the GPU that was measured, if it was one, such as "NVIDIA H200".
        """
        machine = gpu_slug(gpu) if gpu else cpu_slug()
        path = options.json
        versions = {"Python": platform.python_version()} | {
            name: metadata.version(name) for name in installed(packages)
        }
        about = {
            "machine": machine,
            "processor": f"{gpu}, {processor()}" if gpu else processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "versions": versions,
            "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            "command": command_line(),
            "load": [load()],
        }
        return cls(name, about, path=FOLDER / machine / f"{name}.json" if path == HERE else path)

    @classmethod
    def read(cls, path: Path) -> "Figures":
        """Read a file."""
        content = json.loads(path.read_text())
        rows = [Row(**row) for row in content.pop("rows")]
        return cls(path.stem, content, rows, path)

    def add(self, *rows: Row) -> None:
        """Add rows and write the file, if there is one."""
        self.rows += rows
        self._write()

    def leave_out(self, lines: list[str]) -> None:
        """Record which rows are missing, and why."""
        self.about["left_out"] = lines
        self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        about = self.about | {"load": [*self.about["load"][:1], load()]}
        content = json.dumps({**about, "rows": [row.as_record() for row in self.rows]}, indent=1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text(f"{content}\n")
        draft.replace(self.path)

    @property
    def title(self) -> str:
        """The machine and versions in one line."""
        versions = ", ".join(f"{name} {number}" for name, number in self.about["versions"].items())
        return f"{self.about['processor']}, {versions}"


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json [PATH]`."""
    parser.add_argument(
        "--json", type=Path, nargs="?", const=HERE, metavar="PATH",
        help="write the figures to PATH, too; without PATH to benchmarks/results, for docs/performance.md",
    )  # fmt: skip


def installed(packages: tuple[str, ...]) -> list[str]:
    return [name for name in packages if list(metadata.distributions(name=name))]


def command_line() -> str:
    """Return the command of this process, as seen from the repository and without `--json` and its path."""
    words, hide = [], False
    for word in sys.argv[1:]:
        hide = word == "--json" or (hide and not word.startswith("-"))
        if not hide:
            words.append(word)
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def load() -> float:
    return round(os.getloadavg()[0], 2)


# -- machines --------------------------------------------------------------------------------------------------------


def cpu_slug(cpuinfo: str | None = None) -> str:
    """Return the kind of the processor, such as "zen5-avx512": microarchitecture or maker, and widest units."""
    about = _cpuinfo(cpuinfo)
    flags = set(about.get("flags", "").split())
    units = "amx" if "amx_tile" in flags else "avx512" if "avx512f" in flags else "avx2" if "avx2" in flags else ""
    if about.get("vendor_id") == "AuthenticAMD":
        maker = _zen(int(about["cpu family"]), int(about["model"]))
    elif about.get("vendor_id") == "GenuineIntel":
        maker = "xeon" if "Xeon" in about.get("model name", "") else "intel"
    else:
        maker = platform.machine() or "unknown"
    # torch may be told to do without the widest units; oneDNN and MKL by variables of their own.
    limit = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
    return "-".join(filter(None, (maker, units, f"as-{limit}" if limit else "")))


def _zen(family: int, model: int) -> str:
    """Return the generation, by the families and models of AMD's processor programming references."""
    if family == 25:
        return "zen4" if 0x10 <= model <= 0x1F or 0x60 <= model <= 0x7F or 0xA0 <= model <= 0xAF else "zen3"
    return {23: "zen2", 26: "zen5"}.get(family, "amd")


def gpu_slug(name: str) -> str:
    """Return "h200" of "NVIDIA H200"."""
    return "-".join(name.lower().removeprefix("nvidia ").split())


def processor() -> str:
    """Return the processor in words, with its widest units."""
    about = _cpuinfo(None)
    flags = set(about.get("flags", "").split())
    units = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_tile": "AMX"}
    words = [about.get("model name", platform.machine()), *(text for flag, text in units.items() if flag in flags)]
    return ", ".join(words)


def _cpuinfo(text: str | None) -> dict[str, str]:
    """Return the first processor's entries of /proc/cpuinfo, or none where there is no such file."""
    if text is None:
        path = Path("/proc/cpuinfo")
        text = path.read_text() if path.is_file() else ""
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
