"""The fit, validate, test and predict commands, built on LightningCLI.

Differences from stock Lightning: a checkpoint never overrides the user's settings, errors are one line, all output
goes to one run directory that may already exist, progress suits the terminal or the log file, and sampling, seeding
and sharding are ours.
"""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NoReturn

import torch
import yaml
from jsonargparse import get_loader, set_loader
from jsonargparse.typing import register_type
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from mvrec import data
from mvrec.class_paths import own_files, reason, renewed
from mvrec.cli.config_check import (
    Entry,
    check_keys,
    class_path_of,
    expand_backbones,
    flags,
    last_value,
    resolve,
)
from mvrec.cli.input_size import fit_to_data, wrap_own_network
from mvrec.cli.jsonargparse_private import change_types, with_deep_nulls
from mvrec.cli.options.check import check_early, missing_data
from mvrec.cli.parse_errors import explain, said_of_key
from mvrec.cli.planning import plan_text
from mvrec.cli.request import Request, default_run_dir, read_request
from mvrec.cli.run_defaults import (
    CHECKPOINT_KEYWORDS,
    chosen_mode,
    set_file_defaults,
)
from mvrec.cli.task_choice import flattened, path_of, with_task
from mvrec.cli.trainer_arguments import BATCH_COUNTS, REFUSALS, check_trainer, refused_by_lightning, whole_first
from mvrec.cli.value_check import check_values, refusals
from mvrec.cluster.preflight import SharedState, check_processes
from mvrec.cluster.watchdog import Watchdog
from mvrec.data.views.presets import PRESETS
from mvrec.errors import UserError
from mvrec.files import at_home
from mvrec.lightning_private import OpenCLI, drop_layer_sync
from mvrec.machine import limit_threads
from mvrec.messages import fail, show_lightning_messages, show_messages
from mvrec.models.checkpoints.files import each_file_once, forget_files, read_weights
from mvrec.runs.checkpoint_files import CheckpointFiles
from mvrec.runs.final_checkpoint import FinalCheckpoint
from mvrec.runs.position import ExactPosition
from mvrec.runs.preemption import (
    INTERRUPT_EXIT,
    PreemptedError,
    Preemption,
    job_end_time,
    on_own_clock,
    requeue,
    stop_exit,
)
from mvrec.runs.progress import BarProgress, EndReason, LineProgress, Throughput
from mvrec.runs.resume import Resume, check_resume
from mvrec.runs.run_checkpoints import BestAndLast, CheckpointSettings, run_checkpoints
from mvrec.runs.run_directory import MetricsCsv, RunRecord, SaveConfig, without_own_paths
from mvrec.runs.run_lock import RunLock, lock_run
from mvrec.runs.signals import REQUEUE, requests
from mvrec.tasks.base import Task
from mvrec.tasks.classification.task import Classification
from mvrec.training.averaging import check_averaging
from mvrec.training.non_finite import NonFiniteGuard
from mvrec.training.precision import chosen_precision
from mvrec.training.random_state import SeedEveryStep

log = logging.getLogger("mvrec")

TRAINER_DEFAULTS: dict[str, Any] = {
    "use_distributed_sampler": False,  # the loaders shard themselves
    "log_every_n_steps": 20,
    "num_sanity_val_steps": 1,
    "enable_model_summary": False,  # the task says in one line what it trains
}
PARSER_MODE = "mvrec"  # YAML in which a backbone may be a short name
INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


def load_config(text: str) -> Any:
    """Read YAML like jsonargparse, with this version's class paths and the task's arguments directly in `model`."""
    return renewed(expand_backbones(flattened(get_loader("yaml")(text), MvrecParser.task)))


set_loader(PARSER_MODE, load_config, exceptions=(yaml.YAMLError,))
register_type(torch.device)  # which a saved configuration could not name otherwise, and StochasticWeightAveraging has


class MvrecParser(LightningArgumentParser):
    """A parser whose errors are one line with the nearest right name.

    Attributes:
        settings: Entries of configs and flags, for messages.
        task: The task of the parser.
        command: The command whose arguments it parses.
        refuse: Ends the parsing with a message: prints it and exits; a script's call raises it.
    """

    refuse: ClassVar[Any] = staticmethod(fail)
    command: ClassVar[str] = "fit"
    settings: ClassVar[Sequence[Entry]] = ()
    task: ClassVar[type[Task]] = Classification

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False, "parser_mode": PARSER_MODE})

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Return a configuration as YAML, which names its task."""
        text = super().dump(*args, **{"skip_validation": True, **kwargs})  # parsing has validated it
        if MvrecParser.task is Classification:
            return text
        return self.as_yaml(with_task(yaml.safe_load(text), MvrecParser.task))

    @staticmethod
    def as_yaml(config: dict[str, Any]) -> str:
        """Return a plain configuration as YAML."""
        return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the useful line of an error and exit with 2."""
        self.refuse(explain(message, self.settings))
        raise AssertionError("an error of the parser ends it")


class MvrecCLI(OpenCLI):
    """The command line of training and evaluation."""

    locks: Sequence[RunLock] = ()

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the command to run alone, since the parsers of the others take a second to build."""
        return {MvrecParser.command: OpenCLI.subcommands()[MvrecParser.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run directory and the checkpoint callback with their defaults."""
        change_types(parser, [f"trainer.{key}" for key in BATCH_COUNTS], whole_first)
        change_types(parser, ["model.backbone"], lambda hint: torch.nn.Module)  # see `wrap_own_network`
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Where everything about the run goes (default: runs/<name of the config file>, or the run that "
            "ckpt_path lies in).",
        )
        parser.add_argument(
            "--resume",
            type=Literal["auto"] | None,
            default=None,
            help="auto: fit goes on from the newest whole checkpoint of the run directory, or starts where there is "
            "none.",
        )
        parser.add_argument(
            "--save_every_minutes",
            type=float,
            default=30.0,
            help="Interval of last.ckpt in fit, besides where the schedule of checkpoints has one; 0 for none.",
        )
        parser.add_argument(
            "--hang_timeout_minutes",
            type=float,
            default=20.0,
            help="With several processes, the longest time without progress: then the run ends, and the process that "
            "the others wait for is named; 0 for no limit.",
        )
        parser.add_argument(
            "--protocol",
            type=str | None,
            default=None,
            help=f"How files become views in test and predict, by name; single values such as "
            f"--data.test_views.num_clips win when they come later. One of {', '.join(PRESETS)}.",
        )
        parser.add_lightning_class_args(CheckpointSettings, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": MvrecParser.task.monitor,
                "checkpoint.save_last": True,
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse with the checkpoint's values as defaults: flag > config > checkpoint > default."""
        request: Request = args
        settings, arguments = request.settings, request.arguments
        subparser = self.parser_of(request.command)
        set_file_defaults(subparser, request.from_files)
        defaults = subparser.get_defaults(skip_validation=True)
        data_entry = last_value(settings, "data")
        shown_only = any(name.startswith("--print_config") or name.endswith(".help") for name, _ in flags(arguments))
        if data_entry is None and defaults.get("data") is None and not shown_only:
            raise UserError(missing_data(request.command, settings))
        if (
            data_entry is not None and defaults.get("data") is None
        ):  # a config before the flag may have arguments for it
            path = class_path_of(data_entry)
            if path is not None and resolve(path) is not None:
                try:
                    subparser.set_defaults({"data": {"class_path": path}})
                    defaults = subparser.get_defaults()
                except (TypeError, ValueError):
                    raise UserError(f"{data_entry.place}: {path} is not a LightningDataModule") from None
        classes = {"model": {"class_path": path_of(request.task)}}  # whose types say more than the parser's keys
        check_values(settings, check_keys(defaults.keys(), settings, defaults=defaults.as_dict(), fixed=classes))
        self.plan = request.plan
        self.config = parser.parse_args([request.command, *with_deep_nulls(subparser, arguments)])
        self.input_size = fit_to_data(self.config[request.command], settings, request.from_files)
        wrap_own_network(self.config[request.command])
        MvrecParser.settings = [*settings, *self.input_size.filled]

    def before_instantiate_classes(self) -> None:
        """Decide the run directory."""
        config = self.config[self.subcommand]
        with refusals(MvrecParser.settings):
            check_trainer(config.trainer, str(self.subcommand))
        self.run_dir = at_home(config.run_dir or default_run_dir(config))
        config.checkpoint.mode = chosen_mode(MvrecParser.settings, config.checkpoint.monitor)
        if config.get("ckpt_path") not in (None, *CHECKPOINT_KEYWORDS):
            config.model.weights = None  # the checkpoint has its own; the run's first file may be gone
        self.checkpoint_dir = at_home(config.checkpoint.dirpath or self.run_dir / "checkpoints")
        if config.trainer.limit_val_batches == 0 and config.checkpoint.monitor == MvrecParser.task.monitor:
            config.checkpoint.monitor = None  # nothing will be measured: the newest checkpoint is the best there is
        parser = self.parser_of(str(self.subcommand))
        parser.callback_keys = [key for key in parser.callback_keys if key != "checkpoint"]  # see `run_checkpoints`
        if config.trainer.fast_dev_run:
            config.trainer.enable_checkpointing = False  # it would save, though nothing is logged

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add progress, seeding and the CSV metrics that every run has."""
        config = self.config_init[self.subcommand].trainer
        settings = self.config[self.subcommand]
        filename = "metrics.csv" if self.subcommand == "fit" else f"metrics_{self.subcommand}.csv"
        loggers = config.get("logger")
        more = loggers if isinstance(loggers, list) else [loggers] if isinstance(loggers, Logger) else []
        throughput = Throughput()
        user_callbacks = _as_list(config.get("callbacks"))
        checkpoint_settings = self.config_init[self.subcommand].checkpoint
        keeps = config.get("enable_checkpointing") is not False
        saving = run_checkpoints(checkpoint_settings, self.checkpoint_dir, user_callbacks) if keeps else []
        callbacks = [throughput, SeedEveryStep(settings.seed_everything)]
        if self.subcommand == "fit":
            callbacks += [
                SharedState(self.run_dir),
                NonFiniteGuard(self.run_dir / "non_finite"),
                ExactPosition(),
                Resume(self.run_dir),
                EndReason(),
            ]
        if config.get("enable_progress_bar") is not False:
            callbacks.append(BarProgress(throughput) if sys.stdout.isatty() else LineProgress(throughput))
        if self.subcommand == "fit" and not config.get("fast_dev_run"):
            end = on_own_clock(job_end_time(os.environ))
            minutes = settings.save_every_minutes
            callbacks.append(Preemption(self.checkpoint_dir, save_every_minutes=minutes, end_time=end))
        # The last checkpoint comes first: at the end of training, averaging callbacks put averages for the weights.
        # Before it only the watchdog, which must know of a hook when another callback hangs in it.
        first: list[Callback] = [Watchdog(60 * settings.hang_timeout_minutes)]
        if self.subcommand == "fit":
            first.append(RunRecord(self.run_dir, fresh=self._is_fresh()))
            first += [FinalCheckpoint(callback) for callback in saving if isinstance(callback, BestAndLast)]
        config["callbacks"] = [*first, *user_callbacks, *callbacks, *saving]
        loggers = [MetricsCsv(self.run_dir, filename), *more]
        path = self.config[self.subcommand].ckpt_path
        is_file = path is not None and path not in CHECKPOINT_KEYWORDS
        self.checkpoint_files = CheckpointFiles(read_weights(path) if is_file else None)
        plugins = [*_as_list(config.get("plugins")), self.checkpoint_files]
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
            plugins.append(SLURMEnvironment(auto_requeue=False))  # see Preemption
        precision = chosen_precision(config.get("precision"), accelerator=str(config.get("accelerator")))
        kwargs = {"default_root_dir": config.get("default_root_dir") or str(self.run_dir), **kwargs}
        return super().instantiate_trainer(logger=loggers, plugins=plugins, precision=precision, **kwargs)

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; their refusals are the user's to fix."""
        with refusals(MvrecParser.settings):
            super().instantiate_classes()

    def after_instantiate_classes(self) -> None:
        """Limit threads, pass the seed to the data, and record in the checkpoint how model and data are built."""
        limit_threads(self.trainer.num_devices)
        for line in self.input_size.overrides:
            log.info("%s", line)
        if self.plan is not None:
            config, settings = self.config[self.subcommand], MvrecParser.settings
            parts = {"task": self.model, "trainer": self.trainer, "run_dir": self.run_dir}
            log.info("%s", plan_text(self.plan, config=config, settings=settings, **parts))
        config = self.config[self.subcommand]
        if getattr(self.datamodule, "seed", 0) is None:
            self.datamodule.seed = config.seed_everything
        portable = without_own_paths(config, self.run_dir)
        plain = yaml.safe_load(self.parser_of(str(self.subcommand)).dump(portable, skip_none=False))
        self.model.run_record = {"config": plain, "parts": own_files(plain)}
        origin = {"weights": None, "_instantiator": INSTANTIATOR, "_class_path": path_of(MvrecParser.task)}
        self.model.save_hyperparameters({**flattened(plain)["model"], **origin})
        self.datamodule.save_hyperparameters(plain["data"])

    def run_command(self, command: str) -> None:
        """Exit with the code that says how to continue if the run was asked to end."""
        forget_files()
        try:
            super().run_command(command)
        except PreemptedError as preempted:
            sys.exit(requeue(os.environ) if preempted.level == REQUEUE else stop_exit())
        except SystemExit as leaving:  # Lightning turns Ctrl-C into exit code 1
            sys.exit(INTERRUPT_EXIT if isinstance(leaving.__context__, KeyboardInterrupt) else leaving.code)
        except UserError as raised:
            raise UserError(said_of_key(str(raised), MvrecParser.settings)) from None
        except REFUSALS as raised:
            if not refused_by_lightning(raised):
                raise
            raise UserError(reason(raised)) from None
        finally:
            requests.restore()
            for lock in reversed(self.locks):
                lock.release()

    def command_arguments(self, command: str) -> dict[str, Any]:
        """Return the arguments without Lightning's table, which our score line replaces."""
        arguments = super().command_arguments(command)
        return {**arguments, "verbose": False} if "verbose" in arguments else arguments

    def before_fit(self) -> None:
        """Lock the run's directories for this process, so that two runs do not mix."""
        if drop_layer_sync(self.trainer.strategy) and self.trainer.world_size > 1:
            log.warning("trainer.sync_batchnorm needs GPUs: each process computes its batch norms from its own files")
        resumed = self.checkpoint_files.read
        check_resume(self.model.run_record["config"], resumed)
        check_averaging(self.trainer, resumed.content if resumed else None, path=resumed.source if resumed else "")
        if self.trainer.is_global_zero and not self.config[self.subcommand].trainer.fast_dev_run:
            self.locks = lock_run(self.run_dir, self.checkpoint_dir, fresh=self._is_fresh())

    def _is_fresh(self) -> bool:
        config = self.config[self.subcommand]
        return config.ckpt_path is None and not config.trainer.fast_dev_run


def run(args: list[str]) -> MvrecCLI:
    """Parse and run `fit`, `validate`, `test` or `predict`.

    Args:
        args: The sub-command and its arguments.

    Raises:
        UserError: Bad input that shows only during the run.
    """
    return build(MvrecCLI, args)


class InstantiatedCLI(MvrecCLI):
    """Builds data, model and trainer, and runs nothing."""

    def run_command(self, command: str) -> None:
        """Do nothing."""


class SilentCLI(InstantiatedCLI):
    """The same, without a word about a plan."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and forget the plan after its settings are in."""
        super().parse_arguments(parser, args)
        self.plan = None


def instantiate(args: list[str], *, tells_plan: bool = True) -> MvrecCLI:
    """Build what `run` would run: data module, model and trainer.

    Args:
        args: The sub-command and its arguments.
        tells_plan: Whether to log the plan of a run that only its folder describes, with its expected time.

    Raises:
        UserError: Bad input.
    """
    return build(InstantiatedCLI if tells_plan else SilentCLI, args)


def build(kind: type[MvrecCLI], args: list[str]) -> MvrecCLI:
    """Build a command line of one kind, which runs on construction."""
    configure_output()
    check_processes(os.environ)
    for name in data.__all__:  # jsonargparse knows by their bare names only the classes that are loaded
        getattr(data, name)
    check_early(args)
    with each_file_once():
        request: Any = read_request(args)  # which `parse_arguments` takes
        MvrecParser.command, MvrecParser.settings, MvrecParser.task = request.command, request.settings, request.task
        return kind(
            request.task,
            LightningDataModule,
            subclass_mode_data=True,
            seed_everything_default=0,
            parser_class=MvrecParser,
            parser_kwargs={"prog": "mvrec"},
            save_config_callback=SaveConfig,
            trainer_defaults=TRAINER_DEFAULTS,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=request,
        )


def configure_output() -> None:
    """Configure messages: ours as plain lines on stderr (INFO from rank 0 only), and Lightning's on request."""
    show_lightning_messages()
    # Lightning calls jsonargparse by names that it has deprecated.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    # Lightning's tree utilities use a class that torch has deprecated.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
    # What we log at the end of an epoch is the same on all processes already.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\(.*sync_dist=True")
    # Frozen layers stay in evaluation mode on purpose.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
    # A recipe with this callback stores averaged weights on purpose.
    warnings.filterwarnings("ignore", message=r"You're using the WeightAveraging callback")
    warnings.filterwarnings("ignore", message=r"Be aware that when using `?ckpt_path")
    # `Throughput` lowers the interval then.
    warnings.filterwarnings("ignore", message=r"The number of training batches \(\d+\) is smaller than the logging")
    # A run without Slurm on a machine of a cluster is fine; `launch_check` refuses launches that are not.
    warnings.filterwarnings("ignore", message=r"The `srun` command is available on your system but is not used")
    warnings.filterwarnings("ignore", message=r"`max_epochs` was not set")  # `check_trainer` says so
    # They lie in a run's directory, next to those of the run itself.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    show_messages()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
