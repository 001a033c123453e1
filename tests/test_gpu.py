"""On a GPU: the same numbers as on the CPU, and what cuDNN refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import BFLOAT16, FLOAT64
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import gatewise

pytestmark = pytest.mark.gpu
DOUBLE = torch.float64
LAYERS = ["RNN", "GRU", "LSTM"]


def flat(results: tuple[Any, Any]) -> tuple[Tensor, ...]:
    output, state = results
    return (output, *state) if isinstance(state, tuple) else (output, state)


@pytest.mark.parametrize("name", LAYERS)
def test_the_same_numbers_and_gradients_as_on_the_cpu(name: str) -> None:
    layer = getattr(gatewise, name)(3, 4, 2, bidirectional=True, learn_state=True, dtype=DOUBLE)
    randomize(layer)
    x, lengths, resets = torch.randn(6, 4, 3, dtype=DOUBLE), torch.tensor([3, 6, 1, 4]), torch.rand(6, 4) > 0.7
    made = []
    for device in ("cpu", "cuda"):
        model, given = copy.deepcopy(layer).to(device), x.to(device).requires_grad_()
        for where in ("cpu", device):  # lengths may lie on another device than the rest
            results = flat(model(given, lengths=lengths.to(where), resets=resets.to(device)))
        loss = sum(r.square().sum() for r in results)
        first = torch.autograd.grad(loss, [given, *model.parameters()], create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), [*model.parameters()])
        made.append([t.detach().cpu() for t in (*results, *first, *second)])
    for a, b in zip(*made, strict=True):
        assert_close(b, a, FLOAT64)


@pytest.mark.parametrize("name", LAYERS)
def test_packed_sequences_as_cudnn(name: str) -> None:
    layer = getattr(nn, name)(3, 4, 2, bidirectional=True, dtype=DOUBLE, device="cuda")
    x = torch.randn(6, 4, 3, dtype=DOUBLE, device="cuda")
    packed = pack_padded_sequence(x, torch.tensor([3, 6, 1, 4]), enforce_sorted=False)
    expected = flat(layer(packed))
    gatewise.replace(layer)
    made = flat(layer(packed))
    assert_close(made[0].data, expected[0].data, FLOAT64)
    for a, b in zip(made[1:], expected[1:], strict=True):
        assert_close(a, b, FLOAT64)


@pytest.mark.parametrize("name", LAYERS)
def test_backward_in_eval_mode(name: str) -> None:
    layer = getattr(gatewise, name)(3, 4, device="cuda").eval()
    layer(torch.randn(5, 2, 3, device="cuda"))[0].sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_under_autocast_as_cudnn(name: str, dtype: torch.dtype) -> None:
    layer = getattr(nn, name)(3, 8, 2, bidirectional=True, device="cuda")
    x = torch.randn(6, 4, 3, device="cuda")
    results = []
    for swap in (False, True):
        if swap:
            gatewise.replace(layer)
        with torch.autocast("cuda", dtype):
            results.append(flat(layer(x)))
    for a, b in zip(*reversed(results), strict=True):
        assert_close(a.float(), b.float(), BFLOAT16)
        assert a.dtype == b.dtype
