"""Labelled sequences of unequal lengths, and what a model must know of them."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from gatewise.errors import InputError, choose, string
from gatewise.tasks.classify.settings import PERS


class Sequences:
    """Sequences of unequal lengths: with a label each, with a label for each step, or without.

    Args:
        x: for each sequence its steps: (T, I) numbers, or (T,) for one feature; T is at least 1.
        y: None; or a label for each sequence; or for each sequence T labels. Labels are strings or numbers, and
            are strings from here on.
        names: of the sequences; `"1"`, `"2"`, … if None.
        features: names of the I features; `"x1"`, `"x2"`, … if None.
        left_out: columns of their file that are not read, since they hold no numbers.
        rising: features that rise from step to step in every sequence, as a clock does.

    Raises:
        InputError: a sequence is empty, has another number of features or labels, or holds NaN or infinity.
    """

    def __init__(
        self,
        x: Iterable[Any],
        y: Iterable[Any] | None = None,
        names: Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        left_out: Sequence[str] = (),
        rising: Sequence[str] = (),
    ) -> None:
        self.x = [_steps(steps) for steps in x]
        self.names = [str(k + 1) for k in range(len(self.x))] if names is None else [str(name) for name in names]
        size = self.x[0].shape[1] if self.x else 0
        self.features = [f"x{i + 1}" for i in range(size)] if features is None else [str(name) for name in features]
        self.left_out, self.rising = list(left_out), list(rising)
        for name, steps in zip(self.names, self.x, strict=True):
            self._check(name, steps)
        self.y: list[str] | list[list[str]] | None = None
        if y is not None:
            self.y = self._labels(_plain(y))

    def _check(self, name: str, steps: Tensor) -> None:
        if steps.dim() != 2 or steps.shape[1] != len(self.features):
            raise InputError(
                f"sequence {name} has shape {tuple(steps.shape)}, expected (steps, {len(self.features)}) for the"
                f" features {listed(self.features)}"
            )
        if not len(steps):
            raise InputError(f"sequence {name} is empty: leave it out, since there is nothing to read")
        if not steps.isfinite().all():
            t, i = (~steps.isfinite()).nonzero()[0].tolist()
            raise InputError(
                f"sequence {name}, step {t + 1}: {self.features[i]} is {steps[t, i].item()}, expected a finite number:"
                " fill the gap, or leave the step or the sequence out"
            )

    def _labels(self, y: list[Any]) -> list[str] | list[list[str]]:
        if len(y) != len(self.x):
            raise InputError(f"there are {len(y)} labels for {len(self.x)} sequences, expected one for each")
        if not y or not isinstance(y[0], list | tuple):
            return [_label(label, f"sequence {name}") for name, label in zip(self.names, y, strict=True)]
        for name, steps, labels in zip(self.names, self.x, y, strict=True):
            if len(steps) != len(labels):
                raise InputError(f"sequence {name} has {len(steps)} steps and {len(labels)} labels, expected as many")
        return [
            [_label(label, f"sequence {name}, step {t + 1}") for t, label in enumerate(labels)]
            for name, labels in zip(self.names, y, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def per(self) -> str | None:
        """What has a label, `"sequence"` or `"step"`; None without labels."""
        if self.y is None:
            return None
        return "step" if self.y and isinstance(self.y[0], list) else "sequence"

    @property
    def all_labels(self) -> list[str]:
        """The labels one after the other, step by step where steps have them."""
        return [label for item in self.y or () for label in (item if isinstance(item, list) else [item])]

    def take(self, indices: Iterable[int]) -> "Sequences":
        """Some of the sequences, in the order of `indices`."""
        taken = Sequences((), features=self.features, left_out=self.left_out, rising=self.rising)
        indices = list(indices)
        taken.x, taken.names = [self.x[i] for i in indices], [self.names[i] for i in indices]
        taken.y = None if self.y is None else [self.y[i] for i in indices]  # type: ignore[assignment]  # of one kind
        return taken

    def sha256(self) -> str:
        """A number that tells these sequences from others: of values, labels, and the names of the features."""
        digest = hashlib.sha256(repr((self.features, self.y, [len(steps) for steps in self.x])).encode())
        for steps in self.x:
            digest.update(steps.contiguous().numpy().tobytes())
        return digest.hexdigest()


def _steps(steps: Any) -> Tensor:
    tensor = torch.as_tensor(steps, dtype=torch.float64).detach().cpu()
    return tensor.unsqueeze(1) if tensor.dim() == 1 else tensor


def _plain(values: Iterable[Any]) -> list[Any]:
    """Lists of Python's own values, of arrays and tensors too."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return [item.tolist() if hasattr(item, "tolist") else item for item in values]


def _label(label: Any, where: str) -> str:
    """A label as text; the number 3.0 is 3, since arrays of whole numbers with a gap hold floats."""
    if label is None or label != label or label == "":
        raise InputError(f"{where} has no label: fill it in, or leave the rows out")
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


@dataclass(frozen=True)
class Facts:
    """What a model must know to read sequences and to name their classes.

    Args:
        labels: the C classes.
        features: the I features, in the order of the inputs.
        mean, std: of each feature over the steps that were learned, (I,) each.
        per: `"sequence"` or `"step"`, what has a label.
    """

    labels: list[str]
    features: list[str]
    mean: list[float]
    std: list[float]
    per: str

    @classmethod
    def of(cls, learned: Sequences) -> "Facts":
        """The facts of the sequences that are learned.

        Raises:
            InputError: they have fewer than two different labels.
        """
        labels = _sorted(set(learned.all_labels))
        if len(labels) < 2:
            raise InputError(
                f"the sequences to learn have {f'one label, {labels[0]!r}' if labels else 'no labels'}, expected two"
                " different ones at least"
            )
        steps = torch.cat(learned.x)
        std = steps.std(0, correction=0)
        # A feature that never changes has rounding errors for a spread; it is left at zero, and so without effect.
        std = torch.where(std > 1e-12 * steps.abs().amax(0), std, torch.ones_like(std))
        return cls(labels, learned.features, steps.mean(0).tolist(), std.tolist(), learned.per or "sequence")

    @classmethod
    def from_dict(cls, values: Any) -> "Facts":
        """The facts as `dataclasses.asdict` gave them.

        Raises:
            InputError: they are something else.
        """
        try:
            facts = cls(**{name.name: values[name.name] for name in fields(cls)})
            facts._check()
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the classes of the run are damaged ({error}): restore the folder, or train anew"
            ) from error
        return facts

    def _check(self) -> None:
        for names in (self.labels, self.features):
            if not isinstance(names, list) or len(set(map(string, names))) < len(names):
                raise ValueError("expected a list of different names")
        if len(self.labels) < 2 or not len(self.features) == len(self.mean) == len(self.std) > 0:
            raise ValueError("of unequal sizes, or empty")
        if not all(map(math.isfinite, self.mean)) or not all(0 < std < math.inf for std in self.std):
            raise ValueError("a mean is not finite, or a standard deviation not above 0")
        choose("per", self.per, PERS)

    def inputs(self, sequences: Sequences) -> list[Tensor]:
        """Standardised steps, a float32 (T, I) for each sequence.

        The standardising is done in float64: a float32 has no digits left for small changes of large values.

        Raises:
            InputError: the features are others.
        """
        if len(sequences.features) != len(self.features):
            raise InputError(
                f"the sequences have {len(sequences.features)} features, {listed(sequences.features)}; the model was"
                f" trained on {len(self.features)}, {listed(self.features)}"
            )
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std))
        return [((steps - mean) / std).float() for steps in sequences.x]

    def targets(self, sequences: Sequences) -> list[Tensor]:
        """The labels as numbers, for each sequence () or (T,), int64.

        Raises:
            InputError: a label was not learned, or they are of the other kind.
        """
        if sequences.y is None or sequences.per != self.per:
            kind = "no labels" if sequences.per is None else f"a label per {sequences.per}"
            raise InputError(f"the sequences have {kind}, expected one per {self.per}")
        number = {label: k for k, label in enumerate(self.labels)}
        unseen = _sorted(set(sequences.all_labels) - number.keys())
        if unseen:
            whose = zip(sequences.names, sequences.y, strict=True)
            name = next(name for name, y in whose if unseen[0] in (y if isinstance(y, list) else [y]))
            raise InputError(
                f"no sequence to learn has the label {listed([repr(label) for label in unseen])} (sequence {name} has"
                f" {unseen[0]!r}); those learned are {listed([repr(label) for label in self.labels])}"
            )
        return [torch.tensor([number[label] for label in y] if isinstance(y, list) else number[y]) for y in sequences.y]


def _sorted(labels: Iterable[str]) -> list[str]:
    """Labels in the order of their numbers, where all are numbers; as text where they are not, or 1 and 1.0."""
    labels = sorted(labels)
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return labels
    return labels if any(map(math.isnan, numbers)) else sorted(labels, key=float)


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names with commas, not too many of them."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
