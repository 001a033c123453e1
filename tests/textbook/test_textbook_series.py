"""Sequences of numbers: 'hello' to 'ohlol', and a noisy sine, one step ahead and many (chapter 9.1; 8.1 in 0.17)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from book import WAYS, model_by
from helpers import assert_close
from tolerances import TRAINED
from torch import Tensor, nn


class Hello(nn.Module):
    """Embedding, RNN, linear: the toy of examples/hello.py."""

    def __init__(self, lib: Any, kind: str) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(4, 10), nn.Linear(8, 4)
        self.rnn = getattr(lib, kind)(10, 8, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.output(self.rnn(self.embedding(ids))[0]).flatten(0, 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_hello_becomes_ohlol_by_torchs_steps(kind: str, way: str) -> None:
    x, y = (torch.tensor([["ehlo".index(letter) for letter in word]]) for word in ("hello", "ohlol"))

    def learn(model: Hello) -> tuple[list[float], str]:
        adam, losses = torch.optim.Adam(model.parameters(), lr=0.1), []
        for _ in range(20):
            loss = nn.functional.cross_entropy(model(x), y[0])
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        return losses, "".join("ehlo"[i] for i in model(x).argmax(1))

    torch.manual_seed(0)
    expected, _ = learn(Hello(nn, kind))
    losses, answer = learn(model_by(way, lambda lib: Hello(lib, kind)))
    assert losses == pytest.approx(expected, rel=TRAINED)
    assert answer == "ohlol"


def noisy_sine(steps: int = 200, tau: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """The series, the windows of tau values, and the value after each."""
    series = (
        torch.sin(0.05 * torch.arange(steps)) + torch.randn(steps, generator=torch.Generator().manual_seed(0)) * 0.1
    )
    return series, series.unfold(0, tau, 1)[:-1].unsqueeze(2), series[tau:].unsqueeze(1)


class Regressor(nn.Module):
    """Reads tau values one after the other; a linear layer on the last output says which one comes next."""

    def __init__(self, lib: Any, kind: str) -> None:
        super().__init__()
        self.rnn, self.out = getattr(lib, kind)(1, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, windows: Tensor) -> Tensor:
        return self.out(self.rnn(windows)[0][:, -1])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_noisy_sine_one_step_ahead_and_many(kind: str, way: str) -> None:
    series, windows, after = noisy_sine()
    train, tau = 150, windows.shape[1]

    def learn(model: Regressor) -> tuple[list[float], Tensor, Tensor]:
        adam, losses = torch.optim.Adam(model.parameters(), lr=0.05), []
        for _ in range(12):
            loss = nn.functional.mse_loss(model(windows[:train]), after[:train])
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        with torch.no_grad():
            one = model(windows[train:])
            fed = list(series[train : train + tau])  # the true ones; from there on its own predictions
            for _ in range(30):
                fed.append(model(torch.stack(fed[-tau:]).view(1, tau, 1)).squeeze())
        return losses, one, torch.stack(fed[tau:])

    torch.manual_seed(0)
    expected = learn(Regressor(nn, kind))
    losses, one, many = learn(model_by(way, lambda lib: Regressor(lib, kind)))
    assert losses == pytest.approx(expected[0], rel=TRAINED)
    assert losses[-1] < losses[0]
    assert_close(one, expected[1], TRAINED)
    assert_close(many, expected[2], TRAINED)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_many_steps_ahead_with_the_state_carried(kind: str, way: str) -> None:
    """The net reads the past once, then each of its own predictions in one step from the state that it has."""
    past = noisy_sine()[0][:40].view(-1, 1, 1)
    written = []
    torch.manual_seed(0)
    for model in (Regressor(nn, kind), model_by(way, lambda lib: Regressor(lib, kind))):
        model.rnn.batch_first = False
        output, state = model.rnn(past)
        made = [model.out(output[-1:])]
        for _ in range(20):
            output, state = model.rnn(made[-1], state)
            made.append(model.out(output))
        torch.cat(made).square().sum().backward()  # through all predictions that were fed back
        written.append([torch.cat(made).detach(), *(p.grad for p in model.parameters())])
    for one, other in zip(*written, strict=True):
        assert_close(one, other, TRAINED)
