"""`mvrec probe`: whether a network's features suffice for data, before it is fine-tuned."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvrec.errors import UserError, nearest, need
from mvrec.files import at_home, check_target, json_text, write_atomically
from mvrec.messages import CommandParser
from mvrec.ranges import COUNT, Range, check_range

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mvrec.probe.heads import Probe, Split
    from mvrec.probe.result import Result
    from mvrec.probe.source import Source

PROBES = ("knn", "linear", "attentive")


def main(arguments: list[str]) -> None:
    """Tell how well simple classifiers do on a network's features: enough, more labels, or fine-tune.

    The features of every file are computed once and kept in OUT/features; a second run goes on there. Probes learn from
    the training split, choose their settings by cross-validation within it, and are scored on the validation split.
    `knn`: nearest neighbours; `linear`: logistic regression; `attentive`: one learned query looks at all places.
    """
    from mvrec.inference.reading import add_limits, start_readers

    parser = CommandParser(
        prog="mvrec probe",
        description=main.__doc__,
        usage="mvrec probe NETWORK [--data.root FOLDER] [--probes LIST] [--test] [-o OUT] ...",
        epilog="All other arguments are those of `mvrec fit`: --data.root FOLDER, --data.size 64, ...",
        allow_abbrev=False,
    )
    parser.add_argument("network", metavar="NETWORK", help="a configuration, a run, a checkpoint or published weights")
    parser.add_argument(
        "--probes", default="knn,linear", metavar="LIST", help="of knn,linear,attentive (default: %(default)s)"
    )
    parser.add_argument("--test", action="store_true", help="score the test split instead of the validation split")
    parser.add_argument(
        "--enough", type=float, default=0.95, metavar="SHARE", help="score that is enough (default: 0.95)"
    )
    parser.add_argument(
        "-o", "--out", type=at_home, default=Path("probe"), metavar="OUT", help="folder (default: probe)"
    )
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="views at a time (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="default: the first GPU where there is one, else the CPU")
    add_limits(parser)
    options, flags = parser.parse_known_args(arguments)
    names = _names(options.probes)
    check_range("--batch_size", options.batch_size, COUNT)
    check_range("--enough", options.enough, Range(0, 1))
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out={options.out} is a file: name a folder")
    need("probe", "sklearn")
    check_target(options.out / "probe.html", flag="--out")
    from mvrec.probe.page import probe_page
    from mvrec.probe.result import as_json, lines
    from mvrec.probe.source import open_source

    start_readers(options)
    source = open_source(options.network, flags, split="test" if options.test else "val", device=options.device)
    result = _probed(source, options, names)
    try:
        write_atomically(options.out / "probe.json", json_text(as_json(result), indent=2) + "\n")
        write_atomically(options.out / "probe.html", probe_page(result))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from None
    print("\n".join([*lines(result), str(options.out / "probe.html")]))  # noqa: T201


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PROBES:
            raise UserError(
                f"--probes: there is no probe {name!r}{nearest(name, PROBES)}; known are {', '.join(PROBES)}"
            )
    if not names:
        raise UserError(f"--probes: name one or more of {', '.join(PROBES)}")
    return list(dict.fromkeys(names))


def _probed(source: "Source", options: Any, names: Sequence[str]) -> "Result":
    import numpy as np

    from mvrec.probe.curve import learning_curve
    from mvrec.probe.gather import VECTOR, gather, weights_hash
    from mvrec.probe.heads import folds_of, knn, linear
    from mvrec.probe.result import Result, chance_of

    split = "test" if options.test else "val"
    folder = options.out / "features"
    common: Any = {"weights": weights_hash(source.recogniser.backbone), "batch_size": options.batch_size}
    learned = gather(source.recogniser, source.train.samples, folder / "train", selection=VECTOR, **common)
    scored = gather(source.recogniser, source.scored.samples, folder / split, selection=VECTOR, **common)
    train, truth = source.train.where(learned.read), source.scored.where(scored.read).labels
    _check(source, train.labels, truth, split)
    vectors, queried = learned.vectors(), scored.vectors()
    folds = folds_of(train.labels, train.groups)
    probes: list[Probe] = []
    points = []
    for name in names:
        if name == "knn":
            probes.append(knn(vectors, train.labels, folds, queried))
        elif name == "linear":
            probe, strength = linear(vectors, train.labels, folds, queried)
            probes.append(probe)
            points = learning_curve(vectors, train.labels, strength, queried, truth)
        else:
            probes.append(_attentive(source, folder, split, folds, common, (learned.read, scored.read)))
    return Result(
        network=options.network,
        has_weights=source.has_weights,
        protocol=str(source.recogniser.protocol),
        split=split,
        width=vectors.shape[1],
        files=len(train.labels),
        groups=len(np.unique(train.groups)),
        truth=truth,
        chance=chance_of(truth),
        probes=probes,
        points=points,
        enough=options.enough,
        left_out=int((~learned.read).sum() + (~scored.read).sum()),
    )


def _check(source: "Source", labels: "npt.NDArray[Any]", truth: "npt.NDArray[Any]", split: str) -> None:
    """Check that there are classes to tell apart."""
    present = [int(number) for number in _present(labels)]
    if len(present) < 2:
        only = f" ({source.class_names[present[0]]})" if present else ""
        raise UserError(f"a probe tells classes apart, and the readable files of train have {len(present)} class{only}")
    if not len(_present(truth)):
        raise UserError(f"no labelled file of {split} can be read")


def _present(labels: "npt.NDArray[Any]") -> "npt.NDArray[np.int64]":
    import numpy as np

    return np.unique(labels) if labels.ndim == 1 else np.flatnonzero(labels.any(0))


def _attentive(
    source: "Source", folder: Path, split: str, folds: "Sequence[Split]", common: Any, read: Sequence[Any]
) -> "Probe":
    from mvrec.probe.attentive import Tokens, attentive
    from mvrec.probe.gather import TOKENS, gather

    tokens = []
    parts = (("train", source.train), (split, source.scored))
    for (name, files), readable in zip(parts, read, strict=True):
        place = folder / f"{name} maps"
        gathered = gather(source.recogniser, files.where(readable).samples, place, selection=TOKENS, **common)
        if not gathered.read.all():
            raise UserError(f"a file of {name} could be read at first and now cannot: see above, and try again")
        tokens.append(Tokens([stem for stem in gathered.stems if stem is not None]))
    labels = source.train.where(read[0]).labels
    return attentive(
        tokens[0], labels, folds, tokens[1], num_classes=len(source.class_names), device=source.recogniser.device
    )
