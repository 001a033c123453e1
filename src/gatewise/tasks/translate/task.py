"""The task `translate`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import gatewise
from gatewise.tasks.batches import check_shares
from gatewise.tasks.errors import InputError, require
from gatewise.tasks.run import write
from gatewise.tasks.task import Task
from gatewise.tasks.translate.bleu import Judged, bleu, judge, sacrebleu, words
from gatewise.tasks.translate.data import Cutter, Language, PairData, read
from gatewise.tasks.translate.model import Translator
from gatewise.tasks.translate.settings import DataSettings, ModelSettings, SampleSettings, TranslateSettings
from gatewise.tasks.translate.translation import Translation, translations

if TYPE_CHECKING:
    from gatewise.tasks.fit import Result
    from gatewise.tasks.translate.training import TranslateTrainee

PICTURE = "attention.png"
SHOWN = 5  # held-out sentences in the report, and mistakes


class TranslateTask(Task[TranslateSettings, PairData, Translator]):
    """Translation, sentence by sentence."""

    name = "translate"
    Settings = TranslateSettings
    facts_file = "vocabularies.json"
    report = "translations.txt"

    def read(self, settings: TranslateSettings, data_dir: Path | None) -> PairData:
        require("sacrebleu")  # needed at the end, better told now
        return PairData(read(settings.data.source, settings.data.pairs, data_dir), settings.data)

    def facts(self, data: PairData) -> dict[str, list[str]]:
        return {"source": data.source.tokens, "target": data.target.tokens}

    def build(self, cell: "gatewise.Graph", facts: dict[str, list[str]], settings: TranslateSettings) -> Translator:
        sizes = asdict(settings.model)
        del sizes["cell"]  # its name; the cell itself is given
        source, target = (Language(facts[side], cutter) for side, cutter in cutters(settings.data).items())
        return Translator(cell, source, target, settings.data.longest, **sizes)

    def trainee(self, model: Translator, data: PairData, settings: TranslateSettings) -> "TranslateTrainee":
        from gatewise.tasks.translate.training import TranslateTrainee

        return TranslateTrainee(model, data, settings)

    def model_settings(self, model: Translator) -> ModelSettings:
        return model.settings()

    def checked(self, settings: TranslateSettings, data: PairData) -> TranslateSettings:
        check_shares(settings.data.batch, settings.fit.devices)
        return settings

    def finish(self, result: "Result", model: Translator, data: PairData, settings: TranslateSettings) -> None:
        judged = judge(model, data.held_out) if data.held_out else None
        samples = translations(model, settings.sample.sources, unknown=True)
        run = result.run
        drawn = samples[-1:] if judged is None else sorted(judged.translations[:50], key=lambda t: len(t.source))[-1:]
        if drawn and drawn[0].weights is not None:
            from gatewise.tasks.translate.plot import attention_map

            run.write(PICTURE, attention_map(drawn[0]))
        run.write(self.report, "\n\n".join(_report(samples, settings.sample, model, judged)) + "\n")


def cutters(settings: DataSettings) -> dict[str, Cutter]:
    """How each side is cut."""
    kinds = {"source": settings.tokens, "target": settings.target_tokens or settings.tokens}
    return {side: Cutter(kind, settings.lower) for side, kind in kinds.items()}
