"""A classifier in training, for Lightning."""

from typing import Any

from gatewise.tasks.classify.data import Batch, ClassifyData
from gatewise.tasks.classify.model import Classifier, loss
from gatewise.tasks.classify.sequences import listed
from gatewise.tasks.classify.settings import ClassifySettings
from gatewise.tasks.trainee import Step, Trainee


class ClassifyTrainee(Trainee):
    """A classifier in training: Lightning's view of it."""

    also = ("accuracy",)
    model: Classifier
    data: ClassifyData

    def __init__(self, model: Classifier, data: ClassifyData, settings: ClassifySettings) -> None:
        super().__init__(model, data, settings)
        self.terms = f"{model.facts.per}s"

    def loss(self, batch: Batch, state: Any) -> Step:
        mean, right, count = loss(self.model(batch.x, batch.lengths), batch.y)
        return Step(mean, count, also={"accuracy": right})

    def data_line(self) -> str:
        data, facts = self.data, self.data.facts
        left_out = f" (left out, no numbers: {listed(data.learned.left_out)})" if data.learned.left_out else ""
        held_out = f", {len(data.held_out_part):,} held out" if data.held_out_part is not None else ""
        parts = (data.learned, data.held_out_part, data.test)
        steps = [len(x) for part in parts if part is not None for x in part.x]
        lengths = f"{min(steps)} to {max(steps)} steps" if min(steps) < max(steps) else f"{steps[0]} steps"
        clocks = "".join(
            f"\n       {name} rises in every sequence: if it is a clock, --time {name}" for name in data.learned.rising
        )
        return (
            f"data   {data.settings.source or 'given'}: {len(data.learned):,} sequences to learn{held_out},"
            f" {len(data.test):,} to test, of {lengths}\n"
            f"       {len(facts.features)} features: {listed(facts.features)}{left_out}\n"
            f"       {len(facts.labels)} classes, one a {facts.per}: {listed(facts.labels)}{clocks}"
        )
