"""A language model over characters: data, model, training, generation.

    from gatewise.tasks import text

    data = text.TextData(text.read("python-docs"), steps=64, batch=64)
    model = text.LanguageModel("gru", data.vocabulary, hidden_size=256)
    result = text.fit(model, data, epochs=10, lr=3e-3, out="runs/mine")
    print(result.history[-1]["held_out_perplexity"])
    print(text.generate(model, "The ", 300, temperature=0.5, seed=0))

`gatewise train text` and `gatewise generate` are a skin over these names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gatewise.tasks.errors import require

if TYPE_CHECKING:
    from gatewise.tasks.text.data import TextData, Vocabulary, read
    from gatewise.tasks.text.model import LanguageModel, generate, stream
    from gatewise.tasks.text.saved import load
    from gatewise.tasks.text.settings import TextSettings
    from gatewise.tasks.text.training import fit, resume, train
    from gatewise.tasks.text.windows import Window, Windows

# Loaded at first use: the command line reads the settings alone, and Lightning takes seconds to import.
_HOME = {
    "TextData": "data",
    "Vocabulary": "data",
    "read": "data",
    "LanguageModel": "model",
    "generate": "model",
    "stream": "model",
    "TextSettings": "settings",
    "fit": "training",
    "load": "saved",
    "resume": "training",
    "train": "training",
    "Window": "windows",
    "Windows": "windows",
}

_NEEDS = {"saved": ("safetensors",), "training": ("lightning", "matplotlib", "rich", "safetensors")}

__all__ = [
    "LanguageModel",
    "TextData",
    "TextSettings",
    "Vocabulary",
    "Window",
    "Windows",
    "fit",
    "generate",
    "load",
    "read",
    "resume",
    "stream",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        require(*_NEEDS.get(_HOME[name], ()))
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
