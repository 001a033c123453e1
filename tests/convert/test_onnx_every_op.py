"""Every op of cells, with every kind of argument at every place, written to ONNX and run by onnxruntime.

The table is made of `gatewise.graph.ops`, so an op that is added there is here, too.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT32, FLOAT64, HALF
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import gatewise
from gatewise.graph.ops import OPS
from gatewise.graph.proxy import apply
from gatewise.scan import reference

# Numbers that an op takes, other than its defaults; exact in float32, to which torch's exporter rounds them.
PARAMS = {
    "softplus": {"beta": 0.75, "threshold": 2.0}, "elu": {"alpha": 1.25}, "leaky_relu": {"negative_slope": 0.25},
    "clamp": {"min": -0.5, "max": 0.375}, "clip_grad": {"limit": 0.125},
}  # fmt: skip
POSITIVE = ("log", "sqrt", "pow")  # what they read is made positive, but for a number, which is so
KINDS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "number": lambda x, h, p: 0.4,
    "vector": lambda x, h, p: p,
    "input": lambda x, h, p: x.a,
    "projected": lambda x, h, p: h.a,
    "state": lambda x, h, p: h,
    "mean": lambda x, h, p: torch.mean(x.a),
    "chosen": lambda x, h, p: torch.where(h > 0.1, x.a, -0.3),
    "mean of a vector": lambda x, h, p: torch.mean(p),
}


class Case(NamedTuple):
    """An op with one kind of argument at one place, something of the input at the others."""

    op: str
    place: int
    kind: str


def cases(*kinds: str) -> Iterator[Case]:
    for name, row in OPS.items():
        for place in range(row.arity):
            for kind in kinds:
                if kind != "number" or row.arity > 1:  # of numbers alone a cell has the number that they make
                    yield Case(name, place, kind)


def value(case: Case, x: Any, h: Any, p: Any) -> Any:
    row, args = OPS[case.op], []
    for k in range(row.arity):
        number = k == case.place and case.kind == "number"
        a = KINDS[case.kind](x, h, p) if k == case.place and not (number and k in row.conditions) else x.b
        a = abs(a) + 0.3 if case.op in POSITIVE and not number else a
        a = 1.5 + torch.tanh(a) if case.op == "div" and k and not number else a
        args.append(a > 0.2 if k in row.conditions else a)
    made = apply(x._builder, case.op, args, PARAMS.get(case.op, {}))
    return torch.where(made, 1.0, -1.0) if row.boolean else made


def cell_of(each: list[Case]) -> Any:
    """A cell with a state for each case, so that each is compared on its own."""
    states = ", ".join(f"s{k}" for k in range(len(each)))

    def body(x: Any, h: Any, p: Any) -> Any:
        return torch.tanh(x.a + h.a + 0.1 * x.b + 0.1 * p), *(value(case, x, h, p) for case in each)

    scope: dict[str, Any] = {"body": body}
    exec(f"def every(x, h, {states}, *, p):\n    return body(x, h, p)\n", scope)
    return gatewise.cell(gates="a b")(scope["every"])


class Model(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        output, state = self.layer(x)
        return output, *(state if isinstance(state, tuple) else (state,))


def model_of(each: list[Case], dtype: torch.dtype = torch.float32) -> Model:
    return Model(randomize(gatewise.Recurrent(cell_of(each), 3, 4, dtype=dtype)))


def exported(model: nn.Module, path: Path, dtype: torch.dtype) -> Callable[[Tensor], list[Tensor]]:
    """The model as onnxruntime runs it."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    axes = ({0: torch.export.Dim("T", min=1), 1: torch.export.Dim("B", min=1)},)
    with warnings.catch_warnings():  # what torch's exporter says of itself
        warnings.simplefilter("ignore")
        example = (torch.randn(5, 2, 3, dtype=dtype),)
        torch.onnx.export(model, example, str(path), dynamo=True, verbose=False, dynamic_shapes=axes)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {name: x.numpy()})]


def check(each: list[Case], path: Path, dtype: torch.dtype, tolerance: float, training: bool = False) -> None:
    model = model_of(each, dtype).train(training)
    run = exported(model, path, dtype)
    for steps, batch in ((5, 2), (1, 1), (9, 3)):
        x = torch.randn(steps, batch, 3, dtype=dtype)
        with torch.no_grad():
            expected = model(x)
        made = run(x)
        assert len(made) == len(expected) == len(each) + 2
        for case, one, two in zip(["output", "h", *map(str, each)], made, expected, strict=True):
            assert_close(one, two, tolerance, f"{case}, T = {steps}, B = {batch}")


def test_every_place_of_every_op_takes_a_number(tmp_path: Path) -> None:
    each = list(cases("number"))
    assert {case.op for case in each} == {name for name, row in OPS.items() if row.arity > 1}
    check(each, tmp_path / "model.onnx", torch.float32, FLOAT32)


# numpy has no bfloat16, so onnxruntime can't be given any.
NOT_IN_DOUBLE = ("softplus", "elu", "leaky_relu", "hardsigmoid")  # in onnxruntime 1.31, which says so by name
RUNS = {
    "float32": (torch.float32, FLOAT32, False),
    "float32 in training": (torch.float32, FLOAT32, True),
    "float64": (torch.float64, FLOAT64, False),
    "float16": (torch.float16, HALF, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_op_takes_every_kind(kind: str, run: str, tmp_path: Path) -> None:
    dtype, tolerance, training = RUNS[run]
    each = [case for case in cases(kind) if dtype != torch.float64 or case.op not in NOT_IN_DOUBLE]
    check(each, tmp_path / "model.onnx", dtype, tolerance, training)


@pytest.mark.slow
def test_masks_are_numbers_in_evaluation(tmp_path: Path) -> None:
    @gatewise.cell(gates="n")
    def chosen(x, h):
        return torch.minimum(torch.where(x.n > 0, torch.tanh(x.n + h.n), 0.0), torch.tensor(0.8))

    layer = randomize(gatewise.Recurrent(gatewise.zoneout(chosen, 0.2), 3, 4)).eval()
    run = exported(Model(layer), tmp_path / "model.onnx", torch.float32)
    x = torch.randn(7, 2, 3)
    for one, two in zip(run(x), Model(layer)(x), strict=True):
        assert_close(one, two.detach(), FLOAT32)


# --- the constants themselves ------------------------------------------------------------------------

NUMBERS = (
    0.0, -0.0, 0.1, -1 / 3, 65504.0, 65519.9, 65520.0, 1e5, -1e9, 1e-8, 2.9e-8, 7e-46, 5e-324, 3.4028235e38,
    3.40282356e38, 3.4028235677973366e38, -3.5e38, 1e300, float("inf"), float("-inf"), float("nan"), 1 + 2**-11,
    1 + 2**-11 + 1e-9, 2049.0,
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_constant_is_rounded_as_torch_rounds_it(dtype: torch.dtype) -> None:
    like, bits = torch.zeros(2, dtype=dtype), {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for number in NUMBERS:
        made, expected = reference._constant(number, like), torch.tensor(number, dtype=dtype)
        assert made.shape == ()
        assert made.dtype == dtype
        assert torch.equal(made.view(bits), expected.view(bits)), number


def test_a_constant_beyond_float32_is_infinity() -> None:
    @gatewise.cell(gates="n")
    def masked(x, h):
        return torch.where(x.n > 0, torch.tanh(x.n + h.n), -1e300)

    layer = randomize(gatewise.Recurrent(masked, 3, 4))
    layer.executor = "reference"
    x = torch.randn(1, 5, 3)
    assert layer(x)[0].isinf().any()
    assert torch.equal(layer(x)[0].isinf(), (x @ layer.weight_ih_l0.t() + layer.bias_ih_l0) <= 0)


# --- what else traces --------------------------------------------------------------------------------


def model_with_numbers() -> Model:
    """The ops that take no plain number, for which the reference makes a tensor."""
    return model_of([case for case in cases("number") if not OPS[case.op].scalars])


def functional(model: Model) -> Callable[[dict[str, Tensor], Tensor], tuple[Tensor, ...]]:
    return lambda parameters, x: torch.func.functional_call(model, parameters, (x,))


def parameters_of(model: Model) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def tangents(model: Model) -> Callable[[dict[str, Tensor], Tensor], tuple[Tensor, ...]]:
    run = functional(model)
    return lambda parameters, x: torch.func.jvp(lambda x: run(parameters, x), (x,), (torch.ones_like(x),))[1]


WAYS: dict[str, Callable[[Model, Tensor], Any]] = {
    "export": lambda model, x: torch.export.export(model, (x,)).module()(x),
    "decompositions": lambda model, x: torch.export.export(model, (x,)).run_decompositions({}).module()(x),
    "trace": lambda model, x: torch.jit.trace(model, (x,), check_trace=False)(x),
    "make_fx": lambda model, x: make_fx(functional(model))(parameters_of(model), x)(parameters_of(model), x),
    "make_fx, fake": lambda model, x: make_fx(functional(model), tracing_mode="fake")(parameters_of(model), x)(
        parameters_of(model), x
    ),
    "make_fx, symbolic": lambda model, x: make_fx(functional(model), tracing_mode="symbolic")(parameters_of(model), x)(
        parameters_of(model), x
    ),
    "compile": lambda model, x: torch.compile(model, fullgraph=True, backend="aot_eager")(x),
    "vmap": lambda model, x: [
        y[0] for y in torch.vmap(lambda x: functional(model)(parameters_of(model), x))(torch.stack([x, x]))
    ],
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_tracing_takes_numbers(way: str) -> None:
    model = model_with_numbers()
    model.layer.executor = "reference"  # the others have no tensor for a number
    x = torch.randn(4, 2, 3)
    expected = model(x)
    with warnings.catch_warnings():  # torch.jit's deprecation, and that a trace records what it saw
        warnings.simplefilter("ignore")
        made = WAYS[way](copy.deepcopy(model), x)
    for one, two in zip(made, expected, strict=True):
        assert_close(one.detach(), two.detach(), FLOAT32)


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_the_reference_itself_is_traced_with_numbers(mode: str) -> None:
    model = model_with_numbers()
    x, parameters = torch.randn(3, 2, 3), parameters_of(model)
    traced = make_fx(tangents(model), tracing_mode=mode)(parameters, x)
    for one, two in zip(traced(parameters, x), tangents(model)(parameters, x), strict=True):
        assert_close(one, two, FLOAT32)
