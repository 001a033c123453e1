"""Chapters 10.5 to 10.8 and 11.4 (9.5 to 9.8, 10.4): from sequence to sequence, without attention and with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from book import (
    WAYS,
    EncoderDecoder,
    Seq2SeqAttentionDecoder,
    Seq2SeqDecoder,
    Seq2SeqEncoder,
    model_by,
    predict_seq2seq,
    train_seq2seq,
    xavier,
    xavier_by_type,
)
from helpers import assert_close
from tolerances import FLOAT64, TRAINED
from torch import Tensor, nn

import gatewise

PAD, BOS, EOS, VOCAB, STEPS = 1, 2, 3, 9, 6
DECODERS = {"context": Seq2SeqDecoder, "attention": Seq2SeqAttentionDecoder}


def batches(seed: int = 0) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Sentences of unequal length, padded; the target is the source read backwards."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(3):
        lengths = torch.randint(2, STEPS, (4,), generator=generator)
        X, Y = torch.full((4, STEPS), PAD), torch.full((4, STEPS), PAD)
        for row, n in enumerate(lengths.tolist()):
            words = torch.randint(4, VOCAB, (n,), generator=generator)
            X[row, :n], X[row, n], Y[row, :n], Y[row, n] = words, EOS, words.flip(0), EOS
        found.append((X, lengths + 1, Y, lengths + 1))
    return found


def build(decoder: str, dropout: float = 0.0) -> Any:
    sizes = (VOCAB, 5, 7, 2, dropout)
    return lambda lib: EncoderDecoder(Seq2SeqEncoder(lib, *sizes), DECODERS[decoder](lib, *sizes))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_training_has_torchs_losses_and_the_translations_are_torchs(decoder: str, way: str) -> None:
    torch.manual_seed(0)
    torchs, model = build(decoder)(nn), model_by(way, build(decoder))
    for net in (torchs, model):
        torch.manual_seed(1)
        net.apply(xavier)
    for one, other in zip(model.parameters(), torchs.parameters(), strict=True):
        assert torch.equal(one, other)
    expected, losses = (train_seq2seq(net, batches(), 0.02, 4, BOS) for net in (torchs, model))
    assert losses == pytest.approx(expected, rel=TRAINED)
    assert losses[-1] < losses[0]
    for source in ([4, 5, EOS], [8, 7, 6, 5, EOS], [EOS]):
        answers = [predict_seq2seq(net, source, STEPS, BOS, EOS, PAD) for net in (model, torchs)]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("decoder", DECODERS)
def test_dropout_between_layers_draws_as_torch_does(decoder: str) -> None:
    """The loss of an untrained net in training mode: the masks are drawn from torch's generator in torch's order."""
    torch.manual_seed(0)
    torchs, model = build(decoder, 0.5)(nn), model_by("replaced", build(decoder, 0.5))
    X, X_len, Y, _ = batches()[0]
    scores = []
    for net in (torchs, model):
        torch.manual_seed(2)
        scores.append(net(X, Y, X_len)[0])
    assert_close(scores[1], scores[0], FLOAT64)


# --- initialising: by type, by isinstance -----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["made", "replaced"])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_the_names_by_which_the_book_initialises(kind: str, way: str) -> None:
    for options in ({}, {"num_layers": 2, "bidirectional": True}, {"bias": False}):
        torch.manual_seed(0)
        torchs = getattr(nn, kind)(3, 4, **options)
        layer = model_by(way, lambda lib, options=options: getattr(lib, kind)(3, 4, **options))
        assert layer._flat_weights_names == torchs._flat_weights_names
        assert list(layer._parameters) == list(torchs._parameters)
        for name in layer._flat_weights_names:
            assert layer._parameters[name] is getattr(layer, name)
            for net in (layer, torchs):
                torch.manual_seed(3)
                if "weight" in name:
                    nn.init.xavier_uniform_(net._parameters[name], gain=2.0)
                else:
                    nn.init.normal_(net._parameters[name])
        X = torch.randn(5, 2, 3)
        assert_close(layer(X)[0], torchs(X)[0], FLOAT64)


def test_initialising_by_type_passes_a_subclass_by_and_by_isinstance_does_not() -> None:
    """The three ways in which replace's docstring says that it comes out right, and the one in which it doesn't."""
    for initialise, way, reached in (
        (xavier, "made", True),
        (xavier, "replaced", True),
        (xavier_by_type, "restored", True),
        (xavier_by_type, "made", False),
    ):
        layer = model_by(way, lambda lib: nn.Sequential(lib.GRU(60, 4)))[0]
        before = [p.clone() for p in layer.parameters()]
        nn.Sequential(layer).apply(initialise)
        changed = [not torch.equal(p, b) for p, b in zip(layer.parameters(), before, strict=True)]
        assert changed == [reached, reached, False, False], (initialise.__name__, way)
    # Initialise, then replace: the book's function as it is.
    model, torchs = (nn.Sequential(nn.GRU(3, 4)) for _ in range(2))
    for net in (model, torchs):
        torch.manual_seed(4)
        net.apply(xavier_by_type)
        net[0].bias_ih_l0.data.zero_()
        net[0].bias_hh_l0.data.zero_()
    gatewise.replace(model)
    X = torch.randn(5, 2, 3)
    assert_close(model(X)[0], torchs(X)[0], FLOAT64)
