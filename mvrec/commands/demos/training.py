"""The part that all demos share: options, training, tests, and what to tell about them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvrec.cli.lightning import MvrecCLI, run
from mvrec.files import at_home
from mvrec.messages import CommandParser
from mvrec.recipes import find_config


@dataclass(frozen=True)
class Trained:
    """A demo's run.

    Attributes:
        fit: The training.
        arguments: Those of training and tests.
        minutes: Time that training took, with validation.
    """

    fit: MvrecCLI
    arguments: list[str]
    minutes: float

    @property
    def checkpoint(self) -> str:
        """The file of the weights with the best validation."""
        return str(self.fit.run_dir / "checkpoints/best.ckpt")

    @property
    def parameters(self) -> int:
        """Number of the network's parameters."""
        return sum(parameter.numel() for parameter in self.fit.model.backbone.parameters())

    def test(self, *flags: str) -> MvrecCLI:
        """Test these weights, with further flags."""
        return run(["test", *self.arguments, "--ckpt_path", self.checkpoint, *flags])

    def text(self, network: str) -> str:
        """Tell the size of a network of this name, and how long it was trained."""
        epochs = self.fit.trainer.max_epochs
        size = f"{network} of {self.parameters / 1e6:.2f} M parameters"
        return f"trained {size} for {epochs} epochs in {self.minutes:.1f} minutes"


def train(config: str, run_dir: Path, overrides: Sequence[str]) -> Trained:
    """Train with a configuration, by name or path, into a folder."""
    arguments = ["--config", find_config(config), "--run_dir", str(run_dir), *overrides]
    begin = time.monotonic()
    fit = run(["fit", *arguments])
    return Trained(fit, arguments, (time.monotonic() - begin) / 60)


def train_by_options(name: str, description: str | None, arguments: Sequence[str]) -> Trained:
    """Train as the arguments of a demo's command say.

    Args:
        name: The command's; its configuration and folder are called so, too.
        description: For its help.
        arguments: `--config`, `--run_dir`, and flags of the configuration.
    """
    config = name.replace("-", "_")
    parser = CommandParser(prog=f"mvrec {name}", description=description)
    parser.add_argument("--config", default=config, help="the run's configuration (default: %(default)s)")
    parser.add_argument("--run_dir", type=at_home, default=Path("runs", config), help="default: %(default)s")
    options, overrides = parser.parse_known_args(arguments)
    return train(options.config, options.run_dir, overrides)
