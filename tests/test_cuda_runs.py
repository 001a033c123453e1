"""How the GPU kernels run, in Triton's interpreter: launches, exchanges, types, autograd; and when they refuse to."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import assert_close
from test_recording import recorded
from tiled import DOUBLE, SINGLE, THREE, TURNS, compare, lockstep, make, name_of, results_of, states, tiled
from tolerances import BFLOAT16, FLOAT32, FLOAT64, HALF
from torch import Tensor
from torch.func import functional_call, grad, vmap

import gatewise
from gatewise import cells
from gatewise.scan import cuda, reference
from gatewise.scan.gpu.kernel import write
from gatewise.scan.gpu.source import Tiling, Wish
from gatewise.scan.plan import Inputs, backward_plan

pytestmark = pytest.mark.skipif(not cuda.interpreted(), reason="Triton compiles here, for a GPU")

TYPES = {torch.float64: FLOAT64, torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: HALF}
BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
NORMED = gatewise.layer_norm(cells.gru_reset_before)


def batch_of(steps: int, batch: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    """x, and lengths and resets."""
    torch.manual_seed(1)
    x, lengths = torch.randn(steps, batch, 3, dtype=DOUBLE), torch.randint(1, steps + 1, (batch,))
    return x, {"lengths": lengths, "resets": torch.rand(steps, batch) > 0.6}


@pytest.mark.parametrize(("cell", "tiling"), [(cells.lstm_projected, SINGLE), (cells.gru_reset_before, THREE)])
@pytest.mark.parametrize("dtype", [dtype for dtype in TYPES if dtype is not DOUBLE])
def test_all_types(dtype: torch.dtype, cell: gatewise.Graph, tiling: Tiling) -> None:
    layer = make(cell, 3, 5, dtype=dtype)
    compare(layer, batch_of(2)[0].to(dtype), tiling, TYPES[dtype], hx=states(layer, 3))


def test_how_work_is_divided_unless_a_test_says_so() -> None:
    for cell in (cells.gru, cells.lstm_projected):
        compare(make(cell, 3, 5), batch_of(2)[0], None, FLOAT64)


@pytest.mark.slow
def test_a_layer_that_one_program_can_not_hold() -> None:
    layer, x = make(cells.gru_reset_before, 3, 264, dtype=torch.float32), batch_of(2)[0].float()
    with lockstep():
        made = results_of(layer, "cuda", x)
    for a, b in zip(made, results_of(layer, "reference", x), strict=True):
        assert_close(a, b, 10 * FLOAT32)


# --- launches and exchanges ------------------------------------------------------------------------------


def test_a_long_sequence_is_several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    x, sequences = batch_of(3, 2)
    monkeypatch.setattr(cuda, "STEPS", 2)
    compare(make(cells.lstm_projected, 3, 5, learn_state=True), x, TURNS, FLOAT64, **sequences)
    compare(make(cells.lstm, 3, 5), x, SINGLE, FLOAT64)
    compare(make(cells.gru, 3, 5), x, THREE, FLOAT64)
    with tiled(THREE) as seen:
        results_of(make(cells.rnn, 3, 5), "cuda", x)
    assert len(seen.launches) == 4


def test_buffers_of_exchanges_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "SCRATCH", 200)
    x = batch_of(3)[0]
    compare(make(NORMED, 3, 5), x[:2], THREE, FLOAT64)
    with tiled(THREE) as seen:
        results_of(make(cells.gru_reset_before, 3, 5), "cuda", x)
    assert len(seen.launches) == 3 + 1  # what backward exchanges, it keeps


def test_every_element_is_written_and_none_is_read_before() -> None:
    x, sequences = batch_of(2)
    new_empty = Tensor.new_empty

    def unset(like: Tensor, *args: Any, **options: Any) -> Tensor:
        made = new_empty(like, *args, **options)
        if made.is_floating_point():
            cuda._unset(made)
        return made

    def random(like: Tensor, *args: Any, **options: Any) -> Tensor:
        made = new_empty(like, *args, **options)
        return made.normal_() if made.is_floating_point() else made

    for k, cell in enumerate((cells.gru_reset_before, cells.lstm_projected, gatewise.layer_norm(cells.gru))):
        for memory in (unset, random):
            with mock.patch.object(Tensor, "new_empty", memory):
                layer = make(cell, 3, 5, learn_state=True)
                compare(layer, x, THREE if k < 2 and memory is random else SINGLE, FLOAT64, **sequences)


@pytest.mark.parametrize("tiling", [THREE, TURNS], ids=name_of)
def test_the_order_of_programs_changes_no_bit(tiling: Tiling) -> None:
    x, sequences = batch_of(2)
    layer = make(cells.gru_reset_before, 3, 5, learn_state=True, dtype=torch.float32)
    made = []
    for seed in (1, 2):
        with tiled(tiling, seed):
            made.append(results_of(layer, "cuda", x.float(), **sequences))
    for a, b in zip(*made, strict=True):
        assert torch.equal(a, b)


def missing(like: Tensor) -> Tensor:
    """The NaN that means "not there yet" in an exchange: all bits set."""
    return torch.full((), -1, dtype=BITS[like.element_size()]).view(like.dtype)


@pytest.mark.parametrize(
    ("cell", "dtype"),
    [*((cells.gru, dtype) for dtype in TYPES), (NORMED, torch.float32)],
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_nan_and_infinity_come_out_as_in_the_reference(cell: gatewise.Graph, dtype: torch.dtype) -> None:
    layer = make(cell, 3, 5)
    x, h, g = torch.randn(2, 4, 15).to(dtype), torch.randn(4, 5).to(dtype), torch.randn(2, 4, 5).to(dtype)
    x[1, 0, 2], x[0, 1, 7], h[2, 4], g[1, 3, 1] = missing(x), float("inf"), missing(h), missing(g)
    p = {name: parameter.detach().to(dtype) for name, parameter in layer.named_parameters()}
    vectors = torch.stack([p[f"{name}_l0"] for name in cell.vectors]) if cell.vectors else h.new_empty(0, 5)
    none, never = h.new_empty(0), torch.empty(0, 0, dtype=torch.bool)
    inputs = Inputs(x, p["weight_hh_l0"], p["bias_hh_l0"], h.new_empty(0, 5), vectors, none, (h,), never, never, ())
    made = []
    for run in (cuda, reference):
        with tiled(THREE) if run is cuda else nullcontext():
            finals, kept = run.forward(cell, inputs, backward_plan(cell).extras, True)
            gradients = run.reverse(cell, inputs, kept, [g[0]], [g])
        made.append([*finals, kept[0], *gradients.flat()])
    for a, b in zip(*made, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert_close(torch.nan_to_num(a.double()), torch.nan_to_num(b.double()), 2 * TYPES[dtype])


# --- a layer's ways ----------------------------------------------------------------------------------------


def test_input_that_is_not_contiguous_and_integers() -> None:
    first = make(cells.gru, 3, 5, batch_first=True)
    compare(first, batch_of(3)[0].transpose(0, 1), THREE, FLOAT64)
    compare(first, torch.tensor([[0, 2, 1], [1, 1, 0]]), SINGLE, FLOAT64)
    layer = make(cells.gru, 3, 5)
    h, none, never = torch.randn(3, 5, dtype=DOUBLE), torch.empty(0, dtype=DOUBLE), torch.empty(0, 0, dtype=torch.bool)
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        sizes = [(2, 3, 15)[axis] for axis in order]
        x = torch.randn(sizes, dtype=DOUBLE).permute([order.index(axis) for axis in range(3)])
        inputs = Inputs(
            x, layer.weight_hh_l0.data, layer.bias_hh_l0.data, h.new_empty(0, 5), h.new_empty(0, 5), none,
            (h,), never, never, (),
        )  # fmt: skip
        with tiled(SINGLE):
            (made,), _ = cuda.forward(layer.cell, inputs, (), False)
        assert_close(made, reference.forward(layer.cell, inputs, (), False)[0][0], FLOAT64)


@pytest.mark.parametrize("tiling", [SINGLE, THREE], ids=name_of)
def test_watched_nodes(tiling: Tiling) -> None:
    x, sequences = batch_of(2)
    layer = make(cells.lstm, 3, 5, learn_state=True)
    expected = recorded(layer, "reference", x, ["f", "c"], **sequences)
    with tiled(tiling):
        made = recorded(layer, "cuda", x, ["f", "c"], **sequences)
    assert made.keys() == expected.keys()
    for name, value in made.items():
        assert torch.equal(value.isnan(), expected[name].isnan()), name
        assert_close(torch.nan_to_num(value), torch.nan_to_num(expected[name]), FLOAT64, name)


def test_derivatives_go_on_through_the_reference() -> None:
    layer = make(cells.rnn, 1, 2)
    layer.executor = "cuda"
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, h: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        return functional_call(layer, dict(zip(names, weights, strict=True)), (x, h))

    variables = [t.requires_grad_() for t in (torch.randn(2, 1, 1, dtype=DOUBLE), *states(layer, 1))]
    with tiled(SINGLE):
        assert torch.autograd.gradgradcheck(run, (*variables, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_vmap_and_torch_compile(bidirectional: bool) -> None:
    layer, xs = make(cells.gru, 2, 3, bidirectional=bidirectional), torch.randn(3, 2, 2, 2, dtype=DOUBLE)

    def gradient(x: Tensor) -> Tensor:
        return grad(lambda x: layer(x)[0].square().sum())(x)

    expected = vmap(gradient)(xs)
    output = layer(xs[0])[0]
    with tiled(SINGLE), mock.patch.object(cuda, "launch", wraps=cuda.launch) as launch:
        layer.executor = "cuda"
        assert_close(vmap(gradient)(xs), expected, FLOAT64)
        assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(xs[0])[0], output, FLOAT64)
    assert launch.call_count == 3


# --- what is said, and refused ---------------------------------------------------------------------------


def test_explain_says_what_ran() -> None:
    layer, x = make(cells.gru, 3, 5, bidirectional=True, dtype=torch.float32), torch.zeros(2, 3, 3)
    assert "interpreter" not in gatewise.explain(layer, x)  # unless it was asked for
    layer.executor = "cuda"
    words = "Triton kernels in Triton's interpreter, float32 products in full float32, tiles"
    line = rf"l0(_reverse)?: gru runs on cuda: {words}.*"
    lines = gatewise.explain(layer, x).splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(line, text) for text in lines), lines


class Subclass(Tensor):
    pass


def test_what_can_not_run_is_refused_with_a_reason() -> None:
    layer = make(cells.gru, 3, 5)
    layer.executor = "cuda"
    x = torch.zeros(2, 1, 3, dtype=DOUBLE)
    with pytest.raises(RuntimeError, match="'cuda' can't run gru: a tensor is of a subclass"):
        layer(x, torch.zeros(1, 1, 5, dtype=DOUBLE).as_subclass(Subclass))
    with pytest.raises(RuntimeError, match="'cuda' can't run gru: there is nothing to compute"):
        layer(x[:, :0])
    tiny = torch.zeros(0, 5, dtype=torch.float8_e5m2)
    names = "bfloat16, float16, float32, float64"
    assert cuda.why_not(cells.gru, Inputs(*[tiny] * 6, (tiny,), tiny, tiny, ())) == (
        f"the tensors are torch.float8_e5m2, the Triton kernels have {names}"
    )


WITHOUT = """
import sys
from types import SimpleNamespace
sys.modules["triton"] = None  # as if it had not been installed
import gatewise, torch
from gatewise.scan import cuda

layer, x = gatewise.GRU(3, 4), torch.zeros(2, 1, 3)
layer(x)
layer.executor = "cuda"
def why():
    try:
        layer(x)
    except RuntimeError as error:
        print(error)
why()
on_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
print(cuda.why_not(gatewise.cells.gru, SimpleNamespace(weight_hr=on_gpu)))
del sys.modules["triton"]
cuda._device_functions.cache_clear()
why()
"""


def test_without_triton_and_without_its_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    made = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True, timeout=120)
    missing = "triton is not installed; torch's CUDA builds for Linux bring triton, elsewhere: pip install triton"
    assert made.stdout.splitlines() == [
        f"executor 'cuda' can't run gru: {missing}",
        missing,
        "executor 'cuda' can't run gru: the tensors are on cpu, the Triton kernels run on a CUDA device, "
        "or with TRITON_INTERPRET=1 set before Python starts on the CPU",
    ], made.stderr


@pytest.mark.parametrize(
    "name",
    ["1gru", "ячейка", 'g"""+exit()#', "g(x):exit()\\", "f'{exit()}'", "g" * 500, "def", "%s"],
    ids=range(8),
)
def test_a_name_from_a_checkpoint_can_not_become_code(name: str) -> None:
    text = cells.gru.text.replace("cell gru", f"cell {name}")
    for word in ("r", "z", "n"):
        text = re.sub(rf"\b{word}\b", f"ñ{word}", text)
    for backward in (False, True):
        trees = []
        for cell in (cells.gru, gatewise.Graph.parse(text)):
            extras = () if backward else backward_plan(cell).extras
            source = write(Wish(cell, backward, extras, True, 5, 5, "float32", "ieee", True, True), THREE).source
            (function,) = ast.parse(source).body
            assert re.fullmatch("[A-Za-z_][A-Za-z0-9_]{,99}", function.name)
            function.name = ""
            trees.append(ast.dump(function))
        assert trees[0] == trees[1]
    with tiled(SINGLE):
        results_of(make(gatewise.Graph.parse(text), 3, 5), "cuda", batch_of(1)[0])
