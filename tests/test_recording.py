"""Recording: any value of any cell at every step, by every executor, with gradients; and nothing where it is off."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import Recipe, assert_close, randomize, recipes
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cpu import BUILT_IN, CHANGED, make
from tolerances import BFLOAT16, FLOAT32, FLOAT64, RANDOM_CELL
from torch import Tensor, nn

import gatewise
from gatewise import cells
from gatewise.scan import cpu

T, B, I, H = 6, 3, 5, 4
EXECUTORS = ["reference", *(["cpu"] if cpu.available() else [])]


def recorded(layer: gatewise.Recurrent, executor: str, x: Tensor, names: Any = None, **options: Any) -> dict[str, Any]:
    """What is seen in each layer, and the gradients of a loss that uses all of it and the output."""
    layer.executor = executor
    torch.manual_seed(0)
    x = x.detach().requires_grad_()
    with gatewise.record(layer, names) as seen:
        output, _ = layer(x, **options)
    values = {f"{key} {name}": v for key, named in seen.items() for name, v in named.items()}
    made = [output, *(torch.nan_to_num(v) for v in values.values())]
    weights = [torch.cos(torch.arange(m.numel()).to(m.dtype)).view_as(m) for m in made]
    loss = sum((w * m).sum() for w, m in zip(weights, made, strict=True))
    named = [("x", x), *layer.named_parameters()]
    gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    found = {f"gradient of {n}": g for (n, _), g in zip(named, gradients, strict=True) if g is not None}
    return {name: v.detach() for name, v in values.items()} | found


def compare(layer: gatewise.Recurrent, x: Tensor, tolerance: float, names: Any = None, **options: Any) -> None:
    """All executors see the same, and so do gradients."""
    expected, *others = (recorded(layer, e, x, names, **options) for e in EXECUTORS)
    for made in others:
        assert made.keys() == expected.keys()
        for name, value in made.items():
            assert torch.equal(value.isnan(), expected[name].isnan()), name
            assert_close(torch.nan_to_num(value), torch.nan_to_num(expected[name]), tolerance, name)


# --- the values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_gates_of_a_gru_are_those_of_its_equations(executor: str) -> None:
    layer = randomize(gatewise.GRU(I, H, dtype=torch.float64))
    layer.executor = executor
    x = torch.randn(T, B, I, dtype=torch.float64)
    with gatewise.record(layer) as seen, torch.no_grad():
        output, _ = layer(x)
    w, u, b, d = (p.chunk(3) for p in (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0))
    h = torch.zeros(B, H, dtype=torch.float64)
    assert list(seen) == ["l0"]
    assert set(seen["l0"]) == {"r", "z", "n", "h"}
    for t in range(T):
        r, z = (torch.sigmoid(x[t] @ w[k].T + b[k] + h @ u[k].T + d[k]) for k in (0, 1))
        n = torch.tanh(x[t] @ w[2].T + b[2] + r * (h @ u[2].T + d[2]))
        h = (1 - z) * n + z * h
        for name, value in zip("rznh", (r, z, n, h), strict=True):
            assert_close(seen["l0"][name][t], value, FLOAT64, f"{name} at {t}")
    assert torch.equal(seen["l0"]["h"], output)


def test_an_lstm_s_states_are_the_new_ones() -> None:
    layer, x = randomize(gatewise.LSTM(I, H, proj_size=2)), torch.randn(T, B, I)
    with gatewise.record(layer, ["h", "c", "o"]) as seen:
        output, (_, c) = layer(x)
    assert {name: tuple(v.shape) for name, v in seen["l0"].items()} == {"h": (T, B, 2), "c": (T, B, H), "o": (T, B, H)}
    assert torch.equal(seen["l0"]["h"], output)
    assert torch.equal(seen["l0"]["c"][-1], c[0])


@pytest.mark.parametrize("cell", [*BUILT_IN, *CHANGED], ids=lambda c: c.name)
def test_executors_see_the_same(cell: gatewise.Graph) -> None:
    layer = make(cell, I, 19, 2, bidirectional=True, learn_state=True)
    x, lengths = torch.randn(T, B, I, dtype=torch.float64), torch.tensor([4, 5, 2])
    compare(layer, x, FLOAT64 * 100)
    compare(layer, x, FLOAT64 * 100, lengths=lengths, resets=torch.rand(T, B) > 0.6)
    compare(make(cell, I, 40, dtype=torch.float32), x.float(), FLOAT32 * 10)


@settings(max_examples=60, deadline=None)
@given(recipe=recipes, data=st.data())
def test_any_value_of_random_cells(recipe: Recipe, data: st.DataObject) -> None:
    cell = recipe.cell()
    nodes = data.draw(st.lists(st.integers(0, len(cell.nodes) - 1), min_size=1, max_size=4, unique=True))
    size = 3 if cell.projects_output else 0
    layer = randomize(gatewise.Recurrent(cell, I, H, proj_size=size, dtype=torch.float64))
    compare(layer, torch.randn(T, 2, I, dtype=torch.float64), RANDOM_CELL, [f"%{i}" for i in nodes])


@pytest.mark.parametrize(
    "cell", [gatewise.layer_norm(c) for c in (cells.lstm, cells.gru_reset_before)], ids=lambda c: c.name
)
def test_means_which_all_units_share_are_seen_by_each(cell: gatewise.Graph) -> None:
    layer, x = make(cell, I, 19), torch.randn(T, B, I, dtype=torch.float64)
    shared = sorted(cell.shared)
    compare(layer, x, FLOAT64 * 100, [f"%{i}" for i in shared])
    for i in shared[:2]:
        compare(layer, x, FLOAT64 * 100, f"%{i}")
    with gatewise.record(layer, f"%{shared[0]}") as seen:
        layer(x)
    (value,) = seen["l0"].values()
    assert value.shape == (T, B, 19)
    assert torch.equal(value, value[..., :1].expand_as(value))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_gradients_through_what_is_recorded(executor: str) -> None:
    layer = randomize(gatewise.GRU(2, 3, dtype=torch.float64))
    layer.executor = executor

    def gates(x: Tensor) -> tuple[Tensor, ...]:
        with gatewise.record(layer, ["z", "n"]) as seen:
            layer(x)
        return seen["l0"]["z"], seen["l0"]["n"]

    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gates, (x,))
    assert torch.autograd.gradgradcheck(gates, (x,))


@gatewise.cell(gates="n")
def stepped(x, h):  # type: ignore[no-untyped-def]
    large = h > 0.1
    half = torch.where(large, 0.5 * h, h)
    n = torch.tanh(x.n + half.n)
    return n


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_comparison_is_recorded_as_numbers(executor: str) -> None:
    layer = randomize(gatewise.Recurrent(stepped, I, H))
    layer.executor = executor
    with gatewise.record(layer) as seen:
        output, _ = layer(torch.randn(T, B, I))
    before = torch.cat([torch.zeros(1, B, H), output[:-1]])
    assert torch.equal(seen["l0"]["large"], (before > 0.1).float())
    assert torch.equal(seen["l0"]["n"], seen["l0"]["h"])


# --- the axes ---------------------------------------------------------------------------------------------


def test_the_reverse_direction_is_in_the_input_s_order() -> None:
    layer, x = randomize(gatewise.GRU(I, H, bidirectional=True)), torch.randn(T, B, I)
    with gatewise.record(layer, "z") as seen:
        layer(x)
    other = gatewise.GRU(I, H)
    own = {n.removesuffix("_reverse"): p for n, p in layer.state_dict().items() if n.endswith("_reverse")}
    other.load_state_dict(own)
    with gatewise.record(other, "z") as expected:
        other(x.flip(0))
    assert_close(seen["l0_reverse"]["z"], expected["l0"]["z"].flip(0), FLOAT32)


def test_steps_beyond_the_lengths_are_nan() -> None:
    layer, x = randomize(gatewise.GRU(I, H, 2, bidirectional=True)), torch.randn(T, B, I)
    lengths = torch.tensor([2, 5, 4])  # none of which is T
    with gatewise.record(layer) as seen:
        output, _ = layer(x, lengths=lengths)
    beyond = torch.arange(T).unsqueeze(1) >= lengths
    assert list(seen) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    for named in seen.values():
        for value in named.values():
            assert value.shape == (T, B, H)
            assert torch.equal(value.isnan().all(2), beyond)
            assert torch.equal(value.isnan().any(2), beyond)
    assert torch.equal(torch.nan_to_num(seen["l1_reverse"]["h"]), output[..., H:])


def test_time_comes_first_in_every_layout() -> None:
    x = torch.randn(B, T, I)
    layer = randomize(gatewise.GRU(I, H, batch_first=True))
    with gatewise.record(layer) as seen:
        output, _ = layer(x)
    assert torch.equal(seen["l0"]["h"], output.transpose(0, 1))
    with gatewise.record(layer) as seen:
        output, _ = layer(x[0])
    assert torch.equal(seen["l0"]["h"], output.unsqueeze(1))
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([2, 6, 4]), batch_first=True, enforce_sorted=False)
    with gatewise.record(layer) as seen:
        layer(packed)
    assert seen["l0"]["z"].shape == (T, B, H)
    assert (~seen["l0"]["z"].isnan()).all(2).sum(0).tolist() == [2, 6, 4]


def test_one_step_layers_and_streams_join() -> None:
    layer, x = randomize(gatewise.LSTM(I, H, 2)), torch.randn(T, B, I)
    with gatewise.record(layer) as whole:
        layer(x)
    with gatewise.record(layer, join=True) as seen, gatewise.record(layer) as last:
        state = None
        for x_t in x:
            _, state = layer.step(x_t, state)
    for key, named in whole.items():
        for name, value in named.items():
            assert_close(seen[key][name], value, FLOAT32)
            assert torch.equal(last[key][name], seen[key][name][-1:])
    cell = gatewise.LSTMCell(I, H)
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in layer.state_dict().items() if "_l0" in name})
    with gatewise.record(cell, "f", join=True) as seen:
        state = None
        for x_t in x:
            state = cell(x_t, state)
    assert_close(seen["l0"]["f"], whole["l0"]["f"], FLOAT32)


@pytest.mark.parametrize("steps", [2, -1, slice(1, 4), slice(None, None, 2), [0, -1], range(3), torch.tensor([0, 1])])
def test_steps_are_taken(steps: Any) -> None:
    layer, x = gatewise.GRU(I, H), torch.randn(T, B, I)
    with gatewise.record(layer, "z") as whole, gatewise.record(layer, "z", steps=steps) as seen:
        layer(x)
    every = torch.arange(T)[steps].reshape(-1).tolist() if not isinstance(steps, range) else list(steps)
    assert torch.equal(seen["l0"]["z"], whole["l0"]["z"][every])
    # A few steps of many do not keep the others' memory.
    assert seen["l0"]["z"].untyped_storage().nbytes() == seen["l0"]["z"].numel() * 4


# --- where and when ---------------------------------------------------------------------------------------


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = gatewise.GRU(I, H), nn.ModuleList([gatewise.LSTM(H, 2 * H), nn.Linear(2 * H, 3)])

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.rest[1](self.rest[0](self.first(x)[0])[0])
        return made


def test_layers_are_found_by_their_names_in_a_model() -> None:
    model, x = Reader(), torch.randn(T, B, I)
    before = model(x)
    with gatewise.record(model, ["z", "f"]) as seen:
        output = model(x)
    assert {key: list(named) for key, named in seen.items()} == {"first.l0": ["z"], "rest.0.l0": ["f"]}
    assert seen["rest.0.l0"]["f"].shape == (T, B, 2 * H)
    assert seen.cells == {"first.l0": cells.gru, "rest.0.l0": cells.lstm}
    assert_close(output, before, FLOAT32)
    (seen["first.l0"]["z"].mean() + output.mean()).backward()
    assert model.first.weight_ih_l0.grad is not None
    assert repr(seen) == f"first.l0: z ({T}, {B}, {H})\nrest.0.l0: f ({T}, {B}, {2 * H})"


def test_inside_a_lightning_module_without_gradients() -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Reader()

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.net(x)
            return made

    with gatewise.record(Module(), "r") as seen, torch.inference_mode():
        Module()(torch.randn(T, B, I))  # another one
    assert not seen
    module = Module()
    with gatewise.record(module, "r") as seen, torch.no_grad():
        module(torch.randn(T, B, I))
    assert list(seen) == ["net.first.l0"]
    assert not seen["net.first.l0"]["r"].requires_grad


def test_masks_are_those_of_the_call() -> None:
    torch.manual_seed(0)
    layer = randomize(gatewise.Recurrent(gatewise.zoneout(cells.gru, 0.5), I, 50))
    names = [f"%{i}" for i in layer.cell.masks]
    with gatewise.record(layer, names) as seen:
        layer(torch.randn(T, B, I))
    (mask,) = seen["l0"].values()
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.shape == (T, B, 50)
    layer.eval()
    with gatewise.record(layer) as seen:
        layer(torch.randn(T, B, I))
    assert seen.cells["l0"] == layer.cell.expected


def test_bfloat16_and_autocast() -> None:
    layer, x = randomize(gatewise.GRU(I, H)), torch.randn(T, B, I)
    with gatewise.record(layer) as exact:
        layer(x)
    half = copy.deepcopy(layer).bfloat16()
    with gatewise.record(half) as seen:
        half(x.bfloat16())
    with gatewise.record(layer) as cast, torch.autocast("cpu", torch.bfloat16):
        layer(x)
    for made in (seen, cast):
        for name, value in exact["l0"].items():
            assert made["l0"][name].dtype is torch.bfloat16
            assert_close(made["l0"][name].float(), value, BFLOAT16)


def test_only_what_is_asked_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[int] = []
    run = gatewise.scan.directions.fused.run

    def counted(cell: gatewise.Graph, *rest: Any) -> Any:
        watched.append(len(cell.watched))
        return run(cell, *rest)

    monkeypatch.setattr(gatewise.scan.directions.fused, "run", counted)
    layer, x = gatewise.LSTM(I, H), torch.randn(T, B, I)
    lengths = torch.tensor([T] * B)  # which go the usual way, recorded or not
    for names in (["f"], ["h"], ["f", "c"], None):
        with gatewise.record(layer, names):
            layer(x, lengths=lengths)
    layer(x, lengths=lengths)
    assert watched == [1, 0, 2, 5, 0]


def test_nothing_stays_behind() -> None:
    layer, x = gatewise.GRU(I, H), torch.randn(T, B, I)
    with pytest.raises(ZeroDivisionError), gatewise.record(layer) as seen:
        raise ZeroDivisionError
    assert layer._recorders == ()
    assert not seen
    layer(x)
    assert not seen
    assert repr(seen) == "nothing was recorded"
    with gatewise.record(layer) as seen:
        layer(x)
        layer(torch.randn(2, 1, I))
    assert seen["l0"]["z"].shape == (2, 1, H)  # the last call's


def test_copies_made_meanwhile_are_not_recorded() -> None:
    layer, x = gatewise.GRU(I, H), torch.randn(T, B, I)
    with gatewise.record(layer, "z") as seen:
        layer(x)
        copied = copy.deepcopy(layer)
    assert copied._recorders == ()
    copied(x[:2])
    assert seen["l0"]["z"].shape == (T, B, H)
    assert_close(copied(x)[0], layer(x)[0], FLOAT32)


def test_what_was_seen_stays_when_the_output_is_changed() -> None:
    layer, x = gatewise.GRU(I, H), torch.randn(T, B, I)
    with gatewise.record(layer) as seen, torch.no_grad():
        output, _ = layer(x)
    before = output.clone()
    output.zero_()
    assert torch.equal(seen["l0"]["h"], before)


# --- what is refused --------------------------------------------------------------------------------------


def test_bad_requests_say_what_is_wrong() -> None:
    layer, x = gatewise.GRU(I, H), torch.randn(T, B, I)
    for model, names, message in (
        (layer, ["z", "u"], "no cell has a value named 'u', expected some of: h n r z"),
        (nn.Linear(2, 2), None, r"Linear has no layer of gatewise's; expected gatewise.GRU, LSTM"),
        (nn.Sequential(nn.GRU(2, 2)), None, r"Sequential has no layer .*\(0\) show nothing, gatewise.replace\(model\)"),
    ):
        with pytest.raises(ValueError, match=message), gatewise.record(model, names):
            pass
    with pytest.raises(IndexError, match="step 6 of a call with 6 steps"), gatewise.record(layer, steps=[0, 6]):
        layer(x)
    with gatewise.record(layer, join=True):
        layer(x)
        with pytest.raises(ValueError, match="a batch of 3 and now with 2"):
            layer(x[:, :2])
    with gatewise.record(layer) as seen:
        layer(x)
    with pytest.raises(KeyError, match="'l1' was not recorded; expected one of: l0"):
        seen["l1"]


def test_what_sees_no_values_refuses() -> None:
    layer, x = gatewise.GRU(I, H), torch.randn(T, B, I)
    with pytest.raises(RuntimeError, match="runs in"), gatewise.record(layer):
        torch.func.vmap(lambda x: layer(x)[0])(x.unsqueeze(0))
    with pytest.raises(Exception, match="record: the layer runs in"), gatewise.record(layer):
        torch.compile(layer, backend="eager", fullgraph=True)(x)


def test_what_is_watched_travels_with_the_text() -> None:
    watching = cells.lstm.watching([dict(cells.lstm.names)["f"]])
    assert gatewise.Graph.parse(watching.text) == watching != cells.lstm
    assert watching.watching(()) == cells.lstm
    for bad in ("watch %99", "watch %0 %1", f"watch %{cells.lstm.outputs[0][1]}"):
        with pytest.raises(gatewise.CellError):
            gatewise.Graph.parse(cells.lstm.text + bad)
