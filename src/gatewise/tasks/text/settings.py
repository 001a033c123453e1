"""What can be chosen for a language model over characters, its defaults, and the recipes.

Free of torch, so that the command line can show the defaults without loading it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gatewise.errors import choose
from gatewise.tasks.settings import FitSettings, LayerSettings, TaskSettings, positive, share

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
        share("holdout", self.holdout)
        if self.limit is not None:
            positive("limit", self.limit)


@dataclass(frozen=True, kw_only=True)
class ModelSettings(LayerSettings):
    """The network: a recurrent layer on one-hot characters, and a linear layer on its output.

    Args:
        cell, hidden_size, num_layers, dropout: see `LayerSettings`.
        bias: True for torch's two biases a gate, `"input"` for one, False for none.
        proj_size: as in torch.nn.LSTM; 0 for none.
        init: `"torch"`, or `"d2l"` for the book's networks from scratch: weights N(0, 0.01²), biases zero.

    Raises:
        InputError: a value is out of its range.
    """

    bias: bool | str = True
    proj_size: int = 0
    init: str = "torch"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("init", self.init, INITS)


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


# Of the book's networks, that one is written from scratch; its nn.GRU, nn.LSTM and nn.RNN start as torch's do.
FROM_SCRATCH = ("gru_reset_before",)


@dataclass(frozen=True)
class TextSettings(TaskSettings):
    """All choices of one training."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=lambda: TextSettings.default("model"))
    fit: FitSettings = field(default_factory=lambda: TextSettings.default("fit"))
    sample: SampleSettings = field(default_factory=SampleSettings)

    FLAGS = {
        **TaskSettings.FLAGS,
        "data": ("data", "source"),
        "holdout": ("data", "holdout"),
        "steps": ("data", "steps"),
        "batch": ("data", "batch"),
        "sampling": ("data", "sampling"),
        "init": ("model", "init"),
    }
    # Tuned for the held-out perplexity of the Python docs after two minutes on two cores: one layer of 256 units
    # comes to 3.84 and then learns its text by heart, two of 192 with dropout come to 3.74.
    DEFAULTS = {
        "model": {"hidden_size": 192, "num_layers": 2, "dropout": 0.3},
        "fit": {"lr": 4e-3, "epochs": 15},
    }
    # d2l.ai, sections 9.5, 9.6, 10.1 and 10.2 (release 1.0 and the PyTorch code of 0.17).
    RECIPES = {
        "d2l": {
            "data": {"source": "time-machine", "letters": True, "limit": 10_000, "holdout": 0.0}
            | {"steps": 35, "batch": 32},
            "model": {"hidden_size": 256},
            "fit": {"optimizer": "sgd", "lr": 1.0, "clip": 1.0, "epochs": 500},
            "sample": {"prompts": ("time traveller", "traveller"), "length": 50, "temperature": 0.0},
        }
    }

    @classmethod
    def adjust(cls, values: dict[str, dict[str, Any]], given: Mapping[str, Any], recipe: str | None) -> None:
        super().adjust(values, given, recipe)
        if recipe == "d2l" and given.get("cell") in FROM_SCRATCH:
            values["model"]["init"] = "d2l"
        if given.get("init", values["model"].get("init")) == "d2l":
            values["model"]["bias"] = "input"
