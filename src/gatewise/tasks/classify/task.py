"""The task `classify`, and runs of it read back."""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import gatewise
from gatewise.tasks.classify.data import ClassifyData, read
from gatewise.tasks.classify.model import Classifier
from gatewise.tasks.classify.sequences import Facts, Sequences
from gatewise.tasks.classify.settings import ClassifySettings
from gatewise.tasks.task import Task

if TYPE_CHECKING:
    from gatewise.tasks.classify.training import ClassifyTrainee
    from gatewise.tasks.fit import Result

CONFUSION = "confusion.png"
CONFUSION_CSV = "confusion.csv"
PREDICTIONS = "predictions.csv"


class ClassifyTask(Task[ClassifySettings, ClassifyData, Classifier]):
    """Labels for sequences, or for their steps."""

    name = "classify"
    Settings = ClassifySettings
    facts_file = "classes.json"
    report = "report.txt"

    def read(self, settings: ClassifySettings, data_dir: Path | None) -> ClassifyData:
        return read(settings.data)

    def facts(self, data: ClassifyData) -> dict[str, Any]:
        return asdict(data.facts)

    def build(self, cell: "gatewise.Graph", facts: Any, settings: ClassifySettings) -> Classifier:
        return Classifier(cell, Facts.from_dict(facts), **settings.model.sizes())

    def trainee(self, model: Classifier, data: ClassifyData, settings: ClassifySettings) -> "ClassifyTrainee":
        from gatewise.tasks.classify.training import ClassifyTrainee

        return ClassifyTrainee(model, data, settings)

    def misfit(self, model: Classifier, data: ClassifyData) -> str | None:
        return None if model.facts == data.facts else "what is kept of them (labels, features, their statistics)"

    def title(self, model: Classifier, settings: ClassifySettings) -> str:
        return f"{'bidirectional ' if model.layer.bidirectional else ''}{super().title(model, settings)}"

    def finish(self, result: "Result", model: Classifier, data: ClassifyData, settings: ClassifySettings) -> None:
        from gatewise.tasks.classify import metrics, plot

        run, facts = result.run, model.facts
        found = model.predict_proba(data.test)
        truth, predicted = _flat(facts.targets(data.test)), _flat([p.argmax(-1) for p in found])
        scores = metrics.scores(truth, predicted, facts.labels)
        epoch = int(result.best["epoch"]) if data.held_out_part is not None else int(result.history[-1]["epoch"])
        run.write(PREDICTIONS, predictions(model, data.test, found))
        run.write(CONFUSION_CSV, metrics.as_csv(scores))
        run.write(CONFUSION, plot.confusion(scores, self.title(model, settings), f"{facts.per}s"))
        run.write(self.report, _report(scores, data, epoch))


TASK = ClassifyTask()
fit, train, resume, load = TASK.fit, TASK.train, TASK.resume, TASK.load


def _flat(items: list[Tensor]) -> Tensor:
    return torch.cat([item.reshape(-1) for item in items])


def _report(scores: Any, data: ClassifyData, epoch: int) -> str:
    from gatewise.tasks.classify.metrics import interval, table

    per, of = data.facts.per, f"{scores.right:,} of {scores.count:,}"
    if per == "sequence":  # steps of one sequence are not independent, and have no such interval
        low, high = interval(scores.right, scores.count)
        of += f", 95 % interval {100 * low:.1f} to {100 * high:.1f}"
    how = "the best epoch by the held-out ones" if data.held_out_part is not None else "the last epoch"
    where = f"{data.settings.source or 'given data'}: {len(data.test):,} test sequences"
    return (
        f"{where}, judged once, after {how}, {epoch}\n\n"
        f"accuracy  {100 * scores.accuracy:5.1f} %  ({of})\n"
        f"macro F1  {100 * scores.macro_f1:5.1f} %\n"
        f"naming the most frequent class always  {100 * scores.most_frequent:.1f} %\n\n"
        f"{table(scores, f'{per}s')}\n"
    )


def predictions(model: Classifier, sequences: Sequences, found: list[Tensor] | None = None) -> str:
    """Labels and probabilities as CSV, a line for each sequence, or for each step where steps have labels.

    The columns: `sequence`; `step` from 1, where steps have labels; `label`, where the sequences have any;
    `predicted`; and a probability for each class, `p CLASS`.

    Args:
        model: the classifier.
        sequences: what it labels.
        found: its probabilities, if they are there already.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labels = model.facts.labels
    step, label = (["step"] if model.facts.per == "step" else []), (["label"] if sequences.y is not None else [])
    writer.writerow(["sequence", *step, *label, "predicted", *(f"p {name}" for name in labels)])
    found = model.predict_proba(sequences) if found is None else found
    for k, (name, p) in enumerate(zip(sequences.names, found, strict=True)):
        truth = None if sequences.y is None else sequences.y[k]
        for place, row in _rows(p):
            true = [] if truth is None else [truth[place - 1] if isinstance(truth, list) else truth]
            shares = [f"{value:.6f}" for value in row.tolist()]
            writer.writerow([name, *([place] if step else []), *true, labels[int(row.argmax())], *shares])
    return text.getvalue()


def _rows(p: Tensor) -> Iterator[tuple[int, Tensor]]:
    return enumerate(p if p.dim() == 2 else p.unsqueeze(0), start=1)


def read_for(path: str | os.PathLike[str], source: str) -> Sequences:
    """New sequences from a file, with the columns of the run in `path`; their labels may be others than it learned.

    Raises:
        InputError: there is no such run or file, a column is missing, or a value cannot be used.
    """
    from gatewise.tasks.classify.sources import read_new

    run = TASK.open(path)
    facts = Facts.from_dict(TASK.facts_of(run))
    return read_new(source, TASK.settings_of(run).data, facts)
