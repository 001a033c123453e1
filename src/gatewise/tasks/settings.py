"""The settings that every task shares: how a model is trained, a layer's sizes, and how a task's settings are made.

Free of torch, as a task's own settings are, so that the command line can show the defaults without loading it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from gatewise.errors import InputError, choose

OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
ACCELERATORS = ("auto", "cpu", "gpu")
SCHEDULES = ("constant", "linear")
MOST_THREADS = 1024  # some thousands more, and the process is killed where they can't be started


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a model is trained.

    Args:
        optimizer: `"adam"`, `"adamw"`, `"rmsprop"` or `"sgd"`, each as in `torch.optim`.
        lr: learning rate.
        schedule: `"constant"`, or `"linear"`: in epoch k of K the rate is lr (1 - (k - 1) / K), so that the last epochs
            settle what the first ones found. A raised limit goes on at the rate that it would have there.
        clip: the gradients' norm over all parameters is clipped to this; 0 leaves them alone.
        epochs: passes over the training data, or None for no limit.
        minutes: training stops at the end of the first epoch after so many minutes, those of earlier
            sittings of a resumed run included; None for no limit. With both, the first limit ends it.
        seed: of the order of the data and of dropout.
        precision: as Lightning's Trainer names it.
        devices: how many devices share each batch (Lightning's DDP for more than one).
        accelerator: `"auto"` takes a GPU where there is one.
        threads: of the CPU, for each device. Sums depend on it in their last bits, so it belongs to the run; and
            a network of a few hundred units gains little by a second one, but loses much on a busy machine.

    Raises:
        InputError: a value is out of its range, or neither limit is given.
    """

    optimizer: str = "adam"
    lr: float = 1e-3
    schedule: str = "constant"
    clip: float = 1.0
    epochs: int | None = None
    minutes: float | None = None
    seed: int = 0
    precision: str = "32-true"
    devices: int = 1
    accelerator: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        choose("optimizer", self.optimizer, OPTIMIZERS)
        choose("schedule", self.schedule, SCHEDULES)
        choose("precision", self.precision, PRECISIONS)
        choose("accelerator", self.accelerator, ACCELERATORS)
        positive("lr", self.lr)
        positive("devices", self.devices)
        positive("threads", self.threads)
        if self.threads > MOST_THREADS:
            raise InputError(f"threads must be at most {MOST_THREADS}; got {self.threads}")
        if not self.clip >= 0:
            raise InputError(f"clip must be 0 (none) or more; got {self.clip}")
        if self.epochs is None and self.minutes is None:
            raise InputError("give epochs or minutes, else training would never end")
        if self.schedule == "linear" and self.epochs is None:
            raise InputError("a linear schedule ends with the last epoch: give epochs too, or take schedule constant")
        if self.epochs is not None:
            positive("epochs", self.epochs)
        if self.minutes is not None:
            positive("minutes", self.minutes)
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """The recurrent layers of a model.

    Args:
        cell: the cell's name, or `FILE.py:NAME`.
        hidden_size: H, the state's units.
        num_layers: L, layers on top of each other.
        dropout: the share of units dropped between layers (not after the last), as in torch.

    Raises:
        InputError: a value is out of its range.
    """

    cell: str = "gru"
    hidden_size: int = 256
    num_layers: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        positive("hidden", self.hidden_size)
        positive("layers", self.num_layers)
        share("dropout", self.dropout)
        if self.dropout and self.num_layers == 1:
            raise InputError("dropout acts between layers and there is one: add --layers 2, or leave --dropout out")

    @classmethod
    def of_layer(cls, layer: Any, **others: Any) -> Self:
        """The settings of which a layer with the same parameters can be built; `others` are the task's own."""
        sizes = {field.name: getattr(layer, field.name) for field in fields(LayerSettings) if field.name != "cell"}
        return cls(cell=layer.cell.name, **sizes, **others)

    def sizes(self) -> dict[str, Any]:
        """All but the cell's name, for a model whose cell is given."""
        return {name: value for name, value in asdict(self).items() if name != "cell"}


@dataclass(frozen=True)
class TaskSettings:
    """All choices of one training, in sections. A task derives from it and adds its own sections and tables.

    Each field is a section, a frozen dataclass whose own defaults are those of the Python API; `data`, `model` and
    `fit` are always there. The tables, on the class:

    `FLAGS`: the command line's flags, and the section and field in which each one's value lives;
    `DEFAULTS`: by section, what the command line starts from where that is not the dataclass's default;
    `RECIPES`: by name and section, what a recipe puts in place of `DEFAULTS`.
    """

    data: Any
    model: Any
    fit: FitSettings

    FLAGS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "cell": ("model", "cell"),
        "hidden": ("model", "hidden_size"),
        "layers": ("model", "num_layers"),
        "dropout": ("model", "dropout"),
        "optimizer": ("fit", "optimizer"),
        "lr": ("fit", "lr"),
        "schedule": ("fit", "schedule"),
        "clip": ("fit", "clip"),
        "epochs": ("fit", "epochs"),
        "minutes": ("fit", "minutes"),
        "seed": ("fit", "seed"),
        "precision": ("fit", "precision"),
        "devices": ("fit", "devices"),
        "accelerator": ("fit", "accelerator"),
        "threads": ("fit", "threads"),
    }
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    RECIPES: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {}

    @classmethod
    def of(cls, recipe: str | None = None, **flags: Any) -> Self:
        """The defaults, changed by a recipe, changed by flags.

        Args:
            recipe: a name in `RECIPES`, or None.
            flags: values by the names of the command line (`FLAGS`); one that is None counts as not given.

        Raises:
            InputError: there is no such recipe, or a value is out of its range.
        """
        if recipe is not None:
            choose("recipe", recipe, tuple(cls.RECIPES))
        begin = cls.DEFAULTS if recipe is None else cls.RECIPES[recipe]
        given = cls.given(flags)
        values = {section.name: dict(begin.get(section.name, {})) for section in fields(cls)}
        if recipe is None:
            values["fit"] = cls._limited(values["fit"], given)
        cls.adjust(values, given, recipe)
        for flag, value in given.items():
            section, name = cls.FLAGS[flag]
            values[section][name] = value
        return cls._from(values)

    @classmethod
    def given(cls, flags: Mapping[str, Any]) -> dict[str, Any]:
        """The flags that are not None, by their names in `FLAGS`, also for `split_seed`; lists as tuples.

        Raises:
            TypeError: there is no such flag.
        """
        found = {}
        for name, value in flags.items():
            flag = name.replace("_", "-")
            if flag not in cls.FLAGS:
                raise TypeError(f"{cls.__name__}: there is no choice {name!r}, expected one of {', '.join(cls.FLAGS)}")
            if value is not None:
                found[flag] = tuple(value) if isinstance(value, list) else value
        return found

    @classmethod
    def adjust(cls, values: dict[str, dict[str, Any]], given: Mapping[str, Any], recipe: str | None) -> None:
        """Change the defaults in `values`, by section, where they do not go with the flags that were given."""
        if given.get("layers") == 1:
            values["model"].pop("dropout", None)  # there is nothing between one layer

    @classmethod
    def default(cls, section: str) -> Any:
        """A section as the command line begins with it."""
        return get_type_hints(cls)[section](**cls.DEFAULTS.get(section, {}))

    @classmethod
    def fit_settings(cls, **given: Any) -> FitSettings:
        """`FitSettings` with the defaults of this task; minutes without epochs take the place of the default epochs."""
        return FitSettings(**{**cls._limited(cls.DEFAULTS.get("fit", {}), given), **given})

    @staticmethod
    def _limited(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults of training, where minutes alone are given: nobody knows then which epoch is the last."""
        if given.get("minutes") is None or given.get("epochs") is not None:
            return dict(defaults)
        return {**defaults, "epochs": None, "schedule": "constant"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings from what `to_dict` gave (the sections; other keys are passed over).

        Raises:
            InputError: a value is out of its range.
            TypeError, KeyError: a section or a name is unknown or absent.
        """
        sections = {section.name: values[section.name] for section in fields(cls)}
        return cls._from(  # JSON has no tuples
            {
                section: {name: tuple(value) if isinstance(value, list) else value for name, value in named.items()}
                for section, named in sections.items()
            }
        )

    @classmethod
    def _from(cls, values: Mapping[str, Mapping[str, Any]]) -> Self:
        types = get_type_hints(cls)
        for section, named in values.items():
            kinds = get_type_hints(types[section])
            for name, value in named.items():
                if name in kinds and not _is(value, kinds[name]):
                    raise TypeError(f"{section}.{name} is {value!r}")
        return cls(**{section: types[section](**named) for section, named in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for JSON."""
        return asdict(self)

    def flag(self, name: str) -> Any:
        """The value behind a flag of the command line."""
        section, field_name = self.FLAGS[name]
        return getattr(getattr(self, section), field_name)


def _is(value: Any, kind: Any) -> bool:
    """Whether a value has a type as the settings' fields have them: str, int, float, bool, tuples, and unions."""
    if get_origin(kind) in (Union, UnionType):
        return any(_is(value, part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(item, get_args(kind)[0]) for item in value)
    if isinstance(value, bool):  # which is an int for Python
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def share(what: str, value: float) -> None:
    """Check that a number is a share of a whole, from 0 to below 1.

    Raises:
        InputError: it is not.
    """
    if not 0 <= value < 1:
        raise InputError(f"{what} must be a share from 0 to below 1; got {value}")


def check_seed(seed: int) -> None:
    """Check that torch's generators take a number as their seed.

    Raises:
        InputError: it is negative or has more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be from 0 to 2**63 - 1; got {seed}")


def positive(what: str, value: float) -> None:
    """Check that a number is above zero and finite; a size or a count is below 2**31, too.

    Raises:
        InputError: it is not.
    """
    most = 2**31 if isinstance(value, int) else math.inf
    if not 0 < value < most:
        raise InputError(f"{what} must be above 0{f' and below {most}' if value > 0 else ''}; got {value}")
