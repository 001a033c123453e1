"""Parameter lists of Dive into Deep Learning, against the loops that the book runs over them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT32, FLOAT64
from torch import Tensor, nn

import gatewise
from gatewise.convert import d2l
from gatewise.errors import InputError

# The book's code: inputs (T, B, I), the state, the list of parameters.


def rnn(inputs: Tensor, state: tuple[Tensor, ...], params: list[Tensor]):
    W_xh, W_hh, b_h, W_hq, b_q = params
    (H,) = state
    outputs = []
    for X in inputs:
        H = torch.tanh(torch.mm(X, W_xh) + torch.mm(H, W_hh) + b_h)
        Y = torch.mm(H, W_hq) + b_q
        outputs.append(Y)
    return torch.cat(outputs, dim=0), (H,)


def gru(inputs: Tensor, state: tuple[Tensor, ...], params: list[Tensor]):
    W_xz, W_hz, b_z, W_xr, W_hr, b_r, W_xh, W_hh, b_h, W_hq, b_q = params
    (H,) = state
    outputs = []
    for X in inputs:
        Z = torch.sigmoid((X @ W_xz) + (H @ W_hz) + b_z)
        R = torch.sigmoid((X @ W_xr) + (H @ W_hr) + b_r)
        H_tilda = torch.tanh((X @ W_xh) + ((R * H) @ W_hh) + b_h)
        H = Z * H + (1 - Z) * H_tilda
        Y = H @ W_hq + b_q
        outputs.append(Y)
    return torch.cat(outputs, dim=0), (H,)


def lstm(inputs: Tensor, state: tuple[Tensor, ...], params: list[Tensor]):
    W_xi, W_hi, b_i, W_xf, W_hf, b_f, W_xo, W_ho, b_o, W_xc, W_hc, b_c, W_hq, b_q = params
    (H, C) = state
    outputs = []
    for X in inputs:
        I = torch.sigmoid((X @ W_xi) + (H @ W_hi) + b_i)
        F = torch.sigmoid((X @ W_xf) + (H @ W_hf) + b_f)
        O = torch.sigmoid((X @ W_xo) + (H @ W_ho) + b_o)
        C_tilda = torch.tanh((X @ W_xc) + (H @ W_hc) + b_c)
        C = F * C + I * C_tilda
        H = O * torch.tanh(C)
        Y = (H @ W_hq) + b_q
        outputs.append(Y)
    return torch.cat(outputs, dim=0), (H, C)


NETS: dict[str, tuple[Callable, str, type]] = {
    "rnn": (rnn, "h", gatewise.RNN),
    "gru": (gru, "zrh", gatewise.GRU),
    "lstm": (lstm, "ifoc", gatewise.LSTM),
}


def params_of(net: str, inputs: int, size: int, outputs: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shapes = [shape for _ in NETS[net][1] for shape in ((inputs, size), (size, size), (size,))]
    return [torch.randn(shape, dtype=dtype) for shape in (*shapes, (size, outputs), (outputs,))]


def names_of(net: str) -> list[str]:
    return [name for g in NETS[net][1] for name in (f"W_x{g}", f"W_h{g}", f"b_{g}")] + ["W_hq", "b_q"]


@pytest.mark.parametrize(("steps", "batch", "inputs", "size"), [(5, 3, 4, 6), (1, 1, 1, 1), (7, 1, 3, 3), (2, 4, 5, 1)])
@pytest.mark.parametrize("net", NETS)
def test_a_list_computes_what_the_books_loop_does_and_comes_back(
    net: str, steps: int, batch: int, inputs: int, size: int
) -> None:
    loop, _, cls = NETS[net]
    params = params_of(net, inputs, size, 5)
    layer, linear = d2l.from_params(params)
    assert type(layer) is cls
    assert isinstance(linear, nn.Linear)
    x = torch.randn(steps, batch, inputs, dtype=torch.float64)
    start = [torch.randn(batch, size, dtype=torch.float64) for _ in layer.cell.states]
    wanted, finals = loop(x, tuple(start), params)
    hx = tuple(s.unsqueeze(0) for s in start)
    output, state = layer(x, hx if len(hx) > 1 else hx[0])
    assert_close(linear(output).reshape(steps * batch, 5), wanted, FLOAT64)
    for one, other in zip(state if isinstance(state, tuple) else (state,), finals, strict=True):
        assert_close(one[0], other, FLOAT64)
    assert d2l.names(layer, linear) == names_of(net)
    for one, other in zip(d2l.to_params(layer, linear), params, strict=True):
        assert_close(one, other, 0.0)


@pytest.mark.parametrize("net", NETS)
def test_a_layer_of_torch_gives_a_list_that_the_books_loop_runs(net: str) -> None:
    loop, _, cls = NETS[net]
    layer = randomize(cls(3, 4, reset_after=False) if net == "gru" else getattr(nn, cls.__name__)(3, 4))
    linear = randomize(nn.Linear(4, 2), 1)
    x = torch.randn(5, 2, 3)
    states = tuple(torch.zeros(2, 4) for _ in range(2 if net == "lstm" else 1))
    wanted, _ = loop(x, states, d2l.to_params(layer, linear))
    assert_close(linear(layer(x)[0]).reshape(10, 2), wanted, FLOAT32)
    bare = randomize(cls(3, 4, bias=False, **({"reset_after": False} if net == "gru" else {})))
    assert_close(loop(x, states, d2l.to_params(bare, linear))[0], linear(bare(x)[0]).reshape(10, 2), FLOAT32)


@pytest.mark.parametrize("net", NETS)
def test_names_in_any_order_modules_and_no_output_layer(net: str) -> None:
    params = params_of(net, 3, 4, 2)
    named = dict(zip(names_of(net), params, strict=True))
    layer, _ = d2l.from_params(params)
    for given in (
        dict(reversed(named.items())),
        {name: value.numpy() for name, value in named.items()},
        {name: value for name, value in named.items() if not name.endswith("q")},
        params[:-2],
    ):
        other, linear = d2l.from_params(given)
        assert (linear is None) == (len(given) % 3 == 0)
        assert all(map(torch.equal, other.parameters(), layer.parameters()))

    class Scratch(nn.Module):  # the second edition's classes: parameters are attributes
        def __init__(self) -> None:
            super().__init__()
            for name in names_of(net)[:-2]:
                self.register_parameter(name, nn.Parameter(named[name]))

    class LanguageModel(nn.Module):  # RNNLMScratch
        def __init__(self) -> None:
            super().__init__()
            self.rnn = Scratch()
            self.W_hq, self.b_q = nn.Parameter(named["W_hq"]), nn.Parameter(named["b_q"])

    for module, whole in ((Scratch(), False), (LanguageModel(), True)):
        other, linear = d2l.from_params(module)
        assert (linear is not None) == whole
        assert all(map(torch.equal, other.parameters(), layer.parameters()))
    with pytest.raises(InputError, match="Sequential has several layers; give each on its own"):
        d2l.from_params(nn.Sequential(Scratch(), Scratch()))


def test_a_layer_to_fill_in() -> None:
    params = params_of("lstm", 3, 4, 2, torch.float32)
    made, _ = d2l.from_params(params)
    like = nn.LSTM(3, 4)
    filled, _ = d2l.from_params(params, like=like)
    assert filled is like
    x = torch.randn(5, 2, 3)
    assert_close(like(x)[0], made(x)[0], FLOAT32)
    for wrong, words in (
        (nn.LSTM(3, 5), "hidden_size differ"),
        (nn.LSTM(3, 4, bias=False), "has no bias_ih_l0; give it biases"),
        (nn.LSTM(3, 4, dtype=torch.bfloat16), "like is in torch.bfloat16, the weights in torch.float32, of which"),
        (nn.GRU(3, 4), "computes gru; the weights are of lstm, another function: no weights make them equal"),
        (nn.LSTM, r"like is the class LSTM, expected a layer: LSTM\(…\)"),
    ):
        with pytest.raises(InputError, match=words):
            d2l.from_params(params, like=wrong)


def test_the_two_grus_are_never_taken_for_one_another() -> None:
    params = params_of("gru", 3, 4, 2, torch.float32)
    for like in (nn.GRU(3, 4), gatewise.GRU(3, 4)):
        before = [p.clone() for p in like.parameters()]
        with pytest.raises(InputError, match=r"before its product with the weights, W \(r ⊙ h\), the other the produc"):
            d2l.from_params(params, like=like)
        assert all(map(torch.equal, like.parameters(), before))
    d2l.from_params(params, like=gatewise.GRU(3, 4, reset_after=False))
    for layer in (nn.GRU(3, 4), gatewise.GRU(3, 4)):
        with pytest.raises(InputError, match="the book's GRU multiplies h before the product, and no weights make"):
            d2l.to_params(layer)


def test_what_is_none_of_the_books() -> None:
    params = params_of("gru", 3, 4, 2)
    for given, words in (
        (params[:7], "7 parameters, expected 3 of an RNN, 9 of a GRU or 12 of an LSTM, or 2 more"),
        ({"W_xz": 1, "W_hz": 2}, "parameters W_xz, W_hz, expected the book's names"),
        ([params[1], params[0], *params[2:]], "input: the gates' matrices differ in size"),
        ([*params[:9], params[9].t(), params[10]], r"W_hq has shape \(2, 4\) and b_q \(2,\), expected \(4, Q\) and"),
        (nn.Linear(2, 3), "parameters weight, bias, expected the book's names"),
    ):
        with pytest.raises(InputError, match=words):
            d2l.from_params(given)
    for layer, words in (
        (gatewise.LSTM(3, 4, proj_size=2), "computes lstm_projected, which is none of the book's"),
        (gatewise.RNN(3, 4, nonlinearity="relu"), "computes rnn_relu, which is none of the book's"),
        (gatewise.RNN(3, 4, 2), "the book's nets from scratch have one layer and one direction"),
        (gatewise.RNN(3, 4, learn_state=True), "learns the states"),
    ):
        with pytest.raises(InputError, match=words):
            d2l.to_params(layer)
    with pytest.raises(InputError, match=r"output is Linear.*, expected nn.Linear\(4, …\)"):
        d2l.to_params(gatewise.RNN(3, 4), nn.Linear(3, 2))
