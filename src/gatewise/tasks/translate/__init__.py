"""A translator, sentence by sentence: encoder, attention, decoder; data, training, search.

    from gatewise.tasks import translate

    data = translate.PairData(translate.read("pairs.tsv"), holdout=0.1)
    model = translate.Translator("gru", data.source, data.target, hidden_size=128)
    translate.fit(model, data, epochs=10, lr=3e-3, out="runs/mine")
    print(model.translate("at half past two the museum opens"))

A trained run is read back with `translate.load("runs/mine")`. `gatewise train translate` and `gatewise translate` are
a skin over these names.
"""

from typing import TYPE_CHECKING

from gatewise.lazy import lazy

if TYPE_CHECKING:
    from gatewise.tasks.translate.data import Cutter, Language, PairData, read
    from gatewise.tasks.translate.model import AdditiveAttention, Decoder, Encoder, Translator
    from gatewise.tasks.translate.plot import attention_map
    from gatewise.tasks.translate.scores import bleu, judge, sacrebleu
    from gatewise.tasks.translate.settings import TranslateSettings
    from gatewise.tasks.translate.task import fit, load, resume, train
    from gatewise.tasks.translate.translation import Translation, translations

__all__ = [
    "AdditiveAttention",
    "Cutter",
    "Decoder",
    "Encoder",
    "Language",
    "PairData",
    "TranslateSettings",
    "Translation",
    "Translator",
    "attention_map",
    "bleu",
    "fit",
    "judge",
    "load",
    "read",
    "resume",
    "sacrebleu",
    "train",
    "translations",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "scores": ("bleu", "judge", "sacrebleu"),
        "data": ("Cutter", "Language", "PairData", "read"),
        "model": ("AdditiveAttention", "Decoder", "Encoder", "Translator"),
        "plot": ("attention_map",),
        "settings": ("TranslateSettings",),
        "task": ("fit", "load", "resume", "train"),
        "translation": ("Translation", "translations"),
    },
    needs={"plot": ("matplotlib",), "task": ("safetensors",)},
)
