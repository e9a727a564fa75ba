"""The short help of `fit`, `validate`, `test` and `predict`: the common keys, their defaults, a line each."""

from collections.abc import Iterator
from typing import NamedTuple

from mvrec.cli.help.rows import default_text

FIT, EVALUATION = ("fit",), ("validate", "test", "predict")
ALL = (*FIT, *EVALUATION)


class Key(NamedTuple):
    """A common key: its name, what its value is called, what it means, and which commands show it."""

    name: str
    value: str
    text: str
    commands: tuple[str, ...] = ALL


SECTIONS = {
    "settings": [
        Key("config", "FILE", "a YAML file, or a recipe by its name (mvrec recipes); may be repeated"),
        Key("print_config", "", "print all settings as YAML, run nothing"),
        Key("seed_everything", "N", "seed of weights, order and augmentation", FIT),
    ],
    "data": [
        Key("data", "CLASS", "VideoFolder, ImageFolder, Kinetics, ImageNet, UCF101 ... (--help data)"),
        Key("data.root", "FOLDER", "FOLDER/<class>/<file>, FOLDER/<split>/<class>/<file>, or lists in it"),
        Key("data.batch_size", "N", "files per process and training step", FIT),
        Key("data.eval_batch_size", "N", "files per process and evaluation step; default: as in training"),
        Key("data.num_workers", "N", "processes that read files; auto: as many as cores"),
        Key("data.size", "PIXELS", "side of the square that the network sees"),
        Key("data.clip.num_frames", "T", "frames per clip"),
        Key("data.clip.stride_frames", "N", "frames from one of a clip to the next"),
        Key("data.val_fraction", "SHARE", "share for validation where the folder has no splits", FIT),
        Key("data.fold", "K/N", "cross-validation: fold K of N where the data have no validation split", FIT),
        Key("data.classes", "FILE", "class names, one a line; default: the data's own"),
    ],
    "network": [
        Key("model.backbone", "NAME", "as mvrec models lists them, timm/NAME ...; default: the plan's", FIT),
        Key("model.weights", "FILE", "weights to start from, or a run; the network follows from them"),
        Key("model.freeze", "WHAT", "backbone: train the head alone; N: keep the first N layers", FIT),
        Key("model.backbone.drop_path_rate", "P", "stochastic depth; default: the network's own", FIT),
    ],
    "training": [
        Key("trainer.max_epochs", "N", "epochs; without max_epochs and max_steps 1000", FIT),
        Key("model.optimizer", "CLASS", "a class of torch.optim, such as SGD", FIT),
        Key("model.optimizer.lr", "RATE", "peak learning rate", FIT),
        Key("model.optimizer.weight_decay", "D", "weight decay; biases and norms have none", FIT),
        Key("model.schedule.warmup_epochs", "N", "epochs of linear warm-up before the cosine", FIT),
        Key("model.label_smoothing", "P", "label smoothing", FIT),
        Key("model.layer_decay", "RATIO", "learning rate of a layer as a share of the next one's", FIT),
        Key("trainer.gradient_clip_val", "NORM", "largest norm of the gradients; default: no limit", FIT),
        Key("trainer.accumulate_grad_batches", "N", "batches per optimiser step", FIT),
    ],
    "machine": [
        Key("trainer.accelerator", "NAME", "auto, gpu or cpu"),
        Key("trainer.devices", "N", "GPUs, or processes on a CPU"),
        Key("trainer.precision", "NAME", "32-true, bf16-mixed, 16-mixed ...; default: what the device does well"),
    ],
    "run": [
        Key("run_dir", "FOLDER", "where all output goes; default: runs/<name of the config>"),
        Key("resume", "auto", "go on from the newest checkpoint of run_dir, if there is one", FIT),
        Key("ckpt_path", "FILE", "go on from this checkpoint, or the newest of a run", FIT),
        Key("save_every_minutes", "N", "interval of last.ckpt; 0: at the end of epochs only", FIT),
        Key("trainer.limit_train_batches", "N", "N batches per epoch, or a share such as 0.1: to try things", FIT),
        Key("protocol", "NAME", "how many views a file gets, as published: slowfast-10x3 ...", EVALUATION[1:]),
    ],
}
ABOUT = {
    "fit": "Train a network, validate it after each epoch, keep its best and its last checkpoint. With --data.root\n"
    "alone, a plan follows from the files and this machine; it is printed, and each value can be set.",
    "validate": "Score the validation split as during training.",
    "test": "Score the test split with the full protocol; write scores and predictions into the run.",
    "predict": "Write the predictions for the test split.",
}
USAGE = {
    "fit": "usage: mvrec fit [--config FILE ...] [--KEY VALUE ...]",
    **{name: f"usage: mvrec {name} [RUN_OR_CHECKPOINT] [--config FILE ...] [--KEY VALUE ...]" for name in EVALUATION},
}
EXAMPLES = {
    "fit": [
        "mvrec fit --data.root my_videos                                           # own videos or images: a plan",
        "mvrec fit --data.root my_videos --model.weights FILE_OR_RUN               # the same, from weights",
        "mvrec fit --config mvit_b_16x4 --data.root kinetics400                    # a recipe as published",
        "mvrec fit --data.root my_videos --model.optimizer.lr 1e-4 --trainer.max_epochs 5 --run_dir runs/second",
        "mvrec fit --data.root my_videos --resume auto                             # the same command again goes on",
    ],
    **{
        name: [
            f"mvrec {name} runs/first                              # the best checkpoint on its own data",
            f"mvrec {name} runs/first --data.root other_videos",
        ]
        for name in EVALUATION
    },
}
REST = """\
more:
  mvrec {command} --help all            every key of {command}
  mvrec {command} --help data.augment   a key or a group: data, model, trainer, checkpoint, model.schedule ...
  mvrec {command} --help data.Kinetics  the keys of a class; also model.backbone.mvit_b_16x4, model.optimizer.SGD,
                {space}                trainer.callbacks.EarlyStopping
A flag wins over a config, a later config over an earlier one, a config over a checkpoint.
"""


def short_help(command: str) -> str:
    """Return the short help of a command: at most two screens.

    Args:
        command: "fit", "validate", "test" or "predict".
    """
    lines = [USAGE[command], "", f"{ABOUT[command]} Defaults in brackets.", ""]
    for section, keys in SECTIONS.items():
        rows = [_line(command, key) for key in keys if command in key.commands]
        lines += [f"{section}:", *rows, ""] if rows else []
    lines += ["examples:", *(f"  {example}" for example in EXAMPLES[command]), ""]
    return "\n".join(lines) + "\n" + REST.format(command=command, space=" " * len(command))


def common_keys(command: str) -> Iterator[str]:
    """Yield the keys of the short help."""
    for keys in SECTIONS.values():
        yield from (key.name for key in keys if command in key.commands)


def _line(command: str, key: Key) -> str:
    default = default_text(command, key.name)
    flag = f"--{key.name} {key.value}".rstrip()
    shown = f" [{default}]" if default and "default:" not in key.text else ""
    return f"  {flag:32}  {key.text}{shown}"
