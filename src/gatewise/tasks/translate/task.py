"""The task `translate`."""

from pathlib import Path
from typing import TYPE_CHECKING

import gatewise
from gatewise.errors import require
from gatewise.tasks.task import Task
from gatewise.tasks.translate.data import Cutter, Language, PairData, read
from gatewise.tasks.translate.model import Translator
from gatewise.tasks.translate.report import report
from gatewise.tasks.translate.scores import judge
from gatewise.tasks.translate.settings import DataSettings, TranslateSettings
from gatewise.tasks.translate.translation import check, translations

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result
    from gatewise.tasks.translate.training import TranslateTrainee

PICTURE = "attention.png"


class TranslateTask(Task[TranslateSettings, PairData, Translator]):
    """Translation, sentence by sentence."""

    name = "translate"
    Settings = TranslateSettings
    facts_file = "vocabularies.json"
    report = "translations.txt"

    def read(self, settings: TranslateSettings, data_dir: Path | None) -> PairData:
        require("sacrebleu", extra="translate")  # needed at the end, better told now
        return PairData(read(settings.data.source, settings.data.pairs, data_dir), settings.data)

    def facts(self, data: PairData) -> dict[str, list[str]]:
        return {"source": data.source.tokens, "target": data.target.tokens}

    def build(self, cell: "gatewise.Graph", facts: dict[str, list[str]], settings: TranslateSettings) -> Translator:
        source, target = (Language(facts[side], cutter) for side, cutter in cutters(settings.data).items())
        return Translator(cell, source, target, settings.data.longest, **settings.model.sizes())

    def trainee(self, model: Translator, data: PairData, settings: TranslateSettings) -> "TranslateTrainee":
        from gatewise.tasks.translate.training import TranslateTrainee

        return TranslateTrainee(model, data, settings)

    def misfit(self, model: Translator, data: PairData) -> str | None:
        if self.facts(data) != {"source": model.source.tokens, "target": model.target.tokens}:
            return "the vocabulary"
        return None if model.longest == data.settings.longest else "longest"

    def checked(self, settings: TranslateSettings, data: PairData) -> TranslateSettings:
        """The settings; a sample that is too long is refused here."""
        for text in settings.sample.sources:
            check(data.source, text, data.source.cutter.split(text), settings.data.longest, unknown=True)
        return settings

    def finish(self, result: "Result", model: Translator, data: PairData, settings: TranslateSettings) -> None:
        judged = judge(model, data.held_out) if data.held_out else None
        samples = translations(model, settings.sample.sources, unknown=True)
        some = samples if judged is None else judged.translations[:50]
        if some and some[0].weights is not None:
            from gatewise.tasks.translate.plot import attention_map

            drawn = max(some, key=lambda translation: len(translation.source))
            result.run.write(PICTURE, attention_map(drawn))
        result.run.write(self.report, report(samples, settings.sample, data.target.cutter, judged))


def cutters(settings: DataSettings) -> dict[str, Cutter]:
    """How each side is cut."""
    kinds = {"source": settings.tokens, "target": settings.target_tokens or settings.tokens}
    return {side: Cutter(kind, settings.lower) for side, kind in kinds.items()}


TASK = TranslateTask()
fit, train, resume, load = TASK.fit, TASK.train, TASK.resume, TASK.load
