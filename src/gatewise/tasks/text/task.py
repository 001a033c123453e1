"""The task `text`, and runs of it read back."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gatewise
from gatewise.tasks.task import Task
from gatewise.tasks.text.data import TextData, Vocabulary, read
from gatewise.tasks.text.model import LanguageModel, continuations
from gatewise.tasks.text.settings import TextSettings

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result
    from gatewise.tasks.text.training import TextTrainee


class TextTask(Task[TextSettings, TextData, LanguageModel]):
    """A language model over characters."""

    name = "text"
    Settings = TextSettings
    facts_file = "vocabulary.json"
    report = "sample.txt"
    metric = "perplexity"

    def read(self, settings: TextSettings, data_dir: Path | None) -> TextData:
        return TextData(read(settings.data.source, data_dir), settings.data)

    def facts(self, data: TextData) -> list[str]:
        return data.vocabulary.tokens

    def build(self, cell: "gatewise.Graph", facts: list[str], settings: TextSettings) -> LanguageModel:
        return LanguageModel(cell, Vocabulary(facts), **settings.model.sizes())

    def trainee(self, model: LanguageModel, data: TextData, settings: TextSettings) -> "TextTrainee":
        from gatewise.tasks.text.training import TextTrainee

        return TextTrainee(model, data, settings)

    def misfit(self, model: LanguageModel, data: TextData) -> str | None:
        return None if model.vocabulary.tokens == data.vocabulary.tokens else "the vocabulary"

    def checked(self, settings: TextSettings, data: TextData) -> TextSettings:
        """The settings, with a prompt and with prompts that can be read."""
        sample = replace(settings.sample, prompts=settings.sample.prompts or (data.opening(),))
        for prompt in sample.prompts:
            data.vocabulary.encode(prompt)
        return replace(settings, sample=sample)

    def finish(self, result: "Result", model: LanguageModel, data: TextData, settings: TextSettings) -> None:
        result.run.write(self.report, "\n\n".join(continuations(model, settings.sample)) + "\n")


TASK = TextTask()
fit, train, resume, load = TASK.fit, TASK.train, TASK.resume, TASK.load


def prompt_of(path: str | os.PathLike[str]) -> str:
    """The first prompt that the run itself continues."""
    return TASK.settings_of(TASK.open(path)).sample.prompts[0]
