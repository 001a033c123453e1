"""A language model in training: its loss, its metrics and its batches."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.nn import functional as F

from gatewise.tasks.text.data import TextData
from gatewise.tasks.text.model import LanguageModel, continuations
from gatewise.tasks.text.settings import TextSettings
from gatewise.tasks.text.windows import Window
from gatewise.tasks.trainee import Step, Trainee


class TextTrainee(Trainee):
    """A language model in training: Lightning's view of it."""

    terms = "characters"
    model: LanguageModel
    data: TextData

    def __init__(self, model: LanguageModel, data: TextData, settings: TextSettings) -> None:
        super().__init__(model, data, settings)
        self.examples = settings.sample

    def loss(self, batch: Window, state: Any) -> Step:
        scores, state = self.model(batch.x, None if batch.fresh else state)
        return Step(F.cross_entropy(scores.flatten(0, 1), batch.y.flatten()), batch.y.numel(), state)

    def metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Perplexity, exp of the mean cross-entropy, and bits per character, the same in powers of two."""
        loss = means["loss"]
        # A diverged training has a loss whose exp is beyond a float: that is infinity, not an error.
        return {"perplexity": math.exp(loss) if loss < 700 else math.inf, "bits_per_char": loss / math.log(2)}

    def sample(self, length: int) -> str:
        return continuations(self.model, replace(self.examples, length=min(length, self.examples.length)))[0]

    def data_line(self) -> str:
        data = self.data
        held_out = f", {len(data.held_out_text):,} held out" if data.held_out_text else ""
        return (
            f"text   {data.settings.source or 'given'}: {len(data.text):,} characters to learn{held_out},"
            f" {len(data.vocabulary)} different"
        )
