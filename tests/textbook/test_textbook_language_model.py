"""Chapters 9.6, 10.1 to 10.4 (8.6, 9.1 to 9.4): language models over the framework's layers, in both editions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from book import ITERATORS, RNN, RNNLM, WAYS, RNNModel, corpus, model_by, predict_ch8, states_of, train_ch8
from helpers import assert_close
from tolerances import FLOAT64, TRAINED
from torch import Tensor, nn

import gatewise

IDS, TOKENS = corpus()
SHAPES: dict[str, dict[str, Any]] = {
    "one": {},
    "deep": {"num_layers": 2},
    "both": {"bidirectional": True},
    "deep-both": {"num_layers": 2, "bidirectional": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_the_concise_model_trains_to_torchs_losses(kind: str, shape: str, way: str) -> None:
    def build(lib: Any) -> RNNModel:
        return RNNModel(getattr(lib, kind)(len(TOKENS), 8, **SHAPES[shape]), len(TOKENS))

    for sampling in ITERATORS:
        torch.manual_seed(0)
        torchs, model = build(nn), model_by(way, build)
        expected, losses = (train_ch8(net, IDS, 1.0, 1, sampling) for net in (torchs, model))
        assert len(losses) > 7
        assert losses[-1] < losses[0]
        assert losses == pytest.approx(expected, rel=TRAINED)
        for one, other in zip(model.parameters(), torchs.parameters(), strict=True):
            assert_close(one, other, TRAINED)
        assert predict_ch8("time ", 20, model, TOKENS) == predict_ch8("time ", 20, torchs, TOKENS)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_model_is_swapped_in_the_middle_of_its_training(kind: str) -> None:
    """Its optimizer keeps its momentum, since parameters stay the same objects."""
    torch.manual_seed(0)
    model = RNNModel(getattr(nn, kind)(len(TOKENS), 8), len(TOKENS))
    torchs = copy.deepcopy(model)
    x, y = torch.randint(len(TOKENS), (3, 7)), torch.randint(len(TOKENS), (21,))

    def steps(net: RNNModel, optimizer: torch.optim.Optimizer) -> float:
        state = net.begin_state("cpu", 3)
        for _ in range(3):
            scores, state = net(x, state)
            for s in states_of(state):
                s.detach_()
            loss = nn.functional.cross_entropy(scores, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    ours, theirs = (torch.optim.SGD(net.parameters(), 0.5, momentum=0.9) for net in (model, torchs))
    for swap in (gatewise.replace, gatewise.restore, gatewise.replace):
        assert swap(model).swapped.keys() == {"rnn"}
        assert steps(model, ours) == pytest.approx(steps(torchs, theirs), rel=TRAINED)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "dropout": 0.0}])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_release_1_modules(kind: str, options: dict[str, Any], way: str) -> None:
    x, y = torch.randint(len(TOKENS), (3, 7)), torch.randint(len(TOKENS), (3, 7))

    def build(lib: Any) -> RNNLM:
        return RNNLM(RNN(getattr(lib, kind)(len(TOKENS), 8, **options)), len(TOKENS))

    def losses(net: RNNLM) -> list[float]:
        torch.manual_seed(1)  # the lazy layer is drawn at its first call
        found = []
        net(x)
        optimizer = torch.optim.SGD(net.parameters(), 1.0)
        for _ in range(5):
            loss = nn.functional.cross_entropy(net(x).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            found.append(loss.item())
        return found

    torch.manual_seed(0)
    torchs, model = build(nn), model_by(way, build)
    expected = losses(torchs)
    assert losses(model) == pytest.approx(expected, rel=TRAINED)
    assert expected[-1] < expected[0]

    # Its prediction carries the state, one character at a time.
    def written(net: RNNLM) -> tuple[list[Tensor], Any]:
        state, scores = None, []
        for ids in x[:1].T:
            output, state = net.rnn(nn.functional.one_hot(ids[None], len(TOKENS)).to(torch.float64), state)
            scores.append(net.linear(output))
        return scores, state

    for one, other in zip(*(written(net)[0] for net in (model, torchs)), strict=True):
        assert_close(one, other, TRAINED)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_models_ask_of_a_layer(kind: str, shape: str) -> None:
    ours, torchs = (getattr(lib, kind)(5, 8, **SHAPES[shape]) for lib in (gatewise, nn))
    for name in ("hidden_size", "num_layers", "bidirectional", "input_size", "mode", "batch_first"):
        assert getattr(ours, name) == getattr(torchs, name)
    assert isinstance(ours, getattr(nn, kind))
    assert not isinstance(ours, tuple({nn.RNN, nn.GRU, nn.LSTM} - {getattr(nn, kind)}))
    X = torch.randn(6, 2, 5)
    ours.load_state_dict(torchs.state_dict())
    state, expected = ours(X)[1], torchs(X)[1]
    assert isinstance(state, tuple) == isinstance(expected, tuple) == (kind == "LSTM")
    for one, other in zip(states_of(state), states_of(expected), strict=True):
        assert_close(one, other, FLOAT64)
