"""What can be chosen for a translator, its defaults, and the recipes.

Free of torch, so that the command line can show the defaults without loading it.
"""

from dataclasses import dataclass, field

from gatewise.errors import InputError, choose
from gatewise.tasks.settings import FitSettings, LayerSettings, TaskSettings, positive, share

TOKENS = ("words", "pieces", "characters")
ATTENTIONS = ("additive", "none")
INITS = ("torch", "xavier")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which pairs are read, and how they are cut into tokens.

    Args:
        source: `"timetable"`, `"fra-eng"`, or the path of a file with a pair a line, source, tab, target.
        pairs: how many, from the front; None for all of a file, and for as many as the task makes by default.
        tokens: `"words"`, `"pieces"` or `"characters"`; see `data.Cutter`.
        target_tokens: the same for the target; None for the source's.
        lower: words and pieces in lower case.
        least: a token that occurs less often among the pairs to learn is `<unk>`.
        longest: pairs with a sentence of more tokens than this are left out, `<eos>` counted.
        batch: B, pairs side by side.
        holdout: the share of the source sentences that is kept for validation; 0 for none.

    Raises:
        InputError: a value is out of its range.
    """

    source: str = "timetable"
    pairs: int | None = None
    tokens: str = "words"
    target_tokens: str | None = None
    lower: bool = True
    least: int = 1
    longest: int = 50
    batch: int = 64
    holdout: float = 0.1

    def __post_init__(self) -> None:
        choose("tokens", self.tokens, TOKENS)
        if self.target_tokens is not None:
            choose("target-tokens", self.target_tokens, TOKENS)
        if self.pairs is not None:
            positive("pairs", self.pairs)
        positive("least", self.least)
        positive("batch", self.batch)
        share("holdout", self.holdout)
        if self.longest < 2:
            raise InputError(f"longest must be 2 (a word and <eos>) or more; got {self.longest}")


@dataclass(frozen=True, kw_only=True)
class ModelSettings(LayerSettings):
    """The network: an encoder and a decoder of the same cell and sizes.

    Args:
        cell, hidden_size, num_layers, dropout: see `LayerSettings`; attention's weights are dropped, too.
        embedding_size: E, numbers that stand for a token.
        attention: `"additive"`, or `"none"`: the encoder's last state is the context at every step.
        init: first weights as `"torch"` draws them, or `"xavier"`: the matrices of layers by Glorot's rule.

    Raises:
        InputError: a value is out of its range.
    """

    hidden_size: int = 128
    embedding_size: int = 64
    attention: str = "additive"
    init: str = "torch"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("embedding", self.embedding_size)
        choose("attention", self.attention, ATTENTIONS)
        choose("init", self.init, INITS)


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """What the model is asked to translate at the end.

    Args:
        sources: the sentences; empty takes some that were held out.
        references: a right translation of each.
    """

    sources: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class TranslateSettings(TaskSettings):
    """All choices of one training."""

    data: DataSettings = field(default_factory=lambda: TranslateSettings.default("data"))
    model: ModelSettings = field(default_factory=lambda: TranslateSettings.default("model"))
    fit: FitSettings = field(default_factory=lambda: TranslateSettings.default("fit"))
    sample: SampleSettings = field(default_factory=SampleSettings)

    FLAGS = {
        **TaskSettings.FLAGS,
        "data": ("data", "source"),
        "pairs": ("data", "pairs"),
        "tokens": ("data", "tokens"),
        "target-tokens": ("data", "target_tokens"),
        "lower": ("data", "lower"),
        "least": ("data", "least"),
        "longest": ("data", "longest"),
        "batch": ("data", "batch"),
        "holdout": ("data", "holdout"),
        "embedding": ("model", "embedding_size"),
        "attention": ("model", "attention"),
        "init": ("model", "init"),
    }
    DEFAULTS = {"data": {"tokens": "pieces", "holdout": 0.25}, "fit": {"lr": 3e-3, "epochs": 10}}
    # d2l.ai, release 0.17, sections 9.7 (without attention) and 10.4 (with); the same networks are 10.7 and 11.4 in
    # release 1.0, whose sizes are others.
    RECIPES = {
        "d2l": {
            "data": {"source": "fra-eng", "pairs": 600, "least": 2, "longest": 10, "batch": 64, "holdout": 0.0},
            "model": {"embedding_size": 32, "hidden_size": 32, "num_layers": 2, "dropout": 0.1, "init": "xavier"},
            "fit": {"lr": 5e-3, "clip": 1.0, "epochs": 300},
            "sample": {
                "sources": ("go .", "i lost .", "he's calm .", "i'm home ."),
                "references": ("va !", "j'ai perdu .", "il est calme .", "je suis chez moi ."),
            },
        }
    }
