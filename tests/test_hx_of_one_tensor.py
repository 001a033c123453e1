"""A layer of several states that is given one tensor says which question of the user's code had the wrong answer."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import gatewise
from gatewise import cells

I, H, B = 3, 4, 2

# Layers of two states, and torch's of the same kind, which raises for the same fault.
PAIRS = {
    "LSTM": (lambda: gatewise.LSTM(I, H, 2), lambda: nn.LSTM(I, H, 2)),
    "LSTM learned": (lambda: gatewise.LSTM(I, H, 2, learn_state=True), lambda: nn.LSTM(I, H, 2)),
    "LSTM projected": (lambda: gatewise.LSTM(I, H, 2, proj_size=2), lambda: nn.LSTM(I, H, 2, proj_size=2)),
    "LSTMCell": (lambda: gatewise.LSTMCell(I, H), lambda: nn.LSTMCell(I, H)),
    "Recurrent": (lambda: gatewise.Recurrent(cells.lstm, I, H, 2), lambda: nn.LSTM(I, H, 2)),
    "zoneout": (lambda: gatewise.Recurrent(gatewise.zoneout(cells.lstm, 0.1), I, H, 2), lambda: nn.LSTM(I, H, 2)),
}


def raised_by(layer: Any, hx: Any) -> Exception:
    x = torch.randn(B, I) if isinstance(layer, (nn.LSTMCell, gatewise.LSTMCell)) else torch.randn(5, B, I)
    with pytest.raises((RuntimeError, ValueError, TypeError), match=r"hx|hidden|cell|expected") as caught:
        layer(x, hx)
    return caught.value


@pytest.mark.parametrize("name", PAIRS)
def test_the_question_that_went_wrong_is_named(name: str) -> None:
    ours, theirs = (make() for make in PAIRS[name])
    hx = torch.zeros(B, H) if name == "LSTMCell" else torch.zeros(2, B, H)
    error = raised_by(ours, hx)
    assert type(error) is type(raised_by(theirs, hx))
    message = str(error)
    assert "\n" not in message
    found = re.search(
        r"hx is a tensor, expected \(h, c\); layer\.initial_state\(batch\) makes one\. "
        r"Code that asks (.+) to tell whether a state is a tuple must ask (.+)$",
        message,
    )
    assert found
    # The question that is named gets the wrong answer, of this very layer, and the other one the right answer.
    scope = {"layer": ours, "nn": nn}
    assert not eval(found[1], scope)
    assert eval(found[2], scope)
    assert "LSTM" in found[1]


@pytest.mark.parametrize(
    ("layer", "hx"),
    [
        (gatewise.LSTM(I, H, 2), (torch.zeros(1, B, H),)),
        (gatewise.LSTM(I, H, 2), (torch.zeros(1, B, H),) * 3),
        (gatewise.LSTM(I, H, 2), (torch.zeros(1, B, H), None)),
        (gatewise.LSTM(I, H, 2), "state"),
        (gatewise.GRU(I, H), (torch.zeros(1, B, H),) * 2),
        (gatewise.GRU(I, H), torch.zeros(1, B, H + 1)),
    ],
    ids=["one", "three", "None", "text", "a pair for a GRU", "shape"],
)
def test_it_is_not_named_where_it_can_not_be_the_cause(layer: Any, hx: Any) -> None:
    assert "Code that asks" not in str(raised_by(layer, hx))
