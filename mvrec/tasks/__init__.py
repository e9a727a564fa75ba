"""LightningModules: a backbone with its loss, optimiser and scores."""

from mvrec.tasks.classification.task import Classification

__all__ = ["Classification"]
