"""The classifier."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gatewise
from gatewise.tasks.classify.data import NO_LABEL, ClassifyData, padded
from gatewise.tasks.classify.sequences import Facts, Sequences
from gatewise.tasks.classify.settings import ModelSettings
from gatewise.tasks.find_cell import find_cell
from gatewise.tasks.models import check_layer, evaluating


class Classifier(nn.Module):
    """The class of a sequence, or of each of its steps: recurrent layers, and a linear layer to the classes.

        o_t, h_t = layer(x_t, h_{t-1})          in both directions, where there are two
        p(class) = softmax(W h_T + b)           pool = "last": the last state of each direction
        p(class) = softmax(W mean_t(o_t) + b)   pool = "mean"
        p(class of step t) = softmax(W o_t + b) where steps have labels

    Args:
        cell: a built-in cell's name or `"FILE.py:NAME"`, a `gatewise.Graph`, or a layer of gatewise that is
            time-major and takes the features as inputs.
        data: the data, or the `Facts` of the sequences that are learned.
        sizes: `pool` and `noise`; and where `cell` is no layer, `hidden_size`, `num_layers`, `bidirectional`,
            `dropout`; see `ModelSettings`.

    Raises:
        InputError: there is no such cell, or a size is out of its range.
        ValueError: the layer does not fit the features, or is batch-first.
    """

    layer: Any  # a layer of gatewise; it has `cell`, `hidden_size` and so on, which nn.Module does not declare

    def __init__(self, cell: Any, data: ClassifyData | Facts, **sizes: Any) -> None:
        super().__init__()
        self.facts = data.facts if isinstance(data, ClassifyData) else data
        features = len(self.facts.features)
        if isinstance(cell, nn.Module):
            self.layer = cell
            settings = ModelSettings(**sizes)
            if given := sizes.keys() - {"pool", "noise"}:
                raise TypeError(f"Classifier: the layer has its sizes already; got {', '.join(given)} besides it")
        else:
            graph = find_cell(cell) if isinstance(cell, str) else cell
            settings = ModelSettings(cell=graph.name, **sizes)
            self.layer = gatewise.Recurrent(
                graph,
                features,
                settings.hidden_size,
                settings.num_layers,
                dropout=settings.dropout,
                bidirectional=settings.bidirectional,
            )
        meaning, why = ", the number of features", "steps come first here"
        check_layer("Classifier", self.layer, features, meaning, ("batch_first",), why)
        self.pool, self.noise = settings.pool, settings.noise
        directions = 2 if self.layer.bidirectional else 1
        self.output = nn.Linear(directions * (self.layer.proj_size or self.layer.hidden_size), len(self.facts.labels))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Scores of the classes.

        Args:
            x: (T, B, I) standardised steps; what lies behind the end of a sequence is not looked at.
            lengths: (B,) steps of each sequence, from 1 to T.

        Returns:
            (B, C) unnormalised log-probabilities; (T, B, C) where steps have labels, of no meaning behind an end.
        """
        if self.training and self.noise:
            x = x + self.noise * torch.randn_like(x)
        steps, state = self.layer(x, lengths=lengths)
        if self.facts.per == "step":
            return self.output(steps)  # type: ignore[no-any-return]
        if self.pool == "mean":  # beyond a sequence's end the layer's output is 0
            return self.output(steps.sum(0) / lengths.to(steps).unsqueeze(1))  # type: ignore[no-any-return]
        state = state[0] if isinstance(state, tuple) else state  # h of an LSTM's h and c
        directions = 2 if self.layer.bidirectional else 1
        return self.output(torch.cat(state[-directions:].unbind(0), -1))  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict_proba(self, sequences: Any, batch: int = 256) -> list[Tensor]:
        """The probabilities of the classes, whose names are `facts.labels`.

        Args:
            sequences: `Sequences`, or a list of (T, I) arrays or tensors in the units of the data that were learned.
            batch: sequences side by side; it changes nothing but time and memory.

        Returns:
            For each sequence (C,) probabilities, or (T, C) where steps have labels.

        Raises:
            InputError: a sequence is empty, has other features, or holds NaN or infinity.
        """
        if not isinstance(sequences, Sequences):
            sequences = Sequences(sequences, features=self.facts.features)
        inputs = self.facts.inputs(sequences)
        device = self.output.weight.device
        found: list[Tensor] = []
        with evaluating(self):
            for first in range(0, len(inputs), batch):
                x, lengths = padded(inputs[first : first + batch])
                p = self(x.to(device, self.output.weight.dtype), lengths.to(device)).softmax(-1).cpu()
                if self.facts.per == "step":
                    found += [p[:n, b] for b, n in enumerate(lengths.tolist())]
                else:
                    found += p.unbind(0)
        return found

    def named(self, found: list[Tensor]) -> list[Any]:
        """The likeliest label by the probabilities of each sequence, or the list of those of its steps."""
        classes = [p.argmax(-1).tolist() for p in found]
        labels = self.facts.labels
        return [[labels[c] for c in item] if isinstance(item, list) else labels[item] for item in classes]

    def predict(self, sequences: Any, batch: int = 256) -> list[Any]:
        """The likeliest label of each sequence, or the list of those of its steps; see `predict_proba`."""
        return self.named(self.predict_proba(sequences, batch))

    def settings(self) -> ModelSettings:
        """The sizes, as settings from which a model with the same parameters can be built."""
        bidirectional = self.layer.bidirectional
        return ModelSettings.of_layer(self.layer, bidirectional=bidirectional, pool=self.pool, noise=self.noise)


def loss(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
    """The mean cross-entropy () over sequences or steps, the share () that is right, and their number.

    Args:
        scores: (B, C), or (T, B, C).
        y: (B,), or (T, B), `NO_LABEL` where there is nothing to learn.
    """
    labelled = y != NO_LABEL
    scores, y = scores[labelled], y[labelled]
    return F.cross_entropy(scores, y), (scores.argmax(-1) == y).float().mean(), len(y)
