"""Chapters 9.5, 10.1 and 10.2 (8.5, 9.1, 9.2): nets from scratch, with gatewise as their forward function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from book import ITERATORS, RNNModelScratch, corpus, predict_ch8, train_ch8
from helpers import assert_close
from test_d2l import NETS
from tolerances import FLOAT64, TRAINED
from torch import Tensor, nn

import gatewise
from gatewise import cells
from gatewise.convert import d2l

CELLS = {"rnn": cells.rnn, "gru": cells.gru_reset_before, "lstm": cells.lstm}
IDS, TOKENS = corpus()


def get_params(net: str) -> Callable[..., list[Tensor]]:
    def params(vocab_size: int, num_hiddens: int, device: str) -> list[Tensor]:
        torch.manual_seed(3)
        shapes = [s for _ in NETS[net][1] for s in ((vocab_size, num_hiddens), (num_hiddens,) * 2, (num_hiddens,))]
        shapes += [(num_hiddens, vocab_size), (vocab_size,)]
        # The book's biases are zero; here they are not, so that one that is swapped or left out shows.
        return [(torch.randn(shape, device=device) * 0.1).requires_grad_() for shape in shapes]

    return params


def init_state(net: str) -> Callable[..., tuple[Tensor, ...]]:
    count = 2 if net == "lstm" else 1
    return lambda batch, hiddens, device: tuple(torch.zeros((batch, hiddens), device=device) for _ in range(count))


def scratch(net: str, forward_fn: Callable) -> RNNModelScratch:
    return RNNModelScratch(len(TOKENS), 9, "cpu", get_params(net), init_state(net), forward_fn)


@pytest.mark.parametrize("sampling", ITERATORS)
@pytest.mark.parametrize("net", NETS)
def test_the_scratch_model_trains_and_writes_the_same(net: str, sampling: str) -> None:
    by_hand, by_us = scratch(net, NETS[net][0]), scratch(net, d2l.forward)
    expected, losses = (train_ch8(model, IDS, 1.0, 2, sampling) for model in (by_hand, by_us))
    assert len(losses) > 14
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(expected, rel=TRAINED)
    for one, other in zip(by_us.params, by_hand.params, strict=True):
        assert_close(one, other, TRAINED)
    assert predict_ch8("time ", 20, by_us, TOKENS) == predict_ch8("time ", 20, by_hand, TOKENS)


@pytest.mark.parametrize("net", NETS)
def test_a_net_from_scratch_into_a_layer_that_is_trained_on_and_back(net: str) -> None:
    model = scratch(net, d2l.forward)
    train_ch8(model, IDS, 1.0, 1, "sequential")
    layer, linear = d2l.from_params(model.params)
    x = torch.randint(len(TOKENS), (6, 2))
    scores = linear(layer(x)[0]).flatten(0, 1)
    assert_close(scores, model(x.T, model.begin_state(2, "cpu"))[0], FLOAT64)
    torch.optim.SGD([*layer.parameters(), *linear.parameters()], 0.5).step()
    model.params = [p.requires_grad_() for p in d2l.to_params(layer, linear)]
    assert len(model.params) == {"rnn": 5, "gru": 11, "lstm": 14}[net]
    assert train_ch8(model, IDS, 1.0, 1, "sequential")[-1] < scores.shape[1]


@pytest.mark.parametrize("net", NETS)
def test_a_layer_and_a_list_on_the_same_memory(net: str) -> None:
    """The book's loop trains the list, an optimizer of torch the layer; either sees what the other did."""
    by_hand, shared = scratch(net, NETS[net][0]), scratch(net, NETS[net][0])
    one_bias = gatewise.Recurrent(CELLS[net], len(TOKENS), 9, bias="input")
    layer, linear = d2l.from_params(shared.params, like=one_bias)
    shared.params = [p.requires_grad_() for p in d2l.to_params(layer, linear, share=True)]
    x = torch.randint(len(TOKENS), (6, 2))

    def check() -> None:
        begin = by_hand.begin_state(2, "cpu")
        wanted = by_hand(x.T, begin)[0]
        assert_close(linear(layer(x)[0]).flatten(0, 1), wanted, TRAINED)
        assert_close(shared(x.T, begin)[0], wanted, TRAINED)

    check()
    for model in (by_hand, shared):
        train_ch8(model, IDS, 1.0, 1, "sequential")
    check()
    optimizer = torch.optim.SGD([*layer.parameters(), *linear.parameters()], 0.5)
    linear(layer(x)[0]).square().mean().backward()
    optimizer.step()
    by_hand(x.T, by_hand.begin_state(2, "cpu"))[0].square().mean().backward()
    with torch.no_grad():
        for p in by_hand.params:
            p -= 0.5 * p.grad
    check()


class ScratchModule(nn.Module):
    """Release 1.0: the parameters of the recurrent part are attributes, the output layer stands elsewhere."""

    def __init__(self, net: str) -> None:
        super().__init__()
        names = [name for g in NETS[net][1] for name in (f"W_x{g}", f"W_h{g}", f"b_{g}")]
        for name, value in zip(names, get_params(net)(4, 5, "cpu"), strict=False):
            self.register_parameter(name, nn.Parameter(value.detach()))

    def forward(self, inputs: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return d2l.forward(inputs, state, self)


@pytest.mark.parametrize("net", NETS)
def test_release_1_without_an_output_layer(net: str) -> None:
    module, X = ScratchModule(net), torch.randn(6, 3, 4)
    layer, linear = d2l.from_params(module)
    assert linear is None
    outputs, state = module(X, init_state(net)(3, 5, "cpu"))
    expected, final = layer(X)
    assert_close(outputs, expected, FLOAT64)
    for one, other in zip(state, final if net == "lstm" else (final,), strict=True):
        assert_close(one, other[0], FLOAT64)
    outputs.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


@pytest.mark.parametrize("net", NETS)
def test_both_directions_from_scratch(net: str) -> None:
    """Section 10.4: two nets, one of which reads the inputs from their end, and their outputs side by side."""
    one, two, X = ScratchModule(net), ScratchModule(net), torch.randn(6, 3, 4)
    with torch.no_grad():
        for p in two.parameters():
            p.add_(torch.randn_like(p))
    begin = init_state(net)(3, 5, "cpu")
    forward, backward = one(X, begin)[0], two(reversed(X), begin)[0]
    joined = torch.stack([torch.cat((f, b), -1) for f, b in zip(forward, reversed(backward), strict=True)])
    layer = gatewise.convert.both_directions(d2l.from_params(one)[0], d2l.from_params(two)[0])
    assert_close(layer(X)[0], joined, FLOAT64)
