"""The four shapes of LSTM and GRU in the textbooks: simple, stacked, bidirectional, stacked and bidirectional."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from book import WAYS, model_by, states_of
from helpers import assert_close, randomize
from tolerances import FLOAT64
from torch import Tensor, nn

T, B, OUTPUTS = 6, 3, 25
NETS = {"simple": (5, 80, 1, False), "stacked": (10, 40, 3, False), "bidirectional": (20, 50, 1, True)}
NETS |= {"stacked-bidirectional": (10, 40, 2, True)}


class Net(nn.Module):
    """Layers, and a linear one on each step's output."""

    def __init__(self, lib: Any, kind: str, inputs: int, hidden: int, layers: int, both: bool, first: bool) -> None:
        super().__init__()
        self.rnn = getattr(lib, kind)(inputs, hidden, layers, batch_first=first, bidirectional=both)
        self.out = nn.Linear(hidden * (1 + both), OUTPUTS)

    def forward(self, x: Tensor) -> tuple[Tensor, Any, Tensor]:
        output, state = self.rnn(x)
        return output, state, self.out(output)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_shapes_and_numbers(kind: str, net: str, first: bool, way: str) -> None:
    inputs, hidden, layers, both = NETS[net]
    model = randomize(model_by(way, lambda lib: Net(lib, kind, *NETS[net], first)))
    torchs = randomize(Net(nn, kind, *NETS[net], first))
    axes = (B, T) if first else (T, B)
    x = torch.randn(*axes, inputs)
    output, state, y = model(x)
    assert output.shape == (*axes, hidden * (1 + both))
    assert y.shape == (*axes, OUTPUTS)
    states = states_of(state)
    assert [s.shape for s in states] == [(layers * (1 + both), B, hidden)] * (2 if kind == "LSTM" else 1)
    # What the pages read off: the forward half at the last step and the reverse half at the first are h_n's last rows.
    steps = output.transpose(0, 1) if first else output
    assert torch.equal(steps[-1, :, :hidden], states[0][-1 - both])
    if both:
        assert torch.equal(steps[0, :, hidden:], states[0][-1])
    expected, final, wanted = torchs(x)
    for one, other in zip((output, *states, y), (expected, *states_of(final), wanted), strict=True):
        assert_close(one, other, FLOAT64)
    for net in (model, torchs):
        net(x)[2].square().mean().backward()
    for one, other in zip(model.parameters(), torchs.parameters(), strict=True):
        assert_close(one.grad, other.grad, FLOAT64)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("proj_size", [0, 1, 7])
@pytest.mark.parametrize("net", NETS)
def test_lstm_with_and_without_a_projection(net: str, proj_size: int, way: str) -> None:
    inputs, hidden, layers, both = NETS[net]

    def build(lib: Any) -> nn.Module:
        return lib.LSTM(inputs, hidden, layers, bidirectional=both, proj_size=proj_size)

    layer, torchs = randomize(model_by(way, build)), randomize(build(nn))
    x = torch.randn(T, B, inputs)
    (output, (h, c)), (expected, final) = layer(x), torchs(x)
    size, rows = proj_size or hidden, layers * (1 + both)
    assert output.shape == (T, B, size * (1 + both))
    assert (h.shape, c.shape) == ((rows, B, size), (rows, B, hidden))
    for one, other in zip((output, h, c), (expected, *final), strict=True):
        assert_close(one, other, FLOAT64)
    assert ("weight_hr_l0" in dict(layer.named_parameters())) == bool(proj_size)
