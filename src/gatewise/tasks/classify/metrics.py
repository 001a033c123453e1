"""How well classes are told apart: accuracy, precision, recall, F1, and who is taken for whom."""

import csv
import io
import math
from dataclasses import dataclass

from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)


@dataclass(frozen=True)
class Scores:
    """What predictions are worth.

    Args:
        labels: the C classes.
        confusion: (C, C) counts, a row for each true class, a column for each predicted one.
        precision, recall, f1: (C,), 0 where there is nothing to divide by.
        macro_f1: the mean F1 of the classes that occur, in truth or in the predictions.
    """

    labels: list[str]
    confusion: Tensor
    precision: Tensor
    recall: Tensor
    f1: Tensor
    macro_f1: float

    @property
    def count(self) -> int:
        """How many were judged."""
        return int(self.confusion.sum())

    @property
    def right(self) -> int:
        """How many are right."""
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return self.right / self.count

    @property
    def most_frequent(self) -> float:
        """The accuracy of naming the most frequent class always."""
        return int(self.confusion.sum(1).max()) / self.count


def scores(truth: Tensor, predicted: Tensor, labels: list[str]) -> Scores:
    """Judge predictions.

    Args:
        truth, predicted: (N,) classes as numbers, N at least 1.
        labels: the C classes' names.
    """
    classes = max(2, len(labels))
    each = {"num_classes": classes, "average": "none"}
    return Scores(
        labels,
        multiclass_confusion_matrix(predicted, truth, classes),
        multiclass_precision(predicted, truth, **each),  # type: ignore[arg-type]
        multiclass_recall(predicted, truth, **each),  # type: ignore[arg-type]
        multiclass_f1_score(predicted, truth, **each),  # type: ignore[arg-type]
        float(multiclass_f1_score(predicted, truth, classes, average="macro")),
    )


def interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The interval in which the true accuracy lies with 95 % confidence, if the judged ones are independent.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209-212.
    """
    share, weight = right / count, z * z / count
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    return (share + weight / 2 - half) / (1 + weight), (share + weight / 2 + half) / (1 + weight)


def table(scores: Scores, what: str) -> str:
    """The classes in a table: precision, recall, F1, and what they are taken for most often.

    Args:
        scores: of the predictions.
        what: is counted, `"sequences"` or `"steps"`.
    """
    width = max(5, *(len(label) for label in scores.labels))
    lines = [f"{'class':<{width}}  {what:>9}  precision  recall     F1  mostly taken for"]
    for k, label in enumerate(scores.labels):
        row = scores.confusion[k].clone()
        count, row[k] = int(row.sum()), 0
        other = f"{scores.labels[int(row.argmax())]} ({int(row.max())})" if row.any() else ""
        shares = f"{100 * scores.precision[k]:9.1f}  {100 * scores.recall[k]:6.1f}  {100 * scores.f1[k]:5.1f}"
        lines.append(f"{label:<{width}}  {count:9,}  {shares}  {other}".rstrip())
    return "\n".join(lines)


def as_csv(scores: Scores) -> str:
    """The confusion matrix as CSV: a row for each true class, a column for each predicted one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *scores.labels])
    writer.writerows([label, *row] for label, row in zip(scores.labels, scores.confusion.tolist(), strict=True))
    return text.getvalue()
