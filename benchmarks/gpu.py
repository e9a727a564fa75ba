"""Our networks on one GPU next to torchvision's, timm's or their plain form: speed, memory, use of the chip, waits.

python benchmarks/gpu.py [--budget SECONDS] [--only TEXT] [--keep FILE] [--dry] [--json [PATH]]

It needs this working tree, torch, torchvision and timm, no data and no network; the row "run" also needs Lightning with
jsonargparse and docstring_parser, that of decoding PyAV and torchcodec. The most important rows come first, and each is
written at once; what fails or does not fit into the budget is listed at the end. `--keep FILE` takes over the rows of
an earlier run and measures the others. `--dry` runs the same code with small inputs on a CPU.

Both networks have the same weights (the largest difference of their logits is shown), get the same random inputs, and
take turns: five turns each of at least 0.4 s, after a warm-up; figures are medians. A training step is forward pass,
cross-entropy, backward pass and AdamW in its fused form, without stochastic depth and dropout. bf16 is autocast;
fp32 multiplies in TF32. Compiled is `torch.compile`, whose time is not counted. Columns:

- MFU: multiply-adds as papers count them (three times the forward pass for training) over the peak of dense products
  of the chip by its data sheet (`networks/device.py`); blank for an unknown chip.
- GiB: the rise of memory by a step above weights and optimiser state.
- kernels, busy: kernels of one step, and the share of the step in which one ran; waits: how often the host waited.

The row "run" trains with mvrec's own task, guard and augmentation on the device, and counts the waits of its steps.
"""

import argparse
import gc
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # where mvrec is not installed

import torch  # noqa: E402
from networks import device as measuring  # noqa: E402
from page import by_row  # noqa: E402
from results.figures import Figures, Row, add_option  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from mvrec import models  # noqa: E402
from mvrec.models import count_macs, load_weights  # noqa: E402

RATIO_GOAL, MFU_GOAL = 1.5, 0.25
CLIPS = {"mvit_b_16x4": "mvit_v1_b", "mvit_v2_s_16x4": "mvit_v2_s"}  # with torchvision's names
TIMM = {"mvit_v2_s": "mvitv2_small", "mvit_v2_b": "mvitv2_base"}
SMALL = {"clips": {"num_frames": 4, "image_size": 64}, "images": {"image_size": 64}}  # of a dry run


@dataclass(frozen=True)
class Case:
    """A comparison of two networks.

    Attributes:
        network: Our name of it.
        train: Training steps instead of inference.
        bf16: Autocast to bfloat16 instead of float32 with TF32.
        compiled: Both are compiled.
        batch: Clips or images per step.
        seconds: Expected time on an H200; it is left out if less of the budget is left.
    """

    network: str
    train: bool = True
    bf16: bool = True
    compiled: bool = False
    batch: int = 32
    seconds: int = 15

    @property
    def measure(self) -> str:
        words = ["training step" if self.train else "inference", "bf16" if self.bf16 else "fp32 (TF32)"]
        return ", ".join([*words, "compiled" if self.compiled else "eager", f"batch {self.batch}"])

    @property
    def label(self) -> str:
        return f"{self.network}, {self.measure}"

    @property
    def unit(self) -> str:
        return "clips/s" if self.network in CLIPS else "images/s"


def cases() -> list[Case]:
    """Return all cases, the most important first."""
    clips, images = tuple(CLIPS), ("shunted_s", "sgformer_s", "cloformer_xs", "mvit_v2_s", "mvit_v2_b")
    return [
        Case(clips[0]),
        Case(clips[0], compiled=True, seconds=150),
        Case(clips[1]),
        Case(clips[0], train=False),
        *(Case(name, batch=128) for name in images),
        Case(clips[1], compiled=True, seconds=150),
        *(Case(name, batch=128, compiled=True, seconds=90) for name in ("shunted_s", "cloformer_xs")),
        *(Case(name, bf16=False) for name in clips),
        Case(clips[1], train=False),
        *(Case(name, batch=256, train=False) for name in images),
        *(Case(name, batch=128, bf16=False) for name in images),
        Case(clips[0], train=False, compiled=True, seconds=60),
        *(Case(name, batch=128, compiled=True, seconds=90) for name in ("sgformer_s", "mvit_v2_s")),
    ]


# -- networks --------------------------------------------------------------------------------------------------------


def peer_of(name: str, *, dry: bool) -> tuple[str, Callable[[], nn.Module]]:
    """Return the peer's library, and what builds it; small networks have a plain form only."""
    if name in CLIPS and not dry:
        from torchvision.models import video

        return "torchvision", lambda: getattr(video, CLIPS[name])(dropout=0.0, stochastic_depth_prob=0.0)
    if name in TIMM and not dry:
        import timm

        return "timm", lambda: timm.create_model(TIMM[name], drop_path_rate=0.0)
    return "plain", lambda: ours(name, dry=dry)


def ours(name: str, *, dry: bool) -> Any:
    """Return our network in its plain form, without stochastic depth and dropout."""
    knobs = SMALL["clips" if name in CLIPS else "images"] if dry else {}
    dropout = {"head_dropout": 0.0} if name in CLIPS else {}
    return getattr(models, name)(drop_path_rate=0.0, **dropout, **knobs)


def built(case: Case, device: str, *, dry: bool) -> tuple[dict[str, nn.Module], int, str]:
    """Return both networks with equal weights, the multiply-adds of an input, and how their logits differ."""
    torch.manual_seed(0)
    network = models.accelerate(ours(case.network, dry=dry))
    library, build = peer_of(case.network, dry=dry)
    peer = build()
    load_weights(network, peer.state_dict())
    macs = count_macs(network)
    nets = {"mvrec": network.to(device), library: peer.to(device)}
    torch.set_float32_matmul_precision("highest")
    inputs = torch.randn(2, *network.input_shape, device=device)
    with torch.no_grad():
        out, other = (module.eval()(inputs) for module in nets.values())
    difference = (out - other).abs().max() / other.abs().max()
    torch.set_float32_matmul_precision("high")
    return nets, macs, f"{difference.item():.0e}"


def make_step(network: nn.Module, case: Case, inputs: Tensor, *, dry: bool) -> measuring.Step:
    """Return a step of a network."""
    device = inputs.device.type
    network.train(case.train)
    run: Any = torch.compile(network, backend="eager" if dry else "inductor") if case.compiled else network

    def autocast() -> Any:
        return torch.autocast(device, torch.bfloat16) if case.bf16 else nullcontext()

    def inference() -> None:
        with torch.inference_mode(), autocast():
            run(inputs)

    if not case.train:
        return inference
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    labels = torch.arange(len(inputs), device=device)

    def training() -> None:
        with autocast():
            outputs = run(inputs)
        nn.functional.cross_entropy(outputs.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return training


# -- a case ----------------------------------------------------------------------------------------------------------


def measure(case: Case, device: str, *, dry: bool) -> Row:
    """Measure a case. If a network does not fit into memory, its figures are blank."""
    nets, macs, difference = built(case, device, dry=dry)
    shape: tuple[int, ...] = nets["mvrec"].input_shape  # type: ignore[assignment]
    inputs = torch.randn(case.batch, *shape, device=device)
    steps, notes = {}, [f"logits differ by {difference}"]
    for library, network in nets.items():
        step = make_step(network, case, inputs, dry=dry)
        try:
            for _ in range(1 if dry else 3):  # compiles, chooses kernels, fills the pool of memory
                step()
        except torch.OutOfMemoryError:
            notes.append(f"{library} is out of memory")
        else:
            steps[library] = step
    repeats, seconds = (1, 0.0) if dry else (5, 0.4)
    times = measuring.times_in_turns(steps, device, repeats=repeats, seconds=seconds)
    memory = {library: measuring.peak_gib(step, device) for library, step in steps.items()}
    profiles = {library: measuring.profiled(step, device) for library, step in steps.items()}
    for library, profile in profiles.items():
        for name, share in profile.largest:
            print(f"        {library}: {share:.0%} of the kernels' time in {name[:90]}", flush=True)
    return as_row(case, list(nets)[1], times, memory, profiles, macs=macs, device=device, note="; ".join(notes))


def as_row(
    case: Case,
    peer: str,
    times: dict[str, list[float]],
    memory: dict[str, float | None],
    profiles: dict[str, measuring.Profile],
    *,
    macs: int,
    device: str,
    note: str,
) -> Row:
    """Return the row of a case from the figures of those networks that fit into memory."""
    median = {library: statistics.median(values) for library, values in times.items()}
    peak = measuring.peak_flops(measuring.device_name(device), bf16=case.bf16)
    more: dict[str, float | str | None] = {}
    for library, title in (("mvrec", ""), (peer, "peer's ")):
        seconds, step = median.get(library), profiles.get(library)
        if seconds is None or step is None:
            continue
        operations = 2 * macs * case.batch * (3 if case.train else 1)
        more[f"{title}MFU"] = None if peak is None else f"{operations / seconds / peak:.1%}"
        more[f"{title}GiB"] = memory[library]
        more[f"{title}kernels"] = step.kernels
        more[f"{title}busy"] = f"{step.busy / seconds:.0%}"
        more[f"{title}waits"] = step.waits
    speeds = {library: case.batch / seconds for library, seconds in median.items()}
    ratios = [other / mvrec for mvrec, other in zip(times.get("mvrec", []), times.get(peer, []), strict=False)]
    measured: dict[str, Any] = {}
    if ratios:
        measured = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    goal = RATIO_GOAL if case.compiled and case.train and case.bf16 and case.network in CLIPS else None
    return Row(case.network, case.measure, peer=peer, mvrec=speeds.get("mvrec"), other=speeds.get(peer), unit=case.unit,
               goal=goal, note=note, more=more, **measured)  # fmt: skip


# -- a run, and decoding ---------------------------------------------------------------------------------------------


def run_row(device: str, *, dry: bool) -> Row:
    """Count the waits of mvrec's own training steps, with guard, mixing, RandAugment and erasing on the device."""
    from networks.training_run import waits_per_step

    with tempfile.TemporaryDirectory() as folder:
        waits, places = waits_per_step(ours("mvit_b_16x4", dry=dry), device, Path(folder), batch=2 if dry else 16)
    note = "; ".join(places) if device == "cuda" else "tried on a CPU, where nothing waits"
    return Row("run", "training step, bf16, all on the device", mvrec=waits, unit="waits", note=note)


def decode_row(device: str, *, dry: bool) -> Row:
    """Measure clips per second of torchcodec on the device, next to mvrec's decoder on one core of the CPU."""
    from decode import SPAN, STRIDE, T, torchcodec_exact, write
    from torchcodec.decoders import VideoDecoder

    from mvrec.data.video.opening import open_video

    starts = range(0, 200, 100 if dry else 10)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "clip.mp4", size=(256, 340), gop=12, b_frames=3, seconds=10)
        clips = [list(range(start, start + SPAN, STRIDE)) for start in starts]

        def by_mvrec() -> None:
            for indices in clips:
                with open_video(path) as video:
                    video.frames(indices)

        def by_torchcodec() -> None:
            for indices in clips:
                if device == "cpu":
                    torchcodec_exact(path, indices)
                else:
                    VideoDecoder(str(path), device=device).get_frames_at(indices)

        times = measuring.times_in_turns(
            {"mvrec": by_mvrec, "device": by_torchcodec}, device, repeats=1 if dry else 3, seconds=0
        )
    mvrec, other = (len(clips) / statistics.median(values) for values in times.values())
    return Row("340x256, GOP 12", f"decoding clips of {T} frames", peer=f"torchcodec on {device}", mvrec=mvrec,
               other=other, unit="clips/s", ratio=mvrec / other)  # fmt: skip


# -- the command -----------------------------------------------------------------------------------------------------


class BudgetSpent(BaseException):
    """The time is over, in the middle of a row; no handler of errors should take it for a fault of the row."""


def jobs(device: str, *, dry: bool) -> list[tuple[str, int, Callable[[], Row]]]:
    """Return all rows: label, expected seconds, and what measures it."""
    series = cases()
    if dry:
        few = [case for case in series if case.network in ("mvit_b_16x4", "cloformer_xs")]
        series = [replace(case, batch=2, seconds=1) for case in few if case.train or not case.compiled]
    rows: list[tuple[str, int, Callable[[], Row]]] = [
        (case.label, case.seconds, lambda case=case: measure(case, device, dry=dry)) for case in series
    ]
    rows.insert(3, ("run", 30, lambda: run_row(device, dry=dry)))
    rows.insert(10, ("340x256, GOP 12", 15, lambda: decode_row(device, dry=dry)))
    return rows


def attempt(label: str, work: Callable[[], Row]) -> Row | str:
    """Return a row, or one line that says why there is none; a mistake in one row leaves the others."""
    try:
        return work()
    except BudgetSpent:
        return "the budget was spent"
    except torch.OutOfMemoryError:
        return "out of memory"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()


def line(row: Row) -> str:
    """Return the line of a row, printed as soon as it is measured."""
    ratio = "" if row.ratio is None else f"{row.ratio:.2f} times {row.peer} ({row.low or 0:.2f} to {row.high or 0:.2f})"
    figures = ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                        for name, value in row.more.items() if value is not None)  # fmt: skip
    figure = "" if row.mvrec is None else f"{row.mvrec:.4g} {row.unit}"
    return "; ".join(filter(None, (f"{row.subject}, {row.measure}: {figure}", ratio, figures, row.note)))


def verdicts(rows: list[Row]) -> list[str]:
    """Return a line per goal that the rows can judge."""
    lines = [f"goal: {row.subject}, {row.measure}: {row.ratio:.2f} times {row.peer}, {row.goal:g} "
             f"{'reached' if row.ratio >= row.goal else 'missed'}"
             for row in rows if row.goal and isinstance(row.ratio, float)]  # fmt: skip
    training = [row for row in rows if row.subject == "mvit_b_16x4" and "training step, bf16" in row.measure]
    shares = [float(str(row.more["MFU"]).rstrip("%")) / 100 for row in training if row.more.get("MFU")]
    if shares:
        reached = "reached" if max(shares) >= MFU_GOAL else "missed"
        lines.append(f"goal: MFU of MViT-B in training: {max(shares):.1%}, {MFU_GOAL:.0%} {reached}")
    waits = [row.mvrec if row.unit == "waits" else row.more.get("waits") for row in rows]
    counted = [float(count) for count in waits if count is not None]
    if counted and torch.cuda.is_available():
        lines.append(f"goal: waits per step: {max(counted):g} at most, 0 {'missed' if max(counted) else 'reached'}")
    return lines


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=480, metavar="SECONDS", help="stop then (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose label contains it")
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="of an earlier run, whose rows are not measured again"
    )
    parser.add_argument("--dry", action="store_true", help="small inputs, on a CPU")
    add_option(parser)
    options = parser.parse_args(words)
    if not options.dry and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; --dry tries the benchmark on a CPU")
    device = "cpu" if options.dry else "cuda"
    begin = time.monotonic()
    torch.backends.cudnn.benchmark = not options.dry
    figures = Figures.of(
        options, "gpu", packages=("torch", "torchvision", "timm", "triton"), gpu=measuring.device_name(device)
    )
    print(f"{figures.title}; fused AdamW, fp32 with TF32, cudnn.benchmark\n", flush=True)
    if options.keep:
        figures.add(*Figures.read(options.keep).rows)
    kept_labels = [f"{row.subject}, {row.measure}," for row in figures.rows]

    def stop(*_: object) -> None:
        raise BudgetSpent

    earlier_handler = signal.signal(signal.SIGALRM, stop)
    missing = []
    for label, seconds, work in jobs(device, dry=options.dry):
        left = options.budget - (time.monotonic() - begin)
        if options.only not in label or any(name.startswith(f"{label},") for name in kept_labels):
            continue
        if left < seconds:
            missing.append(f"{label}: {left:.0f} s of the budget were left")
            continue
        signal.alarm(max(1, int(left)))
        result = attempt(label, work)
        signal.alarm(0)
        if isinstance(result, str):
            missing.append(f"{label}: {result}")
            print(f"{label}: left out, {result}", flush=True)
        else:
            figures.add(result)
            print(f"{time.monotonic() - begin:4.0f} s  {line(result)}", flush=True)
    signal.signal(signal.SIGALRM, earlier_handler)
    figures.leave_out(missing)
    print(f"\n{by_row(figures.rows)}\n" if figures.rows else "")
    print(*verdicts(figures.rows), *(f"left out: {entry}" for entry in missing), sep="\n")


if __name__ == "__main__":
    main()
