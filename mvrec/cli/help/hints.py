"""Other libraries' names of our keys, commands and values: from a wrong name to the likely meaning.

Other libraries are torchvision's references, timm, PySlowFast, mmaction2, ultralytics and Hugging Face.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from mvrec.errors import nearest
from mvrec.published import PUBLISHED

# By our key: names that others have for it, in lower case with "_" between words.
NAMES_ELSEWHERE = {
    "data": "dataset dataset_name dataset_type",
    "data.root": "data_path data_dir data_root dataset_path dataset_dir dataroot root train_dir img_dir video_dir",
    "data.batch_size": "batch b bs batch_size train_batch_size batch_size_per_gpu samples_per_gpu "
    "per_device_train_batch_size videos_per_gpu micro_batch_size",
    "data.num_workers": "j workers num_workers n_workers loader_workers workers_per_gpu dataloader_num_workers",
    "data.size": "img_size image_size input_size imgsz crop_size resolution train_crop_size img res",
    "data.clip.num_frames": "frames num_frames n_frames clip_len clip_length clip_size num_segments sequence_length",
    "data.clip.stride_frames": "stride frame_interval frame_stride sampling_rate frame_step",
    "data.clip.target_fps": "fps target_fps frame_rate",
    "data.val_fraction": "val_split validation_split val_fraction val_ratio test_size",
    "data.fold": "fold folds kfold k_fold num_folds n_folds cv cross_validation n_splits",
    "data.augment": "aa auto_augment rand_augment randaugment augmentation transforms transform",
    "data.augment.flip_probability": "hflip flip horizontal_flip fliplr",
    "data.augment.random_erasing": "reprob random_erase random_erasing erasing",
    "model.backbone": "arch architecture net network encoder model_name model_type",
    "model.backbone.drop_path_rate": "drop_path drop_path_rate stochastic_depth",
    "model.weights": "weights pretrained checkpoint ckpt init init_from load_from finetune pretrain "
    "initial_checkpoint pretrained_weights checkpoint_file_path from_checkpoint pretrained_model",
    "model.freeze": "freeze freeze_backbone freeze_layers frozen_stages",
    "model.optimizer": "opt optim optimizer",
    "model.optimizer.lr": "lr learning_rate lrate base_lr blr lr0",
    "model.optimizer.weight_decay": "wd weight_decay l2",
    "model.optimizer.momentum": "momentum",
    "model.schedule": "sched scheduler lr_schedule schedule",
    "model.lr_scheduler": "lr_scheduler",
    "model.loss": "loss criterion loss_fn",
    "model.metrics": "metrics metric",
    "model.schedule.warmup_epochs": "warmup warmup_epochs lr_warmup_epochs num_warmup_epochs",
    "model.layer_decay": "layer_decay lr_layer_decay llrd layerwise_decay",
    "model.label_smoothing": "smoothing label_smoothing label_smooth",
    "model.mixing.mixup_alpha": "mixup mixup_alpha",
    "model.mixing.cutmix_alpha": "cutmix cutmix_alpha",
    "trainer.max_epochs": "e epoch epochs num_epochs n_epochs nb_epochs total_epochs num_train_epochs max_epochs",
    "trainer.max_steps": "steps num_steps iterations iters max_iter max_iters total_steps max_steps",
    "trainer.devices": "gpu gpus num_gpus n_gpus gpu_ids nproc nproc_per_node num_devices devices",
    "trainer.accelerator": "device cuda use_cuda cpu",
    "trainer.num_nodes": "nodes nnodes num_nodes num_shards num_machines",
    "trainer.strategy": "ddp distributed distributed_backend backend launcher fsdp deepspeed",
    "trainer.precision": "amp fp16 bf16 half mixed_precision precision use_amp dtype",
    "trainer.gradient_clip_val": "clip_grad grad_clip max_grad_norm clip_grad_norm gradient_clip max_norm",
    "trainer.accumulate_grad_batches": "accum_iter accumulate accum_steps grad_accum grad_accum_steps update_freq "
    "gradient_accumulation_steps gradient_accumulation",
    "trainer.check_val_every_n_epoch": "val_freq val_interval eval_freq eval_interval eval_period eval_every",
    "trainer.log_every_n_steps": "log_interval log_freq print_freq log_every log_period logging_steps",
    "trainer.logger": "wandb tensorboard use_wandb log_wandb report_to",
    "trainer.callbacks": "patience early_stopping early_stop ema model_ema callbacks",
    "trainer.fast_dev_run": "debug dry_run smoke_test",
    "checkpoint.every_n_epochs": "save_freq save_interval save_period checkpoint_period save_every",
    "run_dir": "o out output outdir output_dir out_dir work_dir save_dir log_dir logdir project exp_name experiment "
    "name results_dir checkpoint_dir ckpt_dir",
    "resume": "auto_resume continue",
    "ckpt_path": "resume_from resume_from_checkpoint resume_path load_checkpoint ckpt_file",
    "seed_everything": "seed random_seed manual_seed",
    "config": "cfg config_file cfg_file cfg_path config_path conf config_name",
}
OURS = {name: key for key, names in NAMES_ELSEWHERE.items() for name in names.split()}
COUNT_OF_CLASSES = "num_classes n_classes nb_classes nclasses n_class nc num_labels"
# What values of some keys look like.
EXAMPLES = {
    "trainer.precision": " (--trainer.precision 16-mixed or bf16-mixed)",
    "trainer.accelerator": " (--trainer.accelerator gpu or cpu)",
    "trainer.strategy": " (--trainer.strategy ddp; torchrun and srun start several processes)",
    "trainer.callbacks": " (--trainer.callbacks EarlyStopping --trainer.callbacks.monitor val/loss)",
    "trainer.logger": " (--trainer.logger TensorBoardLogger --trainer.logger.save_dir runs/tb)",
    "resume": " (--resume auto)",
    "model.freeze": " (--model.freeze backbone trains the head alone)",
    "model.optimizer": " (--model.optimizer SGD --model.optimizer.lr 0.1)",
}
# Names that mvrec has no key for on purpose, and what to do.
NOT_KEYS = {
    **dict.fromkeys(
        COUNT_OF_CLASSES.split(),
        ": leave it out, the number of classes follows from the data (data.classes names them)",
    ),
    **dict.fromkeys(("eval", "evaluate", "test", "test_only", "eval_only"), ": use the command mvrec test"),
    "local_rank": ": leave it out, torchrun and srun tell each process its rank",
}
# Commands by the names that other tools give them.
COMMANDS = {
    **dict.fromkeys(("train", "training", "finetune", "fine-tune", "run", "learn"), "fit"),
    **dict.fromkeys(("eval", "evaluate", "evaluation", "score"), "test"),
    **dict.fromkeys(("val", "validation"), "validate"),
    **dict.fromkeys(("infer", "inference", "classify", "detect", "label", "recognise"), "recognize"),
    **dict.fromkeys(("heat", "heatmap", "gradcam", "cam", "visualize"), "explain"),
    **dict.fromkeys(("features", "embed"), "extract"),
    **dict.fromkeys(("list", "zoo", "list-models", "networks"), "models"),
    **dict.fromkeys(("check", "info", "env", "collect_env"), "doctor"),
    **dict.fromkeys(("profile", "speed"), "benchmark"),
}
# Precisions by the names that other libraries give them.
PRECISIONS = {
    **dict.fromkeys(("fp16", "float16", "half", "amp", "mixed", "true", "16bit"), "16-mixed"),
    **dict.fromkeys(("bfloat16", "bf16-amp"), "bf16-mixed"),
    **dict.fromkeys(("fp32", "float32", "float", "full"), "32-true"),
    **dict.fromkeys(("fp64", "float64", "double"), "64-true"),
}


def key_hint(key: str, *, siblings: Iterable[str], accepts: Callable[[str], bool]) -> str:
    """Return a hint for a key that does not exist: a sibling of nearly this name, else what other libraries mean by it.

    Args:
        key: As it was written: "epochs", "trainer.epochs" or "batch-size".
        siblings: The other names at its level.
        accepts: Whether the command takes a key.
    """
    written = key.rpartition(".")[2]
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", written).lower().replace("-", "_")
    siblings, our_key = list(siblings), OURS.get(name)
    if name in NOT_KEYS:
        return NOT_KEYS[name]
    if hint := nearest(written, siblings, likeness=0.85):
        return hint
    if our_key is not None and our_key != key and accepts(our_key):
        return f"; did you mean {our_key!r}?{EXAMPLES.get(our_key, '')}"
    return nearest(written, siblings) if "." in key else ""


def stray_hint(argument: str, *, accepts_checkpoint: bool) -> str:
    """Say what is wrong with an argument that is neither a flag nor the value of one.

    Args:
        argument: As it was written, such as "my.yaml", "mvit_b_16x4", "lr=1" or "-lr".
        accepts_checkpoint: Whether the command takes a run or checkpoint as its first argument.
    """
    name = argument.lstrip("-").partition("=")[0]
    if argument.startswith("-") or re.fullmatch(r"\+*[\w.]+=.*", argument):
        our_key = name if "." in name else OURS.get(name.replace("-", "_"), name)
        return f"unexpected argument {argument!r}: flags begin with two dashes, such as --{our_key} VALUE"
    if argument.endswith((".yaml", ".yml", ".json")):
        return f"unexpected argument {argument!r}: a configuration is named by --config {argument}"
    if argument in PUBLISHED:
        return (
            f"unexpected argument {argument!r}: --config {argument} takes the recipe, "
            f"--model.backbone {argument} the network alone"
        )
    if Path(argument).is_dir() and not accepts_checkpoint:
        return f"unexpected argument {argument!r}: a folder of data is named by --data.root {argument}"
    place = "; a run or checkpoint comes first" if accepts_checkpoint else ""
    return f"unexpected argument {argument!r}: each value stands behind its flag{place}"


def command_hint(name: str, commands: Iterable[str]) -> str:
    """Return a hint for a command that does not exist.

    Args:
        name: As it was written.
        commands: Those that exist.
    """
    command, path = COMMANDS.get(name.lower()), Path(name)
    if path.is_dir():
        is_run = (path / "config.yaml").is_file()
        return (
            f"; mvrec {f'test {name} scores this run' if is_run else f'fit --data.root {name} trains on this folder'}"
        )
    if path.is_file():
        return f"; mvrec recognize {name} --ckpt RUN names what this file shows"
    return f"; did you mean {command!r}?" if command else nearest(name, commands)
