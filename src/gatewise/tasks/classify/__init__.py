"""Labels for sequences, or for each of their steps: data, model, training, prediction.

    from gatewise.tasks import classify

    data = classify.read("sensors.csv", sequence="recording", label="activity")
    model = classify.Classifier("gru", data, hidden_size=64, bidirectional=True)
    result = classify.fit(model, data, epochs=60, lr=3e-3, out="runs/mine")
    print(result.run.report.read_text())
    print(classify.load("runs/mine").predict([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]]))    # (T, I) for each sequence

`gatewise train classify` and `gatewise classify` are a skin over these names.
"""

from typing import TYPE_CHECKING

from gatewise.lazy import lazy

if TYPE_CHECKING:
    from gatewise.tasks.classify.data import ClassifyData, read
    from gatewise.tasks.classify.model import Classifier
    from gatewise.tasks.classify.sequences import Facts, Sequences
    from gatewise.tasks.classify.settings import ClassifySettings
    from gatewise.tasks.classify.task import fit, load, predictions, read_for, resume, train

__all__ = [
    "Classifier",
    "ClassifyData",
    "ClassifySettings",
    "Facts",
    "Sequences",
    "fit",
    "load",
    "predictions",
    "read",
    "read_for",
    "resume",
    "train",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "data": ("ClassifyData", "read"),
        "model": ("Classifier",),
        "sequences": ("Facts", "Sequences"),
        "settings": ("ClassifySettings",),
        "task": ("fit", "load", "predictions", "read_for", "resume", "train"),
    },
    {"task": ("safetensors",)},
)
