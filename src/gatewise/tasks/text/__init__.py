"""A language model over characters: data, model, training, generation.

    from gatewise.tasks import text

    data = text.TextData(text.read("python-docs"), steps=64, batch=64)
    model = text.LanguageModel("gru", data.vocabulary, hidden_size=256)
    result = text.fit(model, data, epochs=10, lr=3e-3, out="runs/mine")
    print(result.history[-1]["held_out_perplexity"])
    print(text.generate(model, "The ", 300, temperature=0.5, seed=0))

`gatewise train text` and `gatewise generate` are a skin over these names.
"""

from typing import TYPE_CHECKING

from gatewise.lazy import lazy

if TYPE_CHECKING:
    from gatewise.tasks.text.data import TextData, Vocabulary, read
    from gatewise.tasks.text.model import LanguageModel, generate, stream
    from gatewise.tasks.text.settings import TextSettings
    from gatewise.tasks.text.task import fit, load, resume, train
    from gatewise.tasks.text.windows import Window, Windows

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

__getattr__, __dir__ = lazy(
    __name__,
    {
        "data": ("TextData", "Vocabulary", "read"),
        "model": ("LanguageModel", "generate", "stream"),
        "settings": ("TextSettings",),
        "task": ("fit", "load", "resume", "train"),
        "windows": ("Window", "Windows"),
    },
    needs={"task": ("safetensors",)},
)
