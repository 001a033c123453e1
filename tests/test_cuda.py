"""The generated GPU kernels against the float64 reference, in Triton's interpreter: cells, sequences, types, values."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import EVERY_OP, Recipe, assert_close, recipes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cpu import (
    ELEMENTWISE,
    SPECIAL,
    mean_projected,
    mean_projected_twice,
    means_multiplied,
    state_of_means,
    value_of,
)
from test_ops import POINTS
from tiled import (
    DOUBLE,
    SINGLE,
    SINGLE_SPLIT,
    SPREAD,
    THREE,
    TURNS,
    compare,
    make,
    name_of,
    results_of,
    states,
    tiled,
)
from tolerances import FLOAT32, FLOAT64
from torch import Tensor

import gatewise
from gatewise import cells
from gatewise.graph.grad import backward
from gatewise.graph.ops import OPS
from gatewise.scan import cuda
from gatewise.scan.gpu.source import Tiling
from gatewise.scan.gpu.tiling import power_of_two

pytestmark = pytest.mark.skipif(not cuda.interpreted(), reason="Triton compiles here, for a GPU")

BUILT_IN = [v for v in vars(cells).values() if isinstance(v, gatewise.Graph)]
USER_CELLS = Path(__file__).parents[1] / "benchmarks" / "user_cells.py"
USERS = [v for v in runpy.run_path(str(USER_CELLS)).values() if isinstance(v, gatewise.Graph)]
CHANGED = [
    gatewise.zoneout(gatewise.recurrent_dropout(cells.lstm_projected, 0.3), 0.2),
    gatewise.layer_norm(cells.gru),
    gatewise.layer_norm(cells.gru_reset_before),
    gatewise.clip_state_grad(cells.gru, 0.01),
    gatewise.activations(gatewise.coupled(cells.lstm, f="i"), g="softsign"),
]
MEANS = [means_multiplied, state_of_means, mean_projected, mean_projected_twice]
ALL = [*BUILT_IN, *USERS, *CHANGED, *MEANS]


def batch_of(steps: int, batch: int = 3, inputs: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """x, lengths and resets."""
    torch.manual_seed(1)
    lengths = torch.randint(1, steps + 1, (batch,))
    return torch.randn(steps, batch, inputs, dtype=DOUBLE), lengths, torch.rand(steps, batch) > 0.6


def each_cell_once(which: int) -> list[Any]:
    """Every cell divided in every way nightly; else, of two tests, not divided in one, and in one way in the other."""
    cases = []
    for k, cell in enumerate(ALL):
        usual = SINGLE if k % 2 == which else SPREAD[k // 2 % len(SPREAD)]
        for tiling in (SINGLE, SINGLE_SPLIT, *SPREAD):
            steps, marks = (2, ()) if tiling is usual else (4, pytest.mark.slow)
            cases.append(pytest.param(cell, tiling, steps, id=f"{cell.name}-{name_of(tiling)}", marks=marks))
    return cases


@pytest.mark.parametrize(("cell", "tiling", "steps"), each_cell_once(0))
def test_cells_with_lengths_and_resets(cell: gatewise.Graph, tiling: Tiling, steps: int) -> None:
    layer = make(cell, 3, 5, learn_state=True)
    x, lengths, resets = batch_of(steps)
    compare(layer, x, tiling, FLOAT64, hx=states(layer, 3), lengths=lengths, resets=resets)


@pytest.mark.parametrize(("cell", "tiling", "steps"), each_cell_once(1))
def test_cells_alone(cell: gatewise.Graph, tiling: Tiling, steps: int) -> None:
    layer = make(cell, 3, 5)
    compare(layer, batch_of(steps)[0], tiling, FLOAT64)


# --- random cells, and every op ------------------------------------------------------------------------


def check_recipe(recipe: Recipe, sizes: tuple[int, int, int], tiling: Tiling, seed: int) -> bool:
    """Compare a random cell; False if it is not finite, so that there is nothing to compare."""
    steps, batch, hidden = sizes
    cell = recipe.cell()
    torch.manual_seed(0)
    layer, x = make(cell, 2, hidden), torch.randn(steps, batch, 2, dtype=DOUBLE)
    expected = results_of(layer, "reference", x)
    if not all(torch.isfinite(e).all() for e in expected):
        return False
    # Rounding may grow: as much as it does in the reference when its input moves by a rounding is allowed for.
    moved = results_of(layer, "reference", x * (1 + 1e-15))
    with tiled(replace(tiling, tiles=-(-hidden // tiling.units)), seed):
        made = results_of(layer, "cuda", x)
    for k, (a, b, c) in enumerate(zip(made, expected, moved, strict=True)):
        grown = (b - c).abs().max().item() / max(1.0, b.abs().max().item()) if b.numel() else 0.0
        assert_close(a, b, max(1e-9, 1e3 * grown), f"result {k} of {cell.text}")
    return True


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(2, 6))


@pytest.mark.parametrize("tiling", [SINGLE, SINGLE_SPLIT, *SPREAD], ids=name_of)
def test_random_cells(tiling: Tiling) -> None:
    compared = []

    @settings(max_examples=3, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(recipes, SIZES)
    def check(recipe: Recipe, sizes: tuple[int, int, int]) -> None:
        compared.append(check_recipe(recipe, sizes, tiling, len(compared)))

    check()
    assert any(compared)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(recipes, SIZES, st.sampled_from([SINGLE, SINGLE_SPLIT, *SPREAD]), st.integers(0, 99))
def test_hundreds_of_random_cells(recipe: Recipe, sizes: tuple[int, int, int], tiling: Tiling, seed: int) -> None:
    check_recipe(recipe, sizes, tiling, seed)


@pytest.mark.parametrize("tiling", [SINGLE, THREE], ids=name_of)
def test_a_cell_of_every_op(tiling: Tiling) -> None:
    cell = EVERY_OP.cell()
    used = {node.op for graph in (cell, backward(cell), CHANGED[3]) for node in graph.nodes}
    assert used >= set(OPS)
    assert check_recipe(EVERY_OP, (2, 2, 5), tiling, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_at_kinks_at_infinity_and_of_nan(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([*POINTS, *SPECIAL], dtype=dtype)
    with tiled(Tiling(32, 1, 1, 1, False, 1, 1, 1, 99, 4)):
        made = value_of(name, x, "cuda")
    for a, b, at in zip(made.tolist(), value_of(name, x, "reference").tolist(), x.tolist(), strict=True):
        assert (math.isnan(a) and math.isnan(b)) or a == b or abs(a - b) <= 1e-6 * abs(b) + 1e-37, (at, a, b)


# --- a layer's ways ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiling", [SINGLE, TURNS], ids=name_of)
def test_two_layers_of_two_directions_are_a_launch_each(tiling: Tiling) -> None:
    layer = make(cells.lstm, 3, 5, 2, bidirectional=True, learn_state=True)
    x, lengths, resets = batch_of(2)
    with mock.patch.object(cuda, "launch", wraps=cuda.launch) as launch:
        compare(layer, x, tiling, FLOAT64, lengths=lengths, resets=resets)
    assert [call.args[-1] for call in launch.call_args_list] == [False, False, True, True]


def test_a_small_device_runs_two_directions_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, (x, lengths, resets) = make(cells.lstm, 3, 5, bidirectional=True, learn_state=True), batch_of(2)
    of_one, launched = cuda.tilings, mock.patch.object(cuda, "launch", wraps=cuda.launch)
    monkeypatch.setattr(cuda, "tilings", lambda *given: of_one(*given) if given[-1] == 1 else ())
    with launched as launch:
        compare(layer, x, SINGLE, FLOAT64, lengths=lengths, resets=resets)
    assert [call.args[-1] for call in launch.call_args_list] == [False, False, True, True]


@pytest.mark.parametrize("tiling", [SINGLE, *SPREAD], ids=name_of)
def test_one_sample_and_one_step(tiling: Tiling) -> None:
    for cell in (cells.gru_reset_before, cells.lstm_projected):
        layer = make(cell, 3, 5)
        compare(layer, batch_of(1, 1)[0], tiling, FLOAT64, hx=states(layer, 1))


@pytest.mark.parametrize("tiling", [SINGLE, *SPREAD], ids=name_of)
def test_float32_in_full_precision_reads_weights_turned(tiling: Tiling) -> None:
    """Of two directions and of another output size, since the copies have both."""
    layer = make(cells.lstm_projected, 3, 5, bidirectional=True, dtype=torch.float32)
    with mock.patch.object(cuda, "launch", wraps=cuda.launch) as launch:
        compare(layer, batch_of(3)[0].float(), tiling, FLOAT32)
    read = [set(call.args[0].arrays) for call in launch.call_args_list]
    assert read[0] >= {"turned_hh", "turned_hr"}
    assert not read[0] & {"weight_hh", "weight_hr"}
    assert read[-1] >= {"weight_hh", "weight_hr"}


@pytest.mark.parametrize(("hidden", "tiling"), [(1, SINGLE), (17, SINGLE), (17, THREE), (33, TURNS)])
def test_sizes_that_fit_no_tile(hidden: int, tiling: Tiling) -> None:
    if tiling.tiles == 1:
        tiling = replace(tiling, rows=8, units=power_of_two(hidden), outputs=power_of_two(hidden))
    else:
        half = power_of_two(-(-hidden // tiling.tiles))
        tiling = replace(tiling, rows=4, units=half, outputs=half, depth=8, ahead=3)
    for batch in (1, 5):
        compare(make(cells.gru, 2, hidden), batch_of(2, batch, 2)[0], tiling, FLOAT64)
