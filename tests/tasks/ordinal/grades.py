"""A task of a user's own: how bright a video is, as a grade. One folder next to its YAML; mvrec knows nothing of it.

The grades are ordered, so the network says of each but the lowest whether the video reaches it (Cheng et al. 2008,
https://arxiv.org/abs/0704.1028), and the score is by how many grades it is off.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mvrec.data.sets.folder import VideoFolder
from mvrec.data.views.targets import Target
from mvrec.files import atomic_path
from mvrec.report.markup import table
from mvrec.report.sections import Section, TaskReport, csv_rows
from mvrec.tasks.base import Task
from mvrec.tasks.outputs import Output, TaskOutputs
from mvrec.tasks.scores import MeanTally, Scores


@dataclass(frozen=True)
class GradeTarget(Target):
    noun = "a grade"

    grade: int

    @classmethod
    def batched(cls, targets):
        return torch.tensor([target.grade for target in targets])


class GradedVideos(VideoFolder):
    """Videos in folders whose names are grades: 0, 1, 2 and so on."""

    def __init__(self, root: str, *, num_grades: int, **knobs: Any) -> None:
        super().__init__(root, **knobs)
        self.num_grades = num_grades

    def target(self, row):
        return GradeTarget(int(row.label))


class Grading(Task):
    name = "grading"
    outputs = "grades.GradingOutputs"
    monitor = "val/mean_error"
    targets = (GradeTarget,)

    def build(self, data):
        self.backbone.reset_head(data.num_grades - 1)

    def loss(self, batch):
        logits = self(batch.clips).float()
        reached = batch.targets[:, None] > torch.arange(logits.shape[1])
        return {"loss": binary_cross_entropy_with_logits(logits, reached.float())}

    def tally(self):
        return GradeTally()

    def score_names(self):
        return ["val/mean_error", "val/exact"]

    def facts(self):
        return {"num_grades": self.data.num_grades}

    def take_over(self, saved):
        self.backbone.reset_head(saved["num_grades"] - 1)

    def compare(self, saved, *, training):
        assert saved["num_grades"] == self.data.num_grades

    def write_scores(self, scores, folder, stage):
        index = self.data.index("test")
        name = "predicted.csv" if stage == "predict" else "predictions.csv"
        with atomic_path(folder / name) as temporary, temporary.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "true", "grade", "error"])
            for sample, true, grade in zip(scores.sample_ids.tolist(), scores.true, scores.grades, strict=True):
                rows.writerow([index[sample].path, int(true), f"{grade:.6f}", ""])
            rows.writerows([bad.path, "", "", bad.cause] for bad in scores.failed)


class GradeTally(MeanTally):
    """Sums of how probably a video reaches each grade."""

    def values(self, outputs):
        return outputs.cpu().double().sigmoid()

    def scores(self, **extent):
        ids, means, true = self.means()
        return GradeScores(sample_ids=ids, grades=means.sum(dim=1), true=true.double(), **extent)


@dataclass(frozen=True, kw_only=True)
class GradeScores(Scores):
    """Grades (N,) next to the true ones (N,)."""

    grades: Tensor
    true: Tensor

    def metrics(self):
        off = (self.grades - self.true).abs()
        return {"mean_error": float(off.mean()), "exact": float((off < 0.5).double().mean())}


@dataclass(frozen=True)
class Grade(Output):
    value: float

    def text(self, top):
        return f"grade {self.value:.2f}"

    def cells(self, top):
        return [f"{self.value:.6f}"]

    def fields(self, top):
        return {"grade": self.value}


class GradingOutputs(TaskOutputs):
    task = "grading"

    def __init__(self, num_grades: int) -> None:
        self.num_grades = num_grades

    @classmethod
    def of_file(cls, details, network, *, source, classes=None):
        network.reset_head(details["num_grades"] - 1)
        return cls(details["num_grades"])

    def output(self, raw, weights):
        return Grade(float((weights @ raw.cpu().double().sigmoid()).sum()))

    def columns(self, top):
        return ["grade"]

    def facts(self):
        return {"num_grades": self.num_grades}

    @classmethod
    def facts_in(cls, details):
        return {"num_grades": details["num_grades"]}

    @classmethod
    def report(cls, results):
        return GradingReport(results)


class GradingReport(TaskReport):
    monitors = ("val/mean_error",)

    def sections(self, *, thumbnails, most_mistakes):
        rows = self.results.read("predictions.csv", lambda path: list(csv_rows(path))) or []
        body = [(Path(row["path"]).name, row["true"], row["grade"]) for row in rows]
        return [Section("Grades", table(("file", "true", "graded"), body))]
