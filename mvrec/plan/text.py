"""A plan in words: about ten lines, each with the flag that changes it."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from shlex import quote
from statistics import fmean
from typing import Any, NamedTuple

from mvrec.data.views.geometry import sides_text
from mvrec.messages import counted
from mvrec.plan.findings import Findings
from mvrec.plan.plan import Plan
from mvrec.plan.timing import FORWARD, in_words

NAMED_CLASSES = 8
SET = "as you set"
STARTING_SECONDS = 10.0  # until the first step, and to save at the end


class Line(NamedTuple):
    """A line of the plan: what it is about, the text, and the flags that change it."""

    about: str
    text: str
    flags: str


class Resolved(NamedTuple):
    """A run as it is built, after flags and configs have overridden the plan.

    Attributes:
        value: Returns the value of a key, such as "data.batch_size"; `None` without one.
        overrides: The keys that the user set.
        network: Class name of the network.
        parameters: Its number of parameters, without the head.
        seconds_per_view: Time to learn from one view; `None` if it could not be measured.
        processes: Processes that train together.
        run_dir: Where everything about the run goes.
    """

    value: Callable[[str], Any]
    overrides: frozenset[str]
    network: str
    parameters: int
    seconds_per_view: float | None
    processes: int
    run_dir: str


def lines_of(plan: Plan, run: Resolved) -> list[str]:
    """Return the lines of a plan, as the run really is."""
    lines = [*_lines(plan, run)]
    width = max(len(line.about) for line in lines)
    texts = [f"  {about:<{width}}  {text}" + (f"  [{flags}]" if flags else "") for about, text, flags in lines]
    return [*texts, *(f"  note: {remark}" for remark in plan.findings.remarks)]


def facts(plan: Plan) -> list[Line]:
    """Return the lines about the files and the machine, which need no network."""
    findings, media = plan.findings, plan.findings.media.describe()
    text = counted(sum(findings.files.values()), f"{findings.noun}s")
    if findings.num_videos:
        boxes = _totals(findings)
        text += f" of {counted(findings.num_videos, 'videos')} with boxes of {counted(len(boxes), 'actions')}"
        text += f": {_counted(boxes)}"
    if findings.num_objects:
        objects = _totals(findings)
        text += f" with {counted(findings.num_objects, 'objects')} of {counted(len(objects), 'classes')}"
        text += f": {_counted(objects)}"
    if findings.has_classes:
        text += f" in {len(findings.class_names)} classes: {_counted(_totals(findings))}"
    if findings.values:
        text += f" with {_ranges(findings)}"
    machine = Line("machine", plan.machine.describe(), "--trainer.accelerator, --trainer.devices")
    text += f"; {media}" if media else ""
    baseline = [Line("baseline", _baseline(findings), "")] if "val" in findings.values else []
    return [Line("found", text, "--data.root"), _split_line(findings), *baseline, machine]


def _ranges(findings: Findings) -> str:
    """Return range and mean of each value in the training files."""
    columns = findings.values["train"].items()
    texts = [f"{name} {min(values):.4g} to {max(values):.4g}, mean {fmean(values):.4g}" for name, values in columns]
    return "; ".join(texts)


def _baseline(findings: Findings) -> str:
    """Return how far the training mean is off, which a network has to beat."""
    errors = {}
    for name, true in findings.values["val"].items():
        mean = fmean(findings.values["train"][name])
        errors[name] = fmean(abs(number - mean) for number in true)
    texts = [f"{error:.3g} in {name}" for name, error in errors.items()]
    return f"the training mean for every file is off by {', '.join(texts)} (mean absolute error); R2 above 0 beats it"


def _lines(plan: Plan, run: Resolved) -> Iterator[Line]:
    for line in facts(plan):
        is_set = line.about == "split" and not run.overrides.isdisjoint({"data.val_fraction", "data.fold"})
        yield line._replace(text=f"{line.text} ({SET})") if is_set else line
    yield _network_line(plan, run)
    yield _input_line(plan.findings, run)
    yield _weights_line(plan, run)
    yield from _learning_lines(plan, run)
    yield Line("time", _time(plan, run), f"results: {run.run_dir}; --run_dir")


def _totals(findings: Findings) -> dict[str, int]:
    names = findings.class_names
    return {name: sum(counts.get(name, 0) for counts in findings.classes.values()) for name in names}


def _counted(counts: Mapping[str, int]) -> str:
    named = [f"{name} {count}" for name, count in counts.items()]
    return ", ".join(named[:NAMED_CLASSES]) + (f" and {len(named) - NAMED_CLASSES} more" if len(named) > 8 else "")


def _split_line(findings: Findings) -> Line:
    splits = []
    for split, files in findings.files.items():
        counts = [findings.classes[split].get(name, 0) for name in findings.class_names]
        fewest, most = min(counts), max(counts)
        of_each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        splits.append(f"{files} {split}" + (f" ({of_each} of a class)" if findings.has_classes else ""))
    text = ", ".join(splits)
    if unreadable := len(findings.media.unreadable):
        text += f", of which at least {unreadable} cannot be read"
    if findings.fold:
        return Line("split", f"{text}, by {findings.layout}", f"--data.fold {findings.fold}, or a list val.csv")
    if findings.has_splits:
        return Line("split", f"{text}, by {findings.layout}", "")
    return Line("split", f"{text}, by a hash of the paths", f"--data.val_fraction {findings.val_fraction:g}")


def _network_line(plan: Plan, run: Resolved) -> Line:
    size = f"{run.parameters / 1e6:.1f} M parameters"
    if plan.network is not None:
        text = f"{plan.network.name} with {size}, {plan.network.reason}"
    elif plan.weights and "model.backbone" not in run.overrides:
        text = f"{run.network} with {size}, as the weights are"
    else:
        text = f"{run.network} with {size} ({SET})"
    return Line("network", text, "--model.backbone NAME, `mvrec models` lists them")


def _input_line(findings: Findings, run: Resolved) -> Line:
    if findings.num_objects:
        return _object_line(run)
    size = run.value("data.size")
    pixels = f"{sides_text(size)}{_set(run, 'data.size')}"
    if not findings.is_video:
        return Line("input", pixels, f"--data.size {str(size).replace(' ', '')}")
    frames, stride = run.value("data.clip.num_frames"), run.value("data.clip.stride_frames")
    fps = run.value("data.clip.target_fps")
    every = "every one" if not stride or stride == 1 else f"one of every {stride}"
    rate = f" of {fps:g} per second" if fps else ""
    clips = f"clips of {frames} frames, {every}{rate}{_set(run, 'data.clip')}"
    flags = f"--data.clip.num_frames {frames} --data.size {size}"
    if findings.num_videos:
        return Line("input", f"{clips}, {pixels}{_pixels(run)}", f"{flags} --data.pixels centre")
    if findings.media.is_oblong and run.value("data.test_views.num_crops") != 3:
        pixels += "; evaluation sees their centre, without the ends of the long side"
        flags += " --data.test_views.num_crops 3"
    return Line("input", f"{clips}, {pixels}", flags)


def _object_line(run: Resolved) -> Line:
    sides, protocol = run.value("data.augment.short_sides"), run.value("data.protocol")
    views = "images in their own size" if sides is None else f"short sides of {', '.join(map(str, sides))} pixels"
    text = f"{views}{_set(run, 'data.augment')}; evaluation by {protocol}{_set(run, 'data.protocol')}"
    return Line("input", text, f"--data.augment.short_sides '[800]' --data.protocol {protocol}")


def _pixels(run: Resolved) -> str:
    full = run.value("data.pixels") == "full"
    return "; evaluation sees " + ("full frames" if full else "their centre, without people at the ends")


def _weights_line(plan: Plan, run: Resolved) -> Line:
    flag = "--model.weights FILE_OR_RUN"
    if "model.weights" in run.overrides:
        return Line("weights", f"{plan.weights or run.value('model.weights')} ({SET})", flag)
    text = f"none: it learns from the {counted(plan.findings.num_train, f'{plan.findings.noun}s')} alone"
    if plan.findings.num_train < 1000:
        text += "; with weights so few teach it far more"
    return Line("weights", text, f"{flag}; `mvrec weights` lists published ones")


def _learning_lines(plan: Plan, run: Resolved) -> Iterator[Line]:
    batch, accumulate = run.value("data.batch_size"), run.value("trainer.accumulate_grad_batches") or 1
    files = batch * accumulate * run.processes
    epochs, most = run.value("trainer.max_epochs"), run.value("trainer.max_steps")
    per_epoch = max(1, plan.findings.num_train // files)
    text = f"{counted(epochs, 'epochs')} of {counted(per_epoch, 'steps')}" if epochs and epochs > 0 else f"{most} steps"
    keys: tuple[str, ...] = ("trainer.max_epochs", "trainer.max_steps", "data.batch_size")
    every = run.value("trainer.check_val_every_n_epoch") or 1
    text += f", validated every {every} epochs" if every > 1 else ""
    text += f", each of {files} {plan.findings.noun}s{_set(run, *keys)}{_why(plan, run, *keys)}"
    length = f"--trainer.max_epochs {epochs}" if epochs and epochs > 0 else f"--trainer.max_steps {most}"
    yield Line("steps", text, f"{length} --data.batch_size {batch}")
    optimizer = run.value("model.optimizer") or {}
    arguments = optimizer.get("init_args") or {}
    name = str(optimizer.get("class_path", "AdamW")).rpartition(".")[2]
    rate, decay = arguments.get("lr", 1e-3), run.value("model.layer_decay")
    keys = ("model.optimizer", "model.layer_decay")
    per, peak = run.value("model.lr_reference_batch"), f"{rate:g}"
    peak = f"{rate * files / per:.3g} per step of {files} ({peak} for {per})" if per else peak
    text = f"{name} with {peak}, layer decay {decay:g}{_set(run, *keys)}{_why(plan, run, *keys)}"
    yield Line("rate", text, f"--model.optimizer.lr {rate:g} --model.layer_decay {decay:g}")
    shown = {"trainer.max_epochs", "data.batch_size", "model.optimizer", "model.layer_decay"}
    others = [choice for choice in plan.choices if choice.key.startswith("model.") and choice.key not in shown]
    hidden = ("model.backbone", "model.lr_reference_batch")  # said elsewhere
    others = [choice for choice in others if choice.key not in hidden and run.value(choice.key)]
    texts = [f"{choice.key.removeprefix('model.')} {_plain(run.value(choice.key))}" for choice in others]
    augment = plan.value("data.augment")
    if augment is not None and not plan.findings.num_objects:
        cause = "they may change a number" if plan.findings.values else "classes that a mirror changes"
        texts.append("mild crops, " + ("flips" if augment["flip_probability"] else f"no flips ({cause})"))
    keys = tuple(choice.key for choice in others)
    if texts:
        yield Line("besides", "; ".join(texts) + _set(run, *keys, "data.augment"), "--help model, --help data.augment")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping | Namespace):  # the parser's form of several keys
        parts = value if isinstance(value, Mapping) else vars(value)
        return f"({', '.join(f'{name} {_plain(part)}' for name, part in parts.items())})"
    return "none" if value is None else str(value)


def _why(plan: Plan, run: Resolved, *keys: str) -> str:
    """Return the reasons of the planned values that stand, in parentheses."""
    reasons = [choice.reason for choice in plan.choices if choice.key in keys and not _set(run, choice.key)]
    return f" ({'; '.join(dict.fromkeys(reasons))})" if reasons else ""


def _set(run: Resolved, *keys: str) -> str:
    """Return that the user set one of some keys, or a part of it."""
    is_set = any(f"{name}.".startswith(f"{key}.") for key in keys for name in run.overrides)
    return f" ({SET})" if is_set else ""


def _time(plan: Plan, run: Resolved) -> str:
    if run.seconds_per_view is None:
        return "not estimated: this network cannot be timed before it trains"
    findings, machine = plan.findings, plan.machine
    epochs, most = run.value("trainer.max_epochs"), run.value("trainer.max_steps") or -1
    batch = run.value("data.batch_size") * run.processes
    steps = (epochs if epochs and epochs > 0 else 1000) * max(1, findings.num_train // batch)
    steps = min(steps, most) if most > 0 else steps
    epochs = steps / max(1, findings.num_train // batch)
    clips = run.value("data.val_views.num_clips") or 1
    scored = epochs * findings.files.get("val", 0) * clips
    learning = run.seconds_per_view * (steps * batch + FORWARD * scored) / run.processes
    reading = findings.media.reading_seconds * (steps * batch + scored) / machine.cores
    seconds = max(learning, reading) if machine.gpu else learning + reading
    return f"{in_words(STARTING_SECONDS + seconds)} on this machine (a step of this network was measured)"


def told(lines: Sequence[str], root: str) -> str:
    """Return a plan as one message."""
    head = f"the plan for {root}, which the flags in brackets change (`mvrec init {quote(root)}` writes it as a file):"
    return "\n".join([head, *lines])
