"""What can be chosen for a classifier of sequences, and its defaults.

Free of torch, so that the command line can show the defaults without loading it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gatewise.errors import InputError, choose
from gatewise.tasks.settings import FitSettings, LayerSettings, TaskSettings, check_seed, positive, share

PERS = ("sequence", "step")
READS = ("rows", "pixels")
POOLS = ("last", "mean")
BUILT_IN = ("japanese-vowels", "digits")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which labelled sequences are read, and which of them are learned.

    Args:
        source: `"japanese-vowels"`, `"digits"`, or the path of a CSV or Parquet file with one row a step.
        test: the sequences of the final test: the path of a second file, or the share of the sequences that is
            split off; None takes the test part of japanese-vowels, and else a fifth.
        sequence: the file's column that names the sequence of each row.
        time: the column that orders the rows of a sequence; None takes `time` where there is one, else the
            order of the file.
        label: the column of the labels.
        features: the columns to read; empty takes all others that hold numbers. One with a cell that holds
            something else is refused.
        per: `"sequence"`, one label for each sequence, or `"step"`, one for each of its steps.
        read: how `digits` are read: row by row (8 steps of 8) or pixel by pixel (64 steps of 1).
        holdout: the share of the sequences to learn that is not learned but tells the best epoch; 0 for none.
        split_seed: of the splits. The same split for every `seed`, so that trainings can be compared.
        batch: B, sequences side by side in one step of the optimizer.

    Raises:
        InputError: a value is out of its range.
    """

    source: str = "japanese-vowels"
    test: str | None = None
    sequence: str = "sequence"
    time: str | None = None
    label: str = "label"
    features: tuple[str, ...] = ()
    per: str = "sequence"
    read: str = "rows"
    holdout: float = 0.0
    split_seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        choose("per", self.per, PERS)
        choose("read", self.read, READS)
        positive("batch", self.batch)
        for name in self.features:
            if name in (self.sequence, self.label) or self.features.count(name) > 1:
                taken = "has been given before" if self.features.count(name) > 1 else "names the sequence or the label"
                raise InputError(f"--features {name} {taken}: leave it out")
        check_seed(self.split_seed)
        share("holdout", self.holdout)
        if (part := self.test_share) is not None and not 0 < part < 1:
            raise InputError(f"test must be a share above 0 and below 1, or a file; got {self.test}")

    @property
    def test_share(self) -> float | None:
        """The share of the sequences that is split off for the test; None where `test` is a file."""
        try:
            return 0.2 if self.test is None else float(self.test)
        except ValueError:
            return None


@dataclass(frozen=True, kw_only=True)
class ModelSettings(LayerSettings):
    """The network: recurrent layers over the steps, and a linear layer to the classes.

    Args:
        bidirectional: a second set of units reads each sequence from its end.
        pool: what of the outputs is classified, where there is one label for each sequence: the `"last"` state
            of each direction, or the `"mean"` over the steps.
        noise: standard deviation of the Gaussian noise that is added to the standardised inputs in training.
        And those of `LayerSettings`: cell, hidden_size, num_layers, dropout.

    Raises:
        InputError: a value is out of its range.
    """

    hidden_size: int = 64
    bidirectional: bool = True
    pool: str = "last"
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("pool", self.pool, POOLS)
        if not 0 <= self.noise < float("inf"):
            raise InputError(f"noise must be 0 (none) or more; got {self.noise}")


@dataclass(frozen=True)
class ClassifySettings(TaskSettings):
    """All choices of one training."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=lambda: ModelSettings(**ClassifySettings.DEFAULTS["model"]))
    fit: FitSettings = field(default_factory=lambda: FitSettings(**ClassifySettings.DEFAULTS["fit"]))

    FLAGS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "data": ("data", "source"),
        "test": ("data", "test"),
        "sequence": ("data", "sequence"),
        "time": ("data", "time"),
        "label": ("data", "label"),
        "features": ("data", "features"),
        "per": ("data", "per"),
        "read": ("data", "read"),
        "holdout": ("data", "holdout"),
        "split-seed": ("data", "split_seed"),
        "batch": ("data", "batch"),
        "bidirectional": ("model", "bidirectional"),
        "pool": ("model", "pool"),
        "noise": ("model", "noise"),
        **TaskSettings.FLAGS,
    }
    # Chosen by cross-validation within the 270 training sequences of japanese-vowels: see docs/classify.md.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "model": {"hidden_size": 128, "noise": 0.6},
        "fit": {"lr": 3e-3, "schedule": "linear", "epochs": 100},
    }
