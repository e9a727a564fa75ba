"""Heads on the maps of a network for the classes of the data, and their facts in files."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvrec.data.listing.class_names import comparable, known_class_names
from mvrec.errors import UserError
from mvrec.models.backbone import Backbone, MapsHead
from mvrec.models.checkpoints.files import read_weights
from mvrec.tasks.outputs import task_of
from mvrec.tasks.start import Start

KEY = "head"  # of the head's arguments among a file's facts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MapsHeads:
    """The heads of a task that reads a network's maps: how one is made, kept, and found again in a file.

    Attributes:
        task: Name of the task.
        make: Returns an untrained head for a network, a number of classes and arguments, or raises `UserError`.
        have_same_tensors: Whether the weights of an earlier head are those of a new one.
        verb: What a network with such a head does, for messages: "segments".
        nouns: What it answers with: "classes".
        need: What weights must do, for messages, so that their head can be taken over.
    """

    task: str
    make: Callable[[Backbone, int, Mapping[str, Any]], MapsHead]
    have_same_tensors: Callable[[Any, Any], bool]
    verb: str
    nouns: str
    need: str

    def fit(
        self,
        backbone: Backbone,
        names: Sequence[str],
        start: Start,
        *,
        arguments: Mapping[str, Any],
        new_head: bool | None,
        training: bool,
    ) -> Sequence[str] | None:
        """Give the network a head for the data's classes, and log where it comes from.

        Args:
            backbone: The network, whose weights have been loaded.
            names: The data's classes in label order.
            start: The network's weights.
            arguments: Those of the head.
            new_head: Whether the head starts untrained; `None` keeps that of weights with the same classes.
            training: Whether the head is to be trained; else that of weights is kept whatever `arguments` say.

        Returns:
            The classes of a head that is kept, in its order; `None` for a new one.
        """
        earlier, head = backbone.head, self.make(backbone, len(names), arguments)
        saved = start.details.get("class_names") if isinstance(earlier, type(head)) else None
        if saved is not None and not new_head and (not training or self.have_same_tensors(earlier, head)):
            saved_names, data_names = (set(each) for each in comparable(saved, names))
            if saved_names == data_names:
                log.info("%s %s the same %d %s: its head is kept", start.weights, self.verb, len(names), self.nouns)
                if training:  # with the arguments of this run
                    head.load_state_dict(earlier.state_dict())
                    backbone.place_head(head, len(names))
                return list(saved)
        if new_head is False:
            raise UserError(f"model.new_head false needs model.weights that {self.need}")
        backbone.place_head(head, len(names))
        if start.weights is not None:
            text = "the backbone starts from %s, the head for %d %s untrained"
            log.info(text, start.weights, len(names), self.nouns)
        return None

    def take_from_weights(self, backbone: Backbone, weights: str) -> None:
        """Give a network the head of a file of weights if it is of this task, so that all of it can be loaded."""
        details = read_weights(weights).details
        if task_of(details) == self.task:
            self.restore(backbone, details, source=weights)

    def restore(
        self, backbone: Backbone, details: Mapping[str, Any], *, source: str, classes: str | None = None
    ) -> tuple[str, ...]:
        """Give a network the head that a file describes; return its class names.

        Args:
            backbone: The network.
            details: The file's facts.
            source: The file, for messages.
            classes: The value of `--classes`: other names.

        Raises:
            UserError: The file lacks the facts of its head, or the names are more or fewer.
        """
        names, arguments = details.get("class_names"), details.get(KEY)
        if not names or not isinstance(arguments, Mapping):
            raise UserError(f"{source} does not say the {self.nouns} and the head of its network")
        class_names = names if classes is None else known_class_names(classes)
        if len(class_names) != len(names):
            count = f"{source} {self.verb} {len(names)} {self.nouns}"
            raise UserError(f"--classes={classes}: {len(class_names)} names, {count}")
        backbone.place_head(self.make(backbone, len(names), arguments), len(names))
        return tuple(class_names)
