"""The C++ kernels against the reference: random cells, every op, every instruction set, sizes that fit no vector."""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Recipe, assert_close, randomize, recipes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_ops import PARAMS, POINTS
from tolerances import BFLOAT16, FLOAT32, FLOAT64
from torch import Tensor

import gatewise
from gatewise import cells
from gatewise.graph.ops import OPS
from gatewise.scan import cpu, executors

pytestmark = pytest.mark.skipif(not cpu.instruction_set(), reason="gatewise was installed without a C++ compiler")
BUILT_IN = [v for v in vars(cells).values() if isinstance(v, gatewise.Graph)]
CHANGED = [
    gatewise.layer_norm(cells.lstm),
    gatewise.layer_norm(cells.gru_reset_before),
    gatewise.zoneout(gatewise.recurrent_dropout(cells.lstm_projected, 0.3), 0.2),
    gatewise.clip_state_grad(cells.gru, 0.01),
]


def results_of(layer: gatewise.Recurrent, executor: str, x: Tensor, **options: Any) -> list[Tensor]:
    """Outputs, states and all gradients, by one executor, from the same seed."""
    layer.executor = executor
    torch.manual_seed(0)
    x = x.detach().requires_grad_()
    output, state = layer(x, **options)
    made = [output, *(state if isinstance(state, tuple) else (state,))]
    weights = [torch.cos(torch.arange(m.numel()).double()).to(m.dtype).view_as(m) for m in made]
    loss = sum((w * m).sum() for w, m in zip(weights, made, strict=True))
    return [m.detach() for m in made] + list(torch.autograd.grad(loss, [x, *layer.parameters()]))


def compare(layer: gatewise.Recurrent, x: Tensor, tolerance: float, **options: Any) -> None:
    ours, expected = (results_of(layer, executor, x, **options) for executor in ("cpu", "reference"))
    for k, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert_close(a, b, tolerance, f"result {k}")


def make(cell: gatewise.Graph, inputs: int, hidden: int, layers: int = 1, **options: Any) -> gatewise.Recurrent:
    size = max(1, hidden // 2) if cell.projects_output else 0
    layer = gatewise.Recurrent(cell, inputs, hidden, layers, proj_size=size, **{"dtype": torch.float64, **options})
    randomize(layer)
    with torch.no_grad():
        for p in layer.parameters():
            p.div_(max(1.0, hidden**0.5 / 4))  # sums of many terms stay where functions are not flat
    return layer


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (4, 2), (3, 7), (2, 33), (5, 70)])
@pytest.mark.parametrize("cell", [*BUILT_IN, *CHANGED], ids=lambda c: c.name)
def test_cells_at_odd_sizes(cell: gatewise.Graph, steps: int, batch: int) -> None:
    for hidden in (2, 17, 32, 51, 130):
        layer = make(cell, 3, hidden)
        compare(layer, torch.randn(steps, batch, 3, dtype=torch.float64), FLOAT64 * 10)
    layer = make(cell, 3, 40, dtype=torch.float32)
    compare(layer, torch.randn(steps, batch, 3), FLOAT32)


@pytest.mark.parametrize("cell", [*BUILT_IN, *CHANGED], ids=lambda c: c.name)
def test_lengths_resets_and_learned_states(cell: gatewise.Graph) -> None:
    layer = make(cell, 3, 19, 2, bidirectional=True, learn_state=True)
    x, lengths, resets = (
        torch.randn(6, 5, 3, dtype=torch.float64),
        torch.tensor([3, 6, 1, 4, 2]),
        torch.rand(6, 5) > 0.6,
    )
    compare(layer, x, FLOAT64 * 10, lengths=lengths)
    compare(layer, x, FLOAT64 * 10, resets=resets)
    compare(layer, x, FLOAT64 * 10, lengths=lengths, resets=resets)


@pytest.mark.parametrize("instructions", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("cell", [cells.gru, cells.lstm_projected, CHANGED[0]], ids=lambda c: c.name)
def test_every_instruction_set(cell: gatewise.Graph, instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if cpu.INSTRUCTION_SETS.index(instructions) > cpu.INSTRUCTION_SETS.index(cpu.instruction_set()):
        pytest.skip(f"this machine has no {instructions}")
    monkeypatch.setattr(cpu, "use", instructions)
    for hidden, dtype, tolerance in ((17, torch.float64, FLOAT64 * 10), (66, torch.float32, FLOAT32)):
        layer = make(cell, 3, hidden, dtype=dtype)
        for batch in (1, 13, 40):
            compare(layer, torch.randn(4, batch, 3, dtype=dtype), tolerance)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_more_than_rounding(threads: int) -> None:
    layer = make(cells.lstm, 3, 64, dtype=torch.float32)
    x, before = torch.randn(40, 50, 3), torch.get_num_threads()
    expected = results_of(layer, "cpu", x)
    try:
        torch.set_num_threads(threads)
        made = results_of(layer, "cpu", x)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(made, expected, strict=True):
        assert_close(a, b, FLOAT32)


# --- random cells ---------------------------------------------------------------------------------------


def check_recipe(recipe: Recipe, sizes: tuple[int, int, int]) -> None:
    steps, batch, hidden = sizes
    cell = recipe.cell()
    torch.manual_seed(0)
    layer = make(cell, 2, max(hidden, 2))
    x = torch.randn(steps, batch, 2, dtype=torch.float64)
    expected = results_of(layer, "reference", x)
    if not all(torch.isfinite(e).all() for e in expected):
        return
    # Rounding may grow: as much as it does in the reference when its input moves by a rounding is allowed for.
    moved = results_of(layer, "reference", x * (1 + 1e-15))
    for k, (a, b, c) in enumerate(zip(results_of(layer, "cpu", x), expected, moved, strict=True)):
        grown = (b - c).abs().max().item() / max(1.0, b.abs().max().item()) if b.numel() else 0.0
        assert_close(a, b, max(1e-9, 1e3 * grown), f"result {k} of {cell.text}")


SIZES = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 20))


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(recipes, SIZES)
def test_random_cells(recipe: Recipe, sizes: tuple[int, int, int]) -> None:
    check_recipe(recipe, sizes)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(recipes, SIZES)
def test_a_thousand_random_cells(recipe: Recipe, sizes: tuple[int, int, int]) -> None:
    check_recipe(recipe, sizes)


# --- one op ---------------------------------------------------------------------------------------------


def value_of(name: str, x: Tensor, executor: str = "cpu") -> Tensor:
    """op(x) through a cell of one step whose weight is the identity; the second argument is 0.75."""
    row = OPS[name]

    @gatewise.cell(gates="a")
    def one_op(x, h):
        a = x.a
        functions = [getattr(m, name) for m in (torch, torch.nn.functional) if hasattr(m, name)]
        function = row.run if row.scalars else functions[0]
        if name == "where":
            value = torch.where(a > 0.1, a, 0.75)
        else:
            value = function(a, *([torch.tensor(0.75)] if row.arity == 2 else []), **PARAMS.get(name, {}))
        if row.boolean:
            value = torch.where(value, 1.0, 0.0)
        return value

    layer = gatewise.Recurrent(one_op, 1, 1, bias=False, dtype=x.dtype)
    torch.nn.init.ones_(layer.weight_ih_l0)
    layer.executor = executor
    with torch.no_grad():
        return layer(x.reshape(1, -1, 1))[0].reshape(-1)


ELEMENTWISE = [n for n in OPS if n not in ("mean", "clip_grad")]
SPECIAL = [math.inf, -math.inf, math.nan, 0.0, 1e-30, -1e-30, 1e30, -1e30, 100.0, -100.0, 1e-42]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_at_kinks_at_infinity_and_of_nan(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([*POINTS, *SPECIAL], dtype=dtype)
    made, expected = value_of(name, x), value_of(name, x, "reference")
    for a, b, at in zip(made.tolist(), expected.tolist(), x.tolist(), strict=True):
        assert (math.isnan(a) and math.isnan(b)) or a == b or abs(a - b) <= 1e-6 * abs(b) + 1e-37, (at, a, b)


@pytest.mark.parametrize("name", ["exp", "sigmoid", "tanh"])
def test_float32_functions_are_within_two_ulp(name: str) -> None:
    exact = {"exp": np.exp, "sigmoid": lambda v: 1 / (1 + np.exp(-v)), "tanh": np.tanh}[name]
    x = torch.cat([torch.linspace(-90, 90, 400001), torch.linspace(-1, 1, 200001), torch.logspace(-30, 0, 2001)])
    made, true = value_of(name, x).numpy(), exact(x.double().numpy())
    normal = (np.abs(true) > 1e-37) & (np.abs(true) < 3e38)
    ulp = np.spacing(np.abs(true[normal]).astype(np.float32)).astype(np.float64)
    assert (np.abs(made[normal] - true[normal]) / ulp).max() <= 2


# --- what is refused, and shown ---------------------------------------------------------------------------


def test_a_named_executor_that_can_not_run_says_why() -> None:
    layer = gatewise.GRU(3, 4, dtype=torch.float16)
    layer.executor = "cpu"
    with pytest.raises(RuntimeError, match=r"'cpu' can't run gru: the tensors are torch.float16"):
        layer(torch.zeros(5, 2, 3, dtype=torch.float16))
    layer.executor = "gpu"
    with pytest.raises(ValueError, match="executor is 'gpu', expected one of: auto reference cpu"):
        layer(torch.zeros(5, 2, 3, dtype=torch.float16))


def test_explain_says_what_ran_and_why() -> None:
    layer, x = gatewise.GRU(3, 4, 2), torch.zeros(5, 2, 3)
    assert gatewise.explain(layer, x) == (
        f"l0: gru runs on cpu: C++ kernels, {cpu.instruction_set()}\n"
        f"l1: gru runs on cpu: C++ kernels, {cpu.instruction_set()}"
    )
    layer.executor = "reference"
    assert gatewise.explain(layer, x).startswith("l0: gru runs on reference: it was asked for")
    half = gatewise.GRU(3, 4, dtype=torch.float16)
    assert "reference: the tensors are torch.float16" in gatewise.explain(half, x.half())
    with pytest.raises(TypeError, match="got Sequential, expected a layer of gatewise's"):
        gatewise.explain(torch.nn.Sequential(layer), x)


def test_without_kernels_the_reference_runs_and_explain_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gatewise.scan._kernels", None)  # as if it had not been built
    bare = importlib.reload(importlib.import_module("gatewise.scan.cpu"))
    monkeypatch.undo()
    missing = bare._missing
    importlib.reload(bare)
    monkeypatch.setattr(cpu, "_kernels", None)
    monkeypatch.setattr(cpu, "_missing", missing)
    layer, x = gatewise.GRU(3, 4), torch.zeros(5, 2, 3)
    layer(x)[0].sum().backward()
    assert "reference: gatewise was installed without its C++ kernels; install a C++ compiler" in gatewise.explain(
        layer, x
    )


# --- the shortest way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "make_layer",
    [
        lambda **o: gatewise.GRU(5, 7, **o),
        lambda **o: gatewise.GRU(5, 7, num_layers=3, bias=False, reset_after=False, **o),
        lambda **o: gatewise.LSTM(5, 7, num_layers=2, **o),
        lambda **o: gatewise.LSTM(5, 7, num_layers=2, proj_size=3, **o),
        lambda **o: gatewise.RNN(5, 7, nonlinearity="relu", **o),
        lambda **o: gatewise.Recurrent(cells.lstm_projected, 5, 7, proj_size=4, **o),
        lambda **o: gatewise.Recurrent(cells.gru, 5, 7, num_layers=2, bias="input", **o),
        lambda **o: gatewise.Recurrent(cells.lstm_peephole, 5, 7, learn_state=True, **o),
    ],
)
@pytest.mark.parametrize("batch_first", [False, True])
def test_plain_calls_give_what_the_usual_way_gives(make_layer: Any, batch_first: bool, dtype: torch.dtype) -> None:
    layer = randomize(make_layer(batch_first=batch_first, dtype=dtype))
    for steps, batch in ((1, 1), (1, 3), (6, 1), (4, 9)):
        x = torch.randn(*((batch, steps) if batch_first else (steps, batch)), 5, dtype=dtype)
        hx = tuple(torch.randn(s, dtype=dtype) for s in layer.state_shapes(batch))
        for before in (None, hx if len(hx) > 1 else hx[0]):
            made = []
            for usual in (False, True):
                x = x.detach().requires_grad_()
                with executors.watch() if usual else contextlib.nullcontext():  # what is watched goes the usual way
                    output, state = layer(x, before)
                    with torch.no_grad():
                        bare, after = layer(x, before)
                        if steps == 1:
                            step = layer.step(x.detach().flatten(0, 1), before)
                            assert torch.equal(step[0], bare.flatten(0, 1))
                states = state if isinstance(state, tuple) else (state,)
                loss = output.square().sum() + sum((2 * s).sin().sum() for s in states)
                learned = () if before is None else tuple(p for n, p in layer.named_parameters() if "_0_l" in n)
                reached = [p for p in layer.parameters() if not any(p is q for q in learned)]
                gradients = torch.autograd.grad(loss, [x, *reached])
                others = (bare, *(after if isinstance(after, tuple) else (after,)))
                made.append([output, *states, *others, *gradients])
            for a, b in zip(*made, strict=True):
                assert a.shape == b.shape
                assert torch.equal(a, b)  # the same kernels


def test_weights_that_are_not_plain_go_the_usual_way() -> None:
    layer, x = randomize(gatewise.GRU(4, 6)), torch.randn(3, 2, 4)
    expected = layer(x)[0]
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.t().contiguous().t()  # laid out otherwise
    assert_close(layer(x)[0], expected, FLOAT32)
    for wrong in (layer.weight_hh_l0.data[:-1], layer.weight_hh_l0.data.t().contiguous()):
        layer.weight_hh_l0.data = wrong
        with pytest.raises(RuntimeError):
            layer(x)
    layer.executor = "quickest"
    with pytest.raises(ValueError, match="executor is 'quickest'"):
        layer(x)


def test_gradients_of_part_of_the_weights_alone() -> None:
    layer, x = randomize(gatewise.LSTM(4, 6, num_layers=3)), torch.randn(3, 2, 4)
    whole = torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters()))
    for k, (name, parameter) in enumerate(layer.named_parameters()):
        for other in layer.parameters():
            other.requires_grad_(other is parameter)
        assert_close(torch.autograd.grad(layer(x)[0].sum(), parameter)[0], whole[k], FLOAT32, name)


@gatewise.cell(gates="a")
def added_mean(x, h):  # type: ignore[no-untyped-def]
    m = torch.mean(h)
    return torch.tanh(x.a + h.a + m)


@gatewise.cell(gates="a b")
def projected_mean(x, h):  # type: ignore[no-untyped-def]
    m = torch.mean(torch.tanh(x.b))
    return torch.tanh((m + 0.5 * h).a + m)


@gatewise.cell(gates="a")
def means_multiplied(x, h, *, p):  # type: ignore[no-untyped-def]
    m, q = torch.mean(h), torch.mean(p)
    return torch.tanh(x.a + h.a + m * q)


@gatewise.cell(gates="a b")
def state_of_means(x, h, c):  # type: ignore[no-untyped-def]
    c = torch.mean(x.b * h) + 0 * c
    return torch.tanh(x.a + h.a * c), torch.mean(c)


@gatewise.cell(gates="a b")
def mean_projected(x, h):  # type: ignore[no-untyped-def]
    m = torch.mean(h)
    return torch.tanh(x.a + m.a + torch.mean(x.b).b) + 0.1 * m


@gatewise.cell(gates="a b")
def mean_projected_twice(x, h):  # type: ignore[no-untyped-def]
    m = torch.mean(h)
    return torch.tanh(x.a + m.a + torch.sigmoid(x.b) * m.b).hr


of_means = pytest.mark.parametrize(
    "cell",
    [added_mean, projected_mean, means_multiplied, state_of_means, mean_projected, mean_projected_twice],
    ids=lambda c: c.name,
)


@of_means
def test_gradients_of_means_are_those_of_differences(cell: gatewise.Graph) -> None:
    """The reference has its gradients from the same backward graph as the kernels."""
    layer: Any = make(cell, 3, 4)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *p: torch.func.functional_call(layer, dict(zip(names, p, strict=True)), (x,))[0], (x, *parameters)
    )


@of_means
def test_means_wherever_they_are_read(cell: gatewise.Graph) -> None:
    for hidden in (3, 8, 17, 40, 130):
        for batch in (1, 2, 13, 40):
            layer = make(cell, 3, hidden)
            compare(layer, torch.randn(3, batch, 3, dtype=torch.float64), FLOAT64 * 10)


# --- bfloat16 ---------------------------------------------------------------------------------------------


def errors_in_bfloat16(layer: gatewise.Recurrent, x: Tensor, executor: str, **options: Any) -> list[float]:
    """Of every result, against float64: the norm of the difference, relative to the result's."""
    exact = copy.deepcopy(layer).double()
    made, true = results_of(layer, executor, x, **options), results_of(exact, "reference", x.double(), **options)
    assert all(m.dtype is torch.bfloat16 for m in made)
    return [float((m.double() - t).norm() / t.norm().clamp(min=1e-3)) for m, t in zip(made, true, strict=True)]


@pytest.mark.parametrize("instructions", ["portable", "avx512_bf16"])
@pytest.mark.parametrize("cell", [*BUILT_IN, CHANGED[0], CHANGED[3]], ids=lambda c: c.name)
def test_bfloat16_is_nearer_than_torch_s_own(
    cell: gatewise.Graph, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cpu.INSTRUCTION_SETS.index(instructions) > cpu.INSTRUCTION_SETS.index(cpu.instruction_set()):
        pytest.skip(f"this machine has no {instructions}")
    monkeypatch.setattr(cpu, "use", instructions)
    for steps, batch, inputs, hidden in ((1, 2, 3, 8), (5, 3, 7, 17), (3, 40, 6, 35), (4, 13, 33, 66)):
        layer = make(cell, inputs, hidden, dtype=torch.bfloat16)
        x = torch.randn(steps, batch, inputs, dtype=torch.bfloat16)
        ours, reference = (errors_in_bfloat16(layer, x, executor) for executor in ("cpu", "reference"))
        for mine, other in zip(ours, reference, strict=True):
            assert mine <= max(BFLOAT16 / 4, 1.3 * other), (steps, batch, ours, reference)


def test_bfloat16_by_all_ways() -> None:
    layer = make(cells.lstm, 5, 20, 2, dtype=torch.bfloat16, bidirectional=True, learn_state=True)
    x, lengths = torch.randn(6, 7, 5, dtype=torch.bfloat16), torch.tensor([3, 6, 1, 4, 2, 6, 5])
    errors = errors_in_bfloat16(layer, x, "cpu", lengths=lengths, resets=torch.rand(6, 7) > 0.6)
    assert max(errors) < BFLOAT16, errors
    single = make(cells.gru, 5, 20, dtype=torch.bfloat16)
    single.executor = "cpu"
    output, state = single(x)
    compiled, other = torch.compile(single, fullgraph=True, backend="aot_eager")(x)
    assert_close(compiled.float(), output.float(), BFLOAT16)
    assert_close(other.float(), state.float(), BFLOAT16)
    assert "cpu" in gatewise.explain(single, x)


@pytest.mark.skipif(cpu.instruction_set() != "avx512_bf16", reason="this machine has no products in bfloat16")
def test_bfloat16_products_round_what_they_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = make(cells.gru, 33, 66, dtype=torch.bfloat16), torch.randn(4, 13, 33, dtype=torch.bfloat16)
    rounded = layer(x)[0]
    monkeypatch.setattr(cpu, "use", "avx512")
    assert not torch.equal(layer(x)[0], rounded)


# --- the products around the scan -------------------------------------------------------------------------


@pytest.mark.parametrize("instructions", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_at_odd_sizes(dtype: torch.dtype, instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if cpu.INSTRUCTION_SETS.index(instructions) > cpu.INSTRUCTION_SETS.index(cpu.instruction_set()):
        pytest.skip(f"this machine has no {instructions}")
    monkeypatch.setattr(cpu, "use", instructions)
    tolerance = FLOAT64 if dtype == torch.float64 else FLOAT32 * 10
    sizes = (
        (1, 1, 1, 1),
        (13, 5, 7, 5),
        (3, 11, 256, 35),
        (70, 2, 51, 43),
        (7, 10, 48, 16),
        (1, 4, 33, 20),
        (2, 1, 9, 70),
    )
    for steps, batch, inputs, hidden in sizes:
        layer = randomize(gatewise.GRU(inputs, hidden, dtype=dtype))
        compare(layer, torch.randn(steps, batch, inputs, dtype=dtype), tolerance)


def test_nothing_that_is_read_was_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = cpu.empty
    monkeypatch.setattr(cpu, "empty", lambda like, *shape: empty(like, *shape).fill_(math.nan))
    for cell in (cells.gru, cells.lstm_projected, CHANGED[0]):
        layer = make(cell, 3, 51, 2, bidirectional=True)
        for batch in (2, 40):
            x, lengths = torch.randn(6, batch, 3, dtype=torch.float64), torch.randint(1, 7, (batch,))
            compare(layer, x, FLOAT64 * 10)
            compare(layer, x, FLOAT64 * 10, lengths=lengths, resets=torch.rand(6, batch) > 0.7)


def test_memory_is_used_again_and_not_while_a_tensor_lives() -> None:
    like = torch.empty(1)
    first = cpu.empty(like, 317, 311)
    place, view = first.data_ptr(), first[10:]
    del first
    second = cpu.empty(like, 317, 311)
    assert second.data_ptr() != place  # the view holds the first one's
    del view
    assert cpu.empty(like, 317, 311).data_ptr() == place
    assert place % 64 == second.data_ptr() % 64 == 0
