"""Labelled sequences made ready for training: split, standardised, in batches."""

import hashlib
import os
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gatewise.errors import InputError
from gatewise.tasks.batches import InOrder, Shuffled
from gatewise.tasks.classify import sources
from gatewise.tasks.classify.sequences import Facts, Sequences
from gatewise.tasks.classify.settings import DataSettings

NO_LABEL = -100  # of the steps behind a sequence's end; cross_entropy passes it over


class Batch(NamedTuple):
    """Sequences side by side.

    Args:
        x: (T, B, I) standardised steps, zeros behind each sequence's end.
        lengths: (B,) int64, on the CPU or where x is.
        y: (B,) classes of the sequences, or (T, B) of the steps, `NO_LABEL` behind each end.
    """

    x: Tensor
    lengths: Tensor
    y: Tensor


class ClassifyData:
    """Sequences to learn, to choose the best epoch by, and for the final test.

    Args:
        given: the labelled sequences.
        test: those of the test; or the share that is split off for it, by sequences, so that each class keeps its
            share; None takes the share of the settings.
        settings: how they are split; keyword arguments do the same: `ClassifyData(given, holdout=0.2, batch=32)`.
            See `DataSettings` for their names and meanings.

    Raises:
        InputError: there are too few sequences or labels, a label of the test or of the held-out part is not
            learned, or a setting is out of its range.
    """

    def __init__(
        self,
        given: Sequences,
        test: Sequences | float | str | None = None,
        settings: DataSettings | None = None,
        **choices: Any,
    ) -> None:
        if test is not None and not isinstance(test, Sequences):
            choices["test"], test = str(test), None
        if settings is None:
            settings = DataSettings(**{"source": "", **choices})
        elif choices:
            raise TypeError(f"give settings or keyword arguments, not both; got {', '.join(choices)} besides settings")
        if given.y is None:
            raise InputError("the sequences to learn have no labels: give y")
        self.settings = settings
        self.sha256 = hashlib.sha256(
            "".join(part.sha256() for part in (given, test) if part is not None).encode()
        ).hexdigest()
        if test is None:
            if settings.test_share is None:
                raise InputError(f"test must be a share where no test sequences are given; got {settings.test!r}")
            given, test = split(given, settings.test_share, settings.split_seed)
        self.learned, self.held_out_part = given, None
        if settings.holdout:
            self.learned, self.held_out_part = split(given, settings.holdout, settings.split_seed + 1)
        self.test = test
        self.facts = Facts.of(self.learned)
        self._learned = Samples(self.learned, self.facts)
        self._held_out = Samples(self.held_out_part, self.facts) if self.held_out_part is not None else None
        self.facts.targets(test)  # a label that was not learned is refused here, before any work is done
        self.facts.inputs(test)

    def training(self, seed: int = 0, rank: int = 0, world: int = 1) -> Shuffled[Batch]:
        """The batches to learn from, in another order in each epoch."""
        samples = self._learned
        return Shuffled(len(samples), self.settings.batch, samples.batch, seed=seed, rank=rank, world=world)

    def held_out(self) -> InOrder[Batch] | None:
        """The batches that tell the best epoch, or None where nothing is held out."""
        samples = self._held_out
        return None if samples is None else InOrder(len(samples), self.settings.batch, samples.batch)


def read(source: str | os.PathLike[str] | DataSettings = "japanese-vowels", **choices: Any) -> ClassifyData:
    """The data of a source: `read("sensors.csv", sequence="recording", label="activity")`.

    Args:
        source: `"japanese-vowels"`, `"digits"`, or the path of a CSV, Parquet or .ts file; or settings, with all
            choices in them.
        choices: how it is read and split; see `DataSettings` for their names and meanings.

    Raises:
        InputError: there is no such file, or it cannot be used.
        MissingPackageError: a package that brings or reads the data is not installed.
    """
    settings = source if isinstance(source, DataSettings) else _settings(source, choices)
    if settings is source and choices:
        raise TypeError(f"give settings or keyword arguments, not both; got {', '.join(choices)} besides settings")
    given, test = sources.read(settings)
    return ClassifyData(given, test, settings)


def _settings(source: str | os.PathLike[str], choices: dict[str, Any]) -> DataSettings:
    """Choices as Python has them: a share is a number, features are a list or one name, files are paths."""
    if (test := choices.get("test")) is not None:
        choices["test"] = str(test)
    if (names := choices.get("features")) is not None:
        choices["features"] = (names,) if isinstance(names, str) else tuple(names)
    return DataSettings(source=os.fspath(source), **choices)


class Samples:
    """Standardised sequences with their classes.

    Args:
        sequences: with labels.
        facts: of those that are learned.
    """

    def __init__(self, sequences: Sequences, facts: Facts) -> None:
        self.x, self.y = facts.inputs(sequences), facts.targets(sequences)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> Batch:
        """The sequences of the numbers `indices` (B,), side by side."""
        chosen = indices.tolist()
        x, lengths = padded([self.x[i] for i in chosen])
        y = [self.y[i] for i in chosen]
        return Batch(x, lengths, pad_sequence(y, padding_value=NO_LABEL) if y[0].dim() else torch.stack(y))


def padded(sequences: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Sequences (T, I) side by side, (T, B, I) with zeros behind each end, and their lengths (B,)."""
    return pad_sequence(sequences), torch.tensor([len(steps) for steps in sequences])


def split(sequences: Sequences, share: float, seed: int) -> tuple[Sequences, Sequences]:
    """Split a share of the sequences off, by chance, so that each class keeps its share.

    Every 1/share-th sequence is taken from a list that is ordered by class and shuffled within; a class with a
    single sequence keeps it. Where steps have labels, sequences have no class.

    Args:
        sequences: with labels.
        share: above 0 and below 1.
        seed: of the shuffling.

    Returns:
        The rest and the share, each in the order of `sequences`.

    Raises:
        InputError: the share is no sequence, or all.
    """
    random = torch.Generator().manual_seed(seed)
    classes = [y if isinstance(y, str) else "" for y in sequences.y or ()]
    sizes = Counter(classes)
    shuffled = torch.randperm(len(sequences), generator=random).tolist()
    ordered = sorted((i for i in shuffled if sizes[classes[i]] > 1), key=classes.__getitem__)
    count = round(share * len(sequences))
    if not 0 < count < len(ordered):
        raise InputError(
            f"a share of {share} of {len(sequences)} sequences is {count}, and as many must be split off and left over:"
            " give more sequences, or another share"
        )
    start = float(torch.rand((), generator=random))
    chosen = {ordered[int((k + start) * len(ordered) / count)] for k in range(count)}
    rest = [i for i in range(len(sequences)) if i not in chosen]
    return sequences.take(rest), sequences.take(sorted(chosen))
