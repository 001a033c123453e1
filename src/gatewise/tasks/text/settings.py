"""What can be chosen for a language model over characters, its defaults, and the recipes.

Free of torch, so that the command line can show the defaults without loading it.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from gatewise.tasks.errors import InputError, choose
from gatewise.tasks.settings import FitSettings, positive

SAMPLINGS = ("sequential", "random")
INITS = ("torch", "d2l")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which text is read, and how it is cut into windows.

    Args:
        source: `"python-docs"`, `"time-machine"`, or the path of a UTF-8 file.
        steps: T, characters in a window.
        batch: B, windows side by side.
        sampling: `"sequential"` carries the state from window to window, `"random"` shuffles the windows.
        holdout: the share at the text's end that is kept for validation; 0 for none.
        letters: keep only the letters a to z and spaces, as the d2l book does, with an unknown token.
        limit: only so many characters, from the front; None for all.

    Raises:
        InputError: a value is out of its range.
    """

    source: str = "python-docs"
    steps: int = 64
    batch: int = 32
    sampling: str = "sequential"
    holdout: float = 0.1
    letters: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        choose("sampling", self.sampling, SAMPLINGS)
        positive("steps", self.steps)
        positive("batch", self.batch)
        if not 0 <= self.holdout < 1:
            raise InputError(f"holdout must be a share from 0 to below 1; got {self.holdout}")
        if self.limit is not None:
            positive("limit", self.limit)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network: a recurrent layer on one-hot characters, and a linear layer on its output.

    Args:
        cell: the cell's name, or `FILE.py:NAME`.
        hidden_size: H, the state's units.
        num_layers: L, layers on top of each other.
        dropout: the share of units dropped between layers (not after the last), as in torch.
        bias: True for torch's two biases a gate, `"input"` for one, False for none.
        proj_size: as in torch.nn.LSTM; 0 for none.
        init: `"torch"`, or `"d2l"` for the book's networks from scratch: weights N(0, 0.01²), biases zero.

    Raises:
        InputError: a value is out of its range.
    """

    cell: str = "gru"
    hidden_size: int = 256
    num_layers: int = 1
    dropout: float = 0.0
    bias: bool | str = True
    proj_size: int = 0
    init: str = "torch"

    def __post_init__(self) -> None:
        choose("init", self.init, INITS)
        positive("hidden", self.hidden_size)
        positive("layers", self.num_layers)
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be from 0 to below 1; got {self.dropout}")
        if self.dropout and self.num_layers == 1:
            raise InputError("dropout acts between layers and there is one: add --layers 2, or leave --dropout out")


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """What the model is asked to continue, to show what it has learned.

    Args:
        prompts: the beginnings; empty takes the first words of the held-out text.
        length: characters to write.
        temperature: 0 takes the likeliest character each time; 1 draws as the model predicts.
        seed: of the drawing.
    """

    prompts: tuple[str, ...] = ()
    length: int = 400
    temperature: float = 0.5
    seed: int = 0


# The command line's flags, and where each one's value lives.
FLAGS = {
    "data": ("data", "source"),
    "holdout": ("data", "holdout"),
    "steps": ("data", "steps"),
    "batch": ("data", "batch"),
    "sampling": ("data", "sampling"),
    "cell": ("model", "cell"),
    "hidden": ("model", "hidden_size"),
    "layers": ("model", "num_layers"),
    "dropout": ("model", "dropout"),
    "init": ("model", "init"),
    "optimizer": ("fit", "optimizer"),
    "lr": ("fit", "lr"),
    "clip": ("fit", "clip"),
    "epochs": ("fit", "epochs"),
    "minutes": ("fit", "minutes"),
    "seed": ("fit", "seed"),
    "precision": ("fit", "precision"),
    "devices": ("fit", "devices"),
    "accelerator": ("fit", "accelerator"),
    "threads": ("fit", "threads"),
}

# Tuned for the held-out perplexity of the Python docs after two minutes on two cores: one layer of 256 units
# comes to 3.84 and then learns its text by heart, two of 192 with dropout come to 3.74.
MODEL_DEFAULTS: dict[str, Any] = {"hidden_size": 192, "num_layers": 2, "dropout": 0.3}
FIT_DEFAULTS: dict[str, Any] = {"lr": 4e-3, "epochs": 15}


def fit_settings(**given: Any) -> FitSettings:
    """`FitSettings` with the defaults of this task; minutes without epochs take the place of the default epochs."""
    epochs = {} if given.get("minutes") is None else {"epochs": None}
    return FitSettings(**{**FIT_DEFAULTS, **epochs, **given})


# d2l.ai, sections 9.5, 9.6, 10.1 and 10.2 (release 1.0 and the PyTorch code of 0.17).
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "d2l": {
        "data": {"source": "time-machine", "letters": True, "limit": 10_000, "steps": 35, "batch": 32, "holdout": 0.0},
        "model": {"hidden_size": 256},
        "fit": {"optimizer": "sgd", "lr": 1.0, "clip": 1.0, "epochs": 500},
        "sample": {"prompts": ("time traveller", "traveller"), "length": 50, "temperature": 0.0},
    }
}
# Of the book's networks, that one is written from scratch; its nn.GRU, nn.LSTM and nn.RNN start as torch's do.
FROM_SCRATCH = ("gru_reset_before",)


@dataclass(frozen=True)
class TextSettings:
    """All choices of one training."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=lambda: ModelSettings(**MODEL_DEFAULTS))
    fit: FitSettings = field(default_factory=fit_settings)
    sample: SampleSettings = field(default_factory=SampleSettings)

    @classmethod
    def of(cls, recipe: str | None = None, **flags: Any) -> "TextSettings":
        """The defaults, changed by a recipe, changed by flags.

        Args:
            recipe: `"d2l"`, the experiment of the book Dive into Deep Learning, or None.
            flags: values by the names of the command line (`FLAGS`); one that is None counts as not given.

        Raises:
            InputError: there is no such recipe, or a value is out of its range.
        """
        values: dict[str, dict[str, Any]] = {"data": {}, "model": {}, "fit": {}, "sample": {}}
        if recipe is None:
            values["model"].update(MODEL_DEFAULTS)
            if flags.get("layers") == 1:
                del values["model"]["dropout"]  # there is nothing between one layer
        else:
            choose("recipe", recipe, tuple(RECIPES))
            for section, changes in RECIPES[recipe].items():
                values[section].update(changes)
            if flags.get("cell") in FROM_SCRATCH:
                values["model"]["init"] = "d2l"
        for flag, value in flags.items():
            if value is not None:
                section, name = FLAGS[flag]
                values[section][name] = value
        if values["model"].get("init") == "d2l":
            values["model"]["bias"] = "input"
        sections = DataSettings(**values["data"]), ModelSettings(**values["model"])
        return cls(*sections, fit_settings(**values["fit"]), SampleSettings(**values["sample"]))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TextSettings":
        """The settings from what `to_dict` gave (the sections; other keys are passed over).

        Raises:
            InputError: a value is out of its range.
            TypeError, KeyError: a section or a name is unknown or absent.
        """
        sample = {**values["sample"], "prompts": tuple(values["sample"]["prompts"])}
        return cls(
            DataSettings(**values["data"]),
            ModelSettings(**values["model"]),
            FitSettings(**values["fit"]),
            SampleSettings(**sample),
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for JSON."""
        return asdict(self)

    def flag(self, name: str) -> Any:
        """The value behind a flag of the command line."""
        section, field_name = FLAGS[name]
        return getattr(getattr(self, section), field_name)
