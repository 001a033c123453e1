"""The layers: torch.nn's parameters, values and gradients; integer input; shapes; what they refuse."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import BFLOAT16, FLOAT64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gatewise
from gatewise import cells

DOUBLE = torch.float64
PAIRS = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu"}),
    ("GRU", {}),
    ("LSTM", {}),
    ("LSTM", {"proj_size": 3}),
]
SHAPES = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "bias": False},
    {"batch_first": True},
]


def tensors(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "options"), PAIRS, ids=str)
def test_same_seed_same_weights_outputs_and_gradients_as_torch(name: str, options: dict, shape: dict) -> None:
    layers = []
    for module in (gatewise, nn):
        torch.manual_seed(3)
        layers.append(getattr(module, name)(5, 7, **options, **shape, dtype=DOUBLE))
    ours, theirs = layers
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())

    torch.manual_seed(4)
    x = torch.randn(6, 4, 5, dtype=DOUBLE)
    batch = 6 if shape.get("batch_first") else 4
    for given in (False, True):
        state = [torch.randn(s.shape, dtype=DOUBLE) for s in tensors(ours.initial_state(batch))] if given else []
        made, weights = [], None
        for layer in (ours, theirs):
            variables = [x.clone().requires_grad_(), *(s.clone().requires_grad_() for s in state)]
            hx = None if not given else tuple(variables[1:]) if len(state) > 1 else variables[1]
            output, final = layer(variables[0], hx)
            results = (output, *tensors(final))
            weights = weights or [torch.randn_like(r) for r in results]
            loss = sum((w * r).sum() for w, r in zip(weights, results, strict=True))
            made.append((*results, *torch.autograd.grad(loss, [*variables, *layer.parameters()])))
        for k, (a, b) in enumerate(zip(*made, strict=True)):
            assert_close(a, b, FLOAT64, f"result {k}")


def test_reset_before_is_the_textbooks_gru() -> None:
    layer = randomize(gatewise.GRU(3, 4, reset_after=False, dtype=DOUBLE))
    x, h = torch.randn(5, 2, 3, dtype=DOUBLE), torch.randn(2, 4, dtype=DOUBLE)
    outputs, p = [], dict(layer.named_parameters())
    w_r, w_z, w_n = p["weight_ih_l0"].chunk(3)
    u_r, u_z, u_n = p["weight_hh_l0"].chunk(3)
    b_r, b_z, b_n = (p["bias_ih_l0"] + p["bias_hh_l0"]).chunk(3)
    state = h
    for x_t in x:
        r = torch.sigmoid(x_t @ w_r.t() + state @ u_r.t() + b_r)
        z = torch.sigmoid(x_t @ w_z.t() + state @ u_z.t() + b_z)
        n = torch.tanh(x_t @ w_n.t() + (r * state) @ u_n.t() + b_n)
        state = z * state + (1 - z) * n
        outputs.append(state)
    assert_close(layer(x, h.unsqueeze(0))[0], torch.stack(outputs), FLOAT64)


def test_reset_after_changes_the_result() -> None:
    after, before = gatewise.GRU(3, 4), gatewise.GRU(3, 4, reset_after=False)
    before.load_state_dict(randomize(after).state_dict())
    x = torch.randn(5, 2, 3)
    assert not torch.allclose(after(x)[0], before(x)[0], atol=1e-3)
    assert "reset_after=False" in repr(before)
    assert "reset_after" not in repr(after)


@pytest.mark.parametrize("cell", [cells.gru, cells.lstm, cells.rnn_relu])
def test_recurrent_of_a_built_in_cell_is_the_layer(cell: gatewise.Graph) -> None:
    layer = {"gru": gatewise.GRU, "lstm": gatewise.LSTM}.get(cell.name)
    layer = layer(3, 4, 2, dtype=DOUBLE) if layer else gatewise.RNN(3, 4, 2, "relu", dtype=DOUBLE)
    same = gatewise.Recurrent(cell, 3, 4, 2, dtype=DOUBLE)
    same.load_state_dict(randomize(layer).state_dict())
    x = torch.randn(5, 2, 3, dtype=DOUBLE)
    assert torch.equal(layer(x)[0], same(x)[0])


# --- integer input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.uint16])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_integers_mean_one_hot(dtype: torch.dtype, batch_first: bool, bias: bool) -> None:
    layer = randomize(gatewise.GRU(6, 4, 2, bias=bias, batch_first=batch_first, dtype=DOUBLE))
    x = torch.randint(0, 6, (5, 3))
    made = []
    for given in (x.to(dtype), nn.functional.one_hot(x, 6).to(DOUBLE)):
        output, h = layer(given)
        made.append((output, h, *torch.autograd.grad(output.square().sum(), layer.parameters())))
    for a, b in zip(*made, strict=True):
        assert_close(a, b, FLOAT64)


def test_unbatched_integers() -> None:
    layer = randomize(gatewise.LSTM(6, 4, batch_first=True, dtype=DOUBLE))
    x = torch.randint(0, 6, (5,))
    output, (h, c) = layer(x)
    whole, (h2, c2) = layer(x.unsqueeze(0))
    assert torch.equal(output, whole[0])
    assert torch.equal(h, h2[:, 0])
    assert torch.equal(c, c2[:, 0])
    again, _ = layer(x, (h, c))
    assert again.shape == (5, 4)


@pytest.mark.parametrize("bad", [6, -1])
def test_an_integer_out_of_range(bad: int) -> None:
    layer = gatewise.GRU(6, 4)
    with pytest.raises(IndexError, match=r"expected \[0, 5\], which input_size = 6 allows"):
        layer(torch.tensor([[0], [bad]]))


# --- layouts ---------------------------------------------------------------------------------------------


def test_unbatched_and_batch_first_are_the_same_numbers() -> None:
    layer = randomize(gatewise.LSTM(3, 4, 2, bidirectional=True, dtype=DOUBLE))
    first = gatewise.LSTM(3, 4, 2, bidirectional=True, batch_first=True, dtype=DOUBLE)
    first.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3, dtype=DOUBLE)
    output, (h, c) = layer(x)
    other, (h2, c2) = first(x.transpose(0, 1))
    assert torch.equal(other, output.transpose(0, 1))
    assert torch.equal(h, h2)
    alone, (_, c1) = layer(x[:, 1])
    assert_close(alone, output[:, 1], FLOAT64)
    assert_close(c1, c[:, 1], FLOAT64)
    assert torch.equal(c, c2)


def test_input_that_is_not_contiguous() -> None:
    layer = randomize(gatewise.GRU(3, 4, dtype=DOUBLE))
    x = torch.randn(2, 3, 5, dtype=DOUBLE).permute(2, 0, 1)
    assert not x.is_contiguous()
    assert_close(layer(x)[0], layer(x.contiguous())[0], FLOAT64)


@pytest.mark.parametrize(("steps", "batch", "size"), [*itertools.product([1, 2], [1, 3], [1, 17, 130])])
def test_odd_sizes(steps: int, batch: int, size: int) -> None:
    ours, theirs = gatewise.GRU(3, size, dtype=DOUBLE), nn.GRU(3, size, dtype=DOUBLE)
    theirs.load_state_dict(randomize(ours).state_dict())
    x = torch.randn(steps, batch, 3, dtype=DOUBLE)
    assert_close(ours(x)[0], theirs(x)[0], FLOAT64)


def test_the_state_carries_a_sequence_on() -> None:
    layer = randomize(gatewise.Recurrent(cells.lstm_peephole, 3, 4, 2, dtype=DOUBLE))
    x = torch.randn(7, 2, 3, dtype=DOUBLE)
    whole, final = layer(x)
    state, parts = layer.initial_state(2), []
    for piece in x.split([3, 1, 3]):
        output, state = layer(piece, state)
        parts.append(output)
    assert_close(torch.cat(parts), whole, FLOAT64)
    assert_close(state[1], final[1], FLOAT64)


# --- Recurrent -------------------------------------------------------------------------------------------


def test_parameters_of_a_cell_with_everything() -> None:
    @gatewise.cell(gates="a b c")
    def everything(x, h, c, *, p):
        c = torch.sigmoid(x.a + h.b) * c + p * torch.tanh(h.c)
        return torch.tanh(c + x.c).hr, c

    layer = gatewise.Recurrent(everything, 5, 6, 2, bidirectional=True, proj_size=4)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes["weight_ih_l0"] == (12, 5)
    assert shapes["weight_ih_l1_reverse"] == (12, 8)
    assert shapes["weight_hh_l0"] == (12, 4)
    assert shapes["bias_ih_l0"] == shapes["bias_hh_l0"] == (12,)
    assert shapes["weight_hr_l0"] == (4, 6)
    assert shapes["p_l1"] == (6,)
    h, c = layer.initial_state(3)
    assert h.shape == (4, 3, 4)
    assert c.shape == (4, 3, 6)
    output, (h, c) = layer(torch.randn(7, 3, 5))
    assert output.shape == (7, 3, 8)
    assert c.shape == (4, 3, 6)
    bound = 1 / 6**0.5
    assert all(-bound <= p.min() < 0 < p.max() <= bound for p in layer.parameters())


def test_bias_of_the_input_only_is_one_bias_a_gate() -> None:
    @gatewise.cell(gates="a b c")
    def uneven(x, h):
        return torch.tanh(x.a + h.a) * torch.sigmoid(h.b) + x.c

    both = randomize(gatewise.Recurrent(uneven, 3, 4, dtype=DOUBLE))
    one = gatewise.Recurrent(uneven, 3, 4, bias="input", dtype=DOUBLE)
    none = gatewise.Recurrent(uneven, 3, 4, bias=False, dtype=DOUBLE)
    assert one.bias_ih_l0.shape == (8,)
    assert one.bias_hh_l0.shape == (4,)  # b is not read from x
    assert not any("bias" in name for name, _ in none.named_parameters())
    # Both biases of gate a add up; b has its own; c is read from x only.
    with torch.no_grad():
        one.weight_ih_l0.copy_(both.weight_ih_l0)
        one.weight_hh_l0.copy_(both.weight_hh_l0)
        one.bias_ih_l0.copy_(both.bias_ih_l0)
        one.bias_ih_l0[:4] += both.bias_hh_l0[:4]
        one.bias_hh_l0.copy_(both.bias_hh_l0[4:])
    x = torch.randn(5, 2, 3, dtype=DOUBLE)
    assert_close(one(x)[0], both(x)[0], FLOAT64)


def test_one_bias_a_gate_of_the_gru_needs_no_bias_hh() -> None:
    layer = gatewise.Recurrent(cells.gru_reset_before, 3, 4, bias="input")
    assert "bias_hh_l0" not in dict(layer.named_parameters())


def test_dropout_acts_between_layers_in_training_only() -> None:
    layer = randomize(gatewise.GRU(3, 8, 2, dropout=0.5))
    plain = gatewise.GRU(3, 8, 2)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3)
    assert not torch.equal(layer(x)[0], plain(x)[0])
    torch.manual_seed(0)
    first = layer(x)[0]
    torch.manual_seed(0)
    assert torch.equal(layer(x)[0], first)
    layer.eval()
    assert torch.equal(layer(x)[0], plain(x)[0])


def test_dropout_of_all_leaves_the_last_layers_output_alone() -> None:
    layer = randomize(gatewise.GRU(3, 4, 2, dropout=1.0, dtype=DOUBLE))
    second = gatewise.GRU(4, 4, dtype=DOUBLE)
    second.load_state_dict({name.replace("l1", "l0"): p for name, p in layer.state_dict().items() if "l1" in name})
    x = torch.randn(5, 2, 3, dtype=DOUBLE)
    assert_close(layer(x)[0], second(torch.zeros(5, 2, 4, dtype=DOUBLE))[0], FLOAT64)


def test_dropout_of_one_layer_warns() -> None:
    for make in (lambda: gatewise.GRU(3, 4, dropout=0.5), lambda: gatewise.Recurrent(cells.gru, 3, 4, dropout=0.5)):
        with pytest.warns(UserWarning, match="dropout"):
            make()


@pytest.mark.parametrize(("cell", "theirs"), [(cells.gru, nn.GRU), (cells.lstm, nn.LSTM), (cells.rnn, nn.RNN)])
def test_recurrent_starts_as_torchs_layer_of_the_same_seed(cell: gatewise.Graph, theirs: type[nn.RNNBase]) -> None:
    torch.manual_seed(7)
    ours = gatewise.Recurrent(cell, 3, 4, 2, bidirectional=True)
    torch.manual_seed(7)
    for (name, p), (other, q) in zip(
        ours.named_parameters(), theirs(3, 4, 2, bidirectional=True).named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(p, q)


def test_device_and_dtype_of_the_parameters() -> None:
    layer = gatewise.Recurrent(cells.lstm_peephole, 3, 4, device="meta", dtype=torch.bfloat16)
    assert all(p.device.type == "meta" and p.dtype == torch.bfloat16 for p in layer.parameters())
    output, (_, c) = layer(torch.empty(5, 2, 3, device="meta", dtype=torch.bfloat16))
    assert output.shape == (5, 2, 4)
    assert c.device.type == "meta"


@pytest.mark.parametrize("alone", [*dict(gatewise.GRU(3, 4).named_parameters()), "x", "hx"])
def test_a_gradient_for_one_tensor_alone(alone: str) -> None:
    layer = randomize(gatewise.GRU(3, 4, dtype=DOUBLE))
    x, hx = torch.randn(5, 2, 3, dtype=DOUBLE), torch.randn(1, 2, 4, dtype=DOUBLE)
    tensors = {**dict(layer.named_parameters()), "x": x, "hx": hx}

    def gradient_of_all() -> dict[str, Tensor]:
        for t in tensors.values():
            t.requires_grad_()
        g = torch.autograd.grad(layer(x, hx)[0].square().sum(), tensors.values())
        return dict(zip(tensors, g, strict=True))

    expected = gradient_of_all()[alone]
    for name, t in tensors.items():
        t.requires_grad_(name == alone)
    assert_close(torch.autograd.grad(layer(x, hx)[0].square().sum(), tensors[alone])[0], expected, FLOAT64)


@pytest.mark.parametrize("cell", [cells.rnn, cells.gru, cells.lstm, cells.lstm_projected], ids=lambda c: c.name)
def test_under_autocast_all_is_in_its_dtype(cell: gatewise.Graph) -> None:
    layer = randomize(gatewise.Recurrent(cell, 3, 8, 2, proj_size=4 if cell.projects_output else 0))
    x = torch.randn(5, 2, 3)
    whole = layer(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        output, state = layer(x)
        again, _ = layer(x.bfloat16(), state)  # what a layer below made, and the state fed back
        layer(torch.zeros(5, 2, dtype=torch.long), layer.initial_state(2))
    assert output.dtype == again.dtype == torch.bfloat16
    assert all(s.dtype == torch.bfloat16 for s in tensors(state))
    assert_close(output.float(), whole, BFLOAT16)
    output.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.double()(x.double())[0].dtype == DOUBLE


@pytest.mark.parametrize(("name", "options"), PAIRS, ids=str)
def test_autocast_gives_the_dtypes_that_torch_gives(name: str, options: dict) -> None:
    """Where torch has one rule; what it does besides stands in docs/beside-torch.md."""
    dtypes = []
    for module in (gatewise, nn):
        layer = getattr(module, name)(5, 7, 2, bidirectional=True, **options)
        with torch.autocast("cpu", torch.bfloat16):
            output, state = layer(torch.randn(6, 4, 5).bfloat16())
        dtypes.append([output.dtype, *(s.dtype for s in tensors(state))])
    assert dtypes[0] == dtypes[1] == [torch.bfloat16] * len(dtypes[0])


def test_activation_checkpointing() -> None:
    layer = randomize(gatewise.LSTM(3, 4, dtype=DOUBLE))
    x = torch.randn(5, 2, 3, dtype=DOUBLE, requires_grad=True)
    made = []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        output = run(x)[0]
        made.append((output, *torch.autograd.grad(output.square().sum(), [x, *layer.parameters()])))
    for a, b in zip(*made, strict=True):
        assert torch.equal(a, b)


GARBAGE = """
import gc, torch, gatewise
layer, x = gatewise.LSTM(3, 4), torch.randn(5, 2, 3)
def calls():
    layer(x)[0].sum().backward()
    with torch.no_grad():
        layer(x)
calls()
while gc.collect():
    pass
gc.disable()
calls()
print(gc.collect())
"""


def test_a_call_leaves_no_garbage_for_pythons_collector() -> None:
    # In a process of its own: what other tests left behind can become garbage at any moment.
    done = subprocess.run([sys.executable, "-c", GARBAGE], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"  # else whole sequences live on until the collector runs


def test_repr() -> None:
    assert repr(gatewise.Recurrent(cells.gru, 3, 4, 2)) == "Recurrent(gru, 3, 4, num_layers=2)"
    assert repr(gatewise.GRU(3, 4, 2)) == "GRU(3, 4, num_layers=2)"


def test_the_layers_are_instances_of_torchs_classes_and_no_subclasses() -> None:
    # TorchDynamo breaks the graph at every subclass of nn.GRU; test_torch_compat.py has the rest.
    assert isinstance(gatewise.GRU(2, 3), nn.RNNBase)
    assert isinstance(gatewise.GRU(2, 3), nn.GRU)
    assert not issubclass(gatewise.GRU, nn.GRU)


# --- refusals --------------------------------------------------------------------------------------------

GRU = gatewise.GRU(3, 4, 2)
LSTM = gatewise.LSTM(3, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GRU(torch.randn(5, 2, 7)), RuntimeError, r"GRU: input has shape \(5, 2, 7\), expected 3 = input_size"),
        (lambda: GRU(torch.randn(5, 2, 7, 3)), ValueError, r"expected \(T, B, I\) or unbatched \(T, I\)"),
        (
            lambda: GRU(torch.randn(5, 2, 3).double()),
            ValueError,
            r"input is torch.float64, the weights are torch.float32",
        ),
        (lambda: GRU(torch.zeros(5, 2, 3, dtype=torch.long)), ValueError, r"integers mean one-hot, without the axis I"),
        (lambda: GRU(torch.zeros(5, 2, 3, dtype=torch.bool)), ValueError, r"input.to\(torch.float32\)$"),
        (lambda: GRU(torch.zeros(5, 2, 3, dtype=torch.cfloat)), ValueError, "input is torch.complex64"),
        (lambda: GRU(torch.zeros(5, 2, 3, device="meta")), RuntimeError, "input is on meta, the weights are on cpu"),
        (lambda: LSTM(torch.randn(5, 2, 3), (torch.zeros(1), None)), TypeError, r"hx is \(a tensor, NoneType\)"),
        (lambda: gatewise.Recurrent(cells.gru, 3, 4, batch_first=1), TypeError, "batch_first is 1, expected True"),
        (
            lambda: gatewise.Recurrent(cells.gru, 3, 4, proj_size=2.0),
            TypeError,
            "proj_size is 2.0, expected an integer",
        ),
        (lambda: GRU(torch.randn(0, 2, 3)), RuntimeError, "no steps"),
        (lambda: GRU([[1.0]]), TypeError, "input is a list"),
        (
            lambda: GRU(torch.randn(5, 2, 3), torch.zeros(1, 2, 4)),
            RuntimeError,
            r"GRU: hx has shape \(1, 2, 4\), expected \(2, 2, 4\) = \(num_layers \* num_directions, batch, hidden_size\)",  # noqa: E501
        ),
        (lambda: GRU(torch.randn(5, 2, 3), torch.zeros(2, 2, 4).double()), RuntimeError, "hx is torch.float64"),
        (lambda: GRU(torch.randn(5, 2, 3), torch.zeros(2, 2, 4, device="meta")), RuntimeError, "hx is on meta"),
        (
            lambda: GRU(torch.randn(5, 3), torch.zeros(2, 1, 4)),
            RuntimeError,
            r"hx has shape \(2, 1, 4\), expected \(2, 4\) = \(num_layers \* num_directions, hidden_size\)",
        ),
        (
            lambda: LSTM(torch.randn(5, 2, 3), torch.zeros(1, 2, 4)),
            RuntimeError,
            r"expected \(h, c\); layer.initial_state\(batch\) makes one",
        ),
        (lambda: GRU(torch.randn(5, 2, 3), (torch.zeros(1),) * 2), TypeError, "expected one tensor, h"),
        (
            lambda: LSTM(torch.randn(5, 2, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 3, 4))),
            RuntimeError,
            r"hx's c has shape \(1, 3, 4\)",
        ),
        (lambda: gatewise.RNN(3, 4, nonlinearity="sigmoid"), ValueError, "expected 'tanh' or 'relu'"),
        (lambda: gatewise.Recurrent("gru", 3, 4), TypeError, "expected what @gatewise.cell"),
        (lambda: gatewise.Recurrent(cells.gru, 0, 4), ValueError, "input_size is 0, expected at least 1"),
        (lambda: gatewise.Recurrent(cells.gru, 3, 4.0), TypeError, "hidden_size is 4.0"),
        (lambda: gatewise.Recurrent(cells.gru, 3, 4, bias="both"), ValueError, "expected True, False or 'input'"),
        (lambda: gatewise.Recurrent(cells.gru, 3, 4, 2, dropout=1.5), ValueError, "a probability"),
        (lambda: gatewise.Recurrent(cells.gru, 3, 4, 2, dropout=float("nan")), ValueError, "a probability"),
        (lambda: gatewise.Recurrent(cells.gru, 3, 4, proj_size=2), ValueError, "gru has no .hr"),
        (lambda: gatewise.Recurrent(cells.lstm_projected, 3, 4), ValueError, "expected 0 < proj_size < hidden_size"),
    ],
)
def test_a_fault_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
