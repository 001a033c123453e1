"""A translator in training."""

import torch
from torch import Tensor
from torch.nn import functional as F

from gatewise.tasks.batches import InOrder, Shuffled
from gatewise.tasks.trainee import Step, Trainee, sizes
from gatewise.tasks.translate.data import BOS, PAD, Batch, PairData, batch_of
from gatewise.tasks.translate.model import Translator
from gatewise.tasks.translate.translation import decoded


class TranslateTrainee(Trainee):
    """A translator in training: Lightning's view of it."""

    terms = "tokens"
    also = ("accuracy",)
    model: Translator
    data: PairData

    def loss(self, batch: Batch, state: None) -> Step:
        """The mean cross-entropy over the targets' own tokens, `<eos>` among them; padding counts for nothing."""
        scores = self.model(batch.source, batch.lengths, before(batch.target))
        mean, right = masked(scores, batch.target)
        return Step(mean, int(batch.target_lengths.sum()), also={"accuracy": right})

    def sample(self, length: int) -> str:
        example = (self.data.held_out or self.data.learned)[0]
        return decoded(self.model, [example.source_ids])[0].text[:length]

    def data_line(self) -> str:
        data = self.data
        held_out = f", {len(data.held_out):,} held out" if data.held_out else ""
        left_out = f", {data.left_out:,} longer ones left out" if data.left_out else ""
        return (
            f"pairs  {data.settings.source or 'given'}: {len(data.learned):,} to learn{held_out}{left_out};"
            f" {len(data.source)} and {len(data.target)} different tokens"
        )

    def describe(self) -> str:
        attention = self.model.settings().attention
        end = "without attention" if attention == "none" else f"{attention} attention"
        return f"{self.data_line()}\nmodel  encoder and decoder, each {sizes(self.model)} in all; {end}"

    def train_dataloader(self) -> Shuffled[Batch]:
        learned, trainer = self.data.learned, self.trainer
        return Shuffled(
            len(learned),
            self.data.settings.batch,
            lambda chosen: batch_of([learned[i] for i in chosen.tolist()]),
            seed=self.settings.seed,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )

    def val_dataloader(self) -> InOrder[Batch] | tuple[()]:
        held_out = self.data.held_out
        if not held_out:
            return ()
        return InOrder(
            len(held_out), self.data.settings.batch, lambda chosen: batch_of([held_out[i] for i in chosen.tolist()])
        )


def before(target: Tensor) -> Tensor:
    """What stands before each token of targets (T, B): `<bos>`, and all but the last."""
    return torch.cat((target.new_full((1, target.shape[1]), BOS), target[:-1]))


def masked(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy and the share of right tokens, each over all that is not `<pad>`.

    Args:
        scores: (T, B, V).
        target: (T, B).
    """
    loss = F.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=PAD)
    real = target != PAD
    right = (scores.argmax(2) == target) & real
    return loss, right.sum() / real.sum()
