"""Chapters 9.4 and 9.5 (8.4, 8.5): the recurrence written by hand, and the layer called one step at a time."""

from __future__ import annotations

import pytest
import torch
from book import WAYS, model_by, states_of
from helpers import assert_close, randomize
from tolerances import FLOAT64
from torch import nn

from gatewise.convert import d2l

KINDS = ("RNN", "GRU", "LSTM")


def test_the_loop_over_steps_is_the_layer() -> None:
    W_xh, W_hh, b_h = torch.randn(4, 6), torch.randn(6, 6), torch.randn(6)
    X, H = torch.randn(5, 3, 4), torch.zeros(3, 6)
    states = []
    for x in X:
        # The book shows both forms, and that they are one product.
        joined = torch.cat((x, H), 1) @ torch.cat((W_xh, W_hh), 0) + b_h
        H = torch.tanh(x @ W_xh + H @ W_hh + b_h)
        assert_close(torch.tanh(joined), H, FLOAT64)
        states.append(H)
    layer, _ = d2l.from_params([W_xh, W_hh, b_h])
    output, h_n = layer(X)
    assert_close(output, torch.stack(states), FLOAT64)
    assert_close(h_n[0], H, FLOAT64)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_one_step_at_a_time_is_the_sequence(kind: str, layers: int, way: str) -> None:
    layer = randomize(model_by(way, lambda lib: getattr(lib, kind)(4, 6, layers)))
    torchs = randomize(getattr(nn, kind)(4, 6, layers))
    X = torch.randn(5, 3, 4)
    expected, final = torchs(X)
    state, outputs = None, []
    for x in X:
        output, state = layer(x.unsqueeze(0), state)
        outputs.append(output)
        # Carried from one call to the next, as between minibatches: in place, the same tensors.
        for s in states_of(state):
            assert s.detach_() is s
            assert not s.requires_grad
    assert_close(torch.cat(outputs), expected, FLOAT64)
    for one, other in zip(states_of(state), states_of(final), strict=True):
        assert_close(one, other, FLOAT64)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_in_a_loop_is_the_layer(kind: str, way: str) -> None:
    cell = randomize(model_by(way, lambda lib: getattr(lib, f"{kind}Cell")(4, 6)))
    layer = randomize(getattr(nn, kind)(4, 6))
    X = torch.randn(5, 3, 4)
    state, outputs = None, []
    for x in X:
        state = cell(x, state)
        outputs.append(states_of(state)[0].clone())
        for s in states_of(state):
            assert s.detach_() is s
    assert_close(torch.stack(outputs), layer(X)[0], FLOAT64)
