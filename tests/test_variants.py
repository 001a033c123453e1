"""Other activations and coupled gates, against plain loops of the equations that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, randomize
from tolerances import FLOAT64, RANDOM_CELL
from torch import Tensor

import gatewise
from gatewise import CellError, Graph, cells

DOUBLE = torch.float64


def old_hard_sigmoid(a: Any) -> Any:
    return torch.clamp(0.2 * a + 0.5, 0, 1)


# The equations of torch's cells, with any functions: gates, candidate, output.
def lstm(x: Any, h: Any, s: list[Tensor], i: Any, f: Any, g: Any, o: Any, out: Any) -> list[Tensor]:
    keep = i(x["i"] + h["i"])
    forget = 1 - keep if f is None else f(x["f"] + h["f"])
    c = forget * s[1] + keep * g(x["g"] + h["g"])
    return [o(x["o"] + h["o"]) * out(c), c]


def gru(x: Any, h: Any, s: list[Tensor], r: Any, z: Any, n: Any) -> list[Tensor]:
    reset = r(x["r"] + h["r"])
    update = 1 - reset if z is None else z(x["z"] + h["z"])
    return [(1 - update) * n(x["n"] + reset * h["n"]) + update * s[0]]


SIGMOID, TANH = torch.sigmoid, torch.tanh
CASES: dict[str, tuple[Graph, Callable[..., list[Tensor]], list[Any]]] = {
    "names of ops": (gatewise.activations(cells.lstm, g="relu", h="softsign"), lstm,
                     [SIGMOID, SIGMOID, F.relu, SIGMOID, F.softsign]),
    "functions": (gatewise.activations(cells.lstm, i=old_hard_sigmoid, f=old_hard_sigmoid, o=old_hard_sigmoid), lstm,
                  [old_hard_sigmoid, old_hard_sigmoid, TANH, old_hard_sigmoid, TANH]),
    "of torch": (gatewise.activations(cells.gru, r=F.hardsigmoid, n=lambda a: F.leaky_relu(a, 0.3)), gru,
                 [F.hardsigmoid, SIGMOID, lambda a: F.leaky_relu(a, 0.3)]),
    "linear": (gatewise.activations(cells.gru, n=lambda a: 1.0 * a), gru, [SIGMOID, SIGMOID, lambda a: a]),
    "coupled": (gatewise.coupled(cells.lstm, f="i"), lstm, [SIGMOID, None, TANH, SIGMOID, TANH]),
    "coupled, of other gates": (gatewise.coupled(gatewise.activations(cells.lstm, i="hardsigmoid", h="relu"), f="i"),
                                lstm, [F.hardsigmoid, None, TANH, SIGMOID, F.relu]),
    "others, of coupled gates": (gatewise.activations(gatewise.coupled(cells.lstm, f="i"), i="hardsigmoid", h="relu"),
                                 lstm, [F.hardsigmoid, None, TANH, SIGMOID, F.relu]),
    "coupled gru": (gatewise.coupled(cells.gru, z="r"), gru, [SIGMOID, None, TANH]),
}  # fmt: skip


def plain(
    layer: gatewise.Recurrent, x: Tensor, step: Callable[..., list[Tensor]], functions: list[Any]
) -> list[Tensor]:
    """The output, and the final states."""
    p, gates, size = dict(layer.named_parameters()), layer.cell.gates, layer.hidden_size
    states = [x.new_zeros(x.shape[1], size) for _ in layer.cell.states]
    outputs = []
    for x_t in x:
        read = F.linear(x_t, p["weight_ih_l0"], p["bias_ih_l0"]).split(size, -1)
        projected = F.linear(states[0], p["weight_hh_l0"], p["bias_hh_l0"]).split(size, -1)
        sides = (dict(zip(gates, side, strict=True)) for side in (read, projected))
        states = step(*sides, states, *functions)
        outputs.append(states[0])
    return [torch.stack(outputs), *states]


@pytest.mark.parametrize("executor", ["reference", "cpu"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, executor: str) -> None:
    cell, step, functions = CASES[case]
    layer = randomize(gatewise.Recurrent(cell, 3, 5, dtype=DOUBLE))
    layer.executor = executor
    x = torch.randn(6, 2, 3, dtype=DOUBLE, requires_grad=True)
    output, state = layer(x)
    made = [output, *(s[0] for s in (state if isinstance(state, tuple) else (state,)))]
    wanted = plain(layer, x, step, functions)
    for one, other in zip(made, wanted, strict=True):
        assert_close(one, other, FLOAT64)
    inputs = [x, *layer.parameters()]
    gradients = [torch.autograd.grad(sum(v.square().sum() for v in values), inputs) for values in (made, wanted)]
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other, RANDOM_CELL if "hardsigmoid" in cell.text else FLOAT64)


def test_what_is_printed_is_what_runs() -> None:
    hard = gatewise.activations(cells.lstm, f=old_hard_sigmoid, g="relu", h=F.softsign)
    assert str(hard).splitlines()[:6] == [
        "i_t = σ(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)",
        "f_t = clamp(0.2 · (W_if x_t + b_if + W_hf h_{t-1} + b_hf) + 0.5, 0, 1)",
        "g_t = ReLU(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)",
        "o_t = σ(W_io x_t + b_io + W_ho h_{t-1} + b_ho)",
        "c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t",
        "h_t = o_t ⊙ softsign(c_t)",
    ]
    assert hard.name == "activations(lstm,f=old_hard_sigmoid,g=relu,h=softsign)"
    tied = gatewise.coupled(cells.lstm, f="i")
    assert "f_t = 1 - i_t" in str(tied)
    assert "W_if" not in str(tied)
    assert tied.gates == ("i", "g", "o")
    assert tied.name == "coupled(lstm,f=i)"
    assert gatewise.Recurrent(tied, 2, 3).weight_ih_l0.shape == (9, 2)
    for cell in (hard, tied):
        assert Graph.parse(cell.text) == cell


def test_the_same_function_is_no_change() -> None:
    assert gatewise.activations(cells.lstm, i="sigmoid", g=torch.tanh, h=lambda a: torch.tanh(a)) is cells.lstm
    assert gatewise.activations(cells.gru) is cells.gru
    relu = gatewise.activations(cells.rnn, h="relu")
    assert (relu.nodes, relu.outputs) == (cells.rnn_relu.nodes, cells.rnn_relu.outputs)


def test_nested_with_other_changes() -> None:
    x = torch.randn(6, 2, 3, dtype=DOUBLE)

    def run(cell: Graph, training: bool) -> Tensor:
        layer = randomize(gatewise.Recurrent(cell, 3, 5, dtype=DOUBLE)).train(training)
        torch.manual_seed(0)
        return layer(x)[0]

    def make(cell: Graph) -> Graph:
        return gatewise.coupled(gatewise.activations(cell, g="relu", h="softsign"), f="i")

    for change in (
        lambda cell: gatewise.zoneout(cell, 0.3),
        lambda cell: gatewise.recurrent_dropout(cell, 0.3),
        lambda cell: gatewise.clip_state_grad(cell, 1.0),
    ):
        for training in (True, False):
            assert_close(run(change(make(cells.lstm)), training), run(make(change(cells.lstm)), training), FLOAT64)
    assert "bias_x_f" not in gatewise.layer_norm(make(cells.lstm)).vectors
    peephole = gatewise.activations(cells.lstm_peephole, o="hardsigmoid", h="relu")
    assert peephole.vectors == cells.lstm_peephole.vectors
    assert gatewise.coupled(peephole, f="i").vectors == ("p_i", "p_o")


def test_a_vector_and_a_gate_that_nothing_reads_are_gone() -> None:
    layer = randomize(gatewise.Recurrent(gatewise.coupled(cells.gru, z="r"), 3, 4))
    assert layer.cell.gates == ("r", "n")
    assert set(dict(layer.named_parameters())) == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}


@gatewise.cell(gates="n")
def named_twice(x, h):
    n = torch.tanh(x.n + h.n)
    return n


@gatewise.cell(gates="n")
def two_in_one(x, h):
    return torch.tanh(x.n) * torch.sigmoid(h.n)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: gatewise.activations(cells.lstm, q="relu"), ValueError,
         "activations: lstm has no value 'q', expected one of: "),
        (lambda: gatewise.activations(cells.lstm, c="relu"), ValueError,
         "the equation of c in lstm has no activation, expected one"),
        (lambda: gatewise.activations(two_in_one, h="relu"), ValueError,
         "the equation of h in two_in_one has 2 activations, expected one"),
        (lambda: gatewise.activations(named_twice, n="relu", h="sigmoid"), ValueError,
         "n and h of named_twice are made with one activation; give it once"),
        (lambda: gatewise.activations(cells.lstm, g="swish"), CellError,
         "g='swish' is no op of one value; expected one of: abs "),
        (lambda: gatewise.activations(cells.lstm, g="maximum"), CellError, "g='maximum' is no op of one value"),
        (lambda: gatewise.activations(cells.lstm, g=1), TypeError, "g is 1, expected a function of one value"),
        (lambda: gatewise.activations(cells.lstm, g=lambda a: 3), CellError, "g's function made 3 of a value"),
        (lambda: gatewise.activations(cells.lstm, g=torch.erf), CellError, "erf"),
        (lambda: gatewise.activations(cells.lstm, g=lambda a: a > 0), CellError, "comparison"),
        (lambda: gatewise.activations("lstm", g="relu"), TypeError, "activations: cell is 'lstm'"),
        (lambda: gatewise.coupled("lstm", f="i"), TypeError, "coupled: cell is 'lstm'"),
        (lambda: gatewise.coupled(cells.lstm, i="f"), ValueError, "lstm computes f after i"),
        (lambda: gatewise.coupled(cells.lstm, i="i"), ValueError, "lstm computes i as i"),
        (lambda: gatewise.coupled(cells.lstm, f="q"), ValueError, "lstm has no value 'q', expected one of: "),
    ],
)  # fmt: skip
def test_what_is_refused(call: Callable[[], Graph], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
