"""On a GPU: the same numbers as on the CPU, and what cuDNN refuses."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Recipe, assert_close, randomize, recipes
from hypothesis import HealthCheck, given, settings
from tolerances import BFLOAT16, FLOAT32, FLOAT64, HALF, RANDOM_CELL
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import gatewise
from gatewise.scan import cuda

DEVICE = "cuda"
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


# --- the Triton kernels ------------------------------------------------------------------------------

CASES = [  # cell, H, B, T, dtype, precision, the error that is allowed
    ("gru", 1, 1, 1, torch.float64, "", FLOAT64),
    ("gru", 3, 3, 2, torch.float32, "ieee", FLOAT32),
    ("gru", 17, 64, 50, torch.bfloat16, "", BFLOAT16),
    ("gru", 130, 16, 50, torch.float64, "", FLOAT64),
    ("gru", 256, 128, 50, torch.float32, "ieee", FLOAT32),
    ("gru", 768, 16, 50, torch.bfloat16, "", BFLOAT16),
    ("gru", 1000, 3, 50, torch.float32, "tf32", HALF),
    ("gru", 1024, 128, 50, torch.float32, "tf32", HALF),
    ("gru", 2048, 1, 2, torch.float16, "", HALF),
    ("lstm", 3, 1024, 50, torch.float32, "tf32", HALF),
    ("lstm", 130, 1, 2, torch.float32, "ieee", FLOAT32),
    ("lstm", 256, 1024, 2, torch.bfloat16, "", BFLOAT16),
    ("lstm", 768, 16, 50, torch.float16, "", HALF),
    ("lstm", 1000, 64, 50, torch.bfloat16, "", BFLOAT16),
    ("lstm", 1024, 3, 50, torch.float32, "ieee", FLOAT32),
    ("lstm", 2048, 16, 50, torch.bfloat16, "", BFLOAT16),
    ("gru_reset_before", 768, 16, 50, torch.bfloat16, "", BFLOAT16),
    ("lstm_peephole", 256, 64, 50, torch.float32, "tf32", HALF),
    ("rnn", 1024, 1, 50, torch.float16, "", HALF),
]
CHANGES = {
    "layer_norm": gatewise.layer_norm,
    "zoneout": lambda cell: gatewise.zoneout(cell, 0.3),
    "recurrent_dropout": lambda cell: gatewise.recurrent_dropout(cell, 0.3),
}


def made_by(layer: nn.Module, x: Tensor, executor: str = "cuda", **options: Any) -> list[Tensor]:
    """The output, the final states and all gradients; masks are drawn from one seed."""
    layer.executor, x = executor, x.detach().requires_grad_()
    torch.manual_seed(0)
    results = flat(layer(x, **options))
    generator = torch.Generator(x.device).manual_seed(1)
    weights = [torch.randn(r.shape, generator=generator, device=r.device, dtype=DOUBLE).to(r.dtype) for r in results]
    loss = sum((r * w).sum() for r, w in zip(results, weights, strict=True))
    return [r.detach() for r in results] + list(torch.autograd.grad(loss, [x, *layer.parameters()]))


def assert_as_reference(layer: nn.Module, x: Tensor, tolerance: float, **options: Any) -> None:
    """Each result within tolerance of float64's, by the norm: of the rounded weights, so that only the steps differ."""
    expected = made_by(copy.deepcopy(layer).double(), x.double(), "reference", **options)
    for a, b in zip(made_by(layer, x, **options), expected, strict=True):
        assert_near(a, b, tolerance)


def assert_near(made: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within tolerance, by the norm."""
    error = (made.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
    assert error <= tolerance, f"{tuple(made.shape)} differs by {error:.2g} of its norm, allowed {tolerance:.2g}"


def make(cell: Any, I: int, H: int, **options: Any) -> gatewise.Recurrent:
    torch.manual_seed(0)
    return gatewise.Recurrent(cell, I, H, device=DEVICE, **options)


def assert_equal(made: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """The same bits."""
    for k, (a, b) in enumerate(zip(made, expected, strict=True)):
        assert torch.equal(a, b), f"result {k} differs"


def precise(patch: pytest.MonkeyPatch, precision: str) -> None:
    """Set what float32's products are."""
    patch.setattr(torch.backends.cudnn.rnn, "fp32_precision", precision or "ieee")


@pytest.mark.parametrize(("cell", "H", "B", "T", "dtype", "precision", "tolerance"), CASES)
def test_kernels_as_the_reference(
    cell: str, H: int, B: int, T: int, dtype: torch.dtype, precision: str, tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    precise(monkeypatch, precision)
    layer = make(getattr(gatewise.cells, cell), 5, H, dtype=dtype)
    assert_as_reference(layer, torch.randn(T, B, 5, device=DEVICE, dtype=dtype), tolerance)


@pytest.mark.parametrize("H", [5, 300])
@pytest.mark.parametrize("change", ["", *CHANGES])
@pytest.mark.parametrize("name", ["gru", "lstm_projected"])
def test_kernels_with_all_that_a_layer_has(name: str, change: str, H: int) -> None:
    """Two directions and layers, lengths, resets, learned states, a projection, masks, layer normalisation."""
    cell = getattr(gatewise.cells, name)
    cell = CHANGES[change](cell) if change else cell
    proj = {"proj_size": max(1, H // 3)} if cell.projects_output else {}
    layer = make(cell, 4, H, num_layers=2, bidirectional=True, learn_state=True, dtype=DOUBLE, **proj)
    lengths, resets = torch.tensor([3, 6, 1, 4, 6]), torch.rand(6, 5, device=DEVICE) > 0.7
    assert_as_reference(layer, torch.randn(6, 5, 4, device=DEVICE, dtype=DOUBLE), 1e-10, lengths=lengths, resets=resets)


@settings(max_examples=12, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(recipe=recipes)
def test_kernels_of_random_cells(recipe: Recipe) -> None:
    proj = {"proj_size": 3} if recipe.project_output else {}
    layer = randomize(make(recipe.cell(), 3, 7, dtype=DOUBLE, **proj))
    assert_as_reference(layer, torch.randn(4, 3, 3, device=DEVICE, dtype=DOUBLE), RANDOM_CELL)


def test_what_kernels_record() -> None:
    layer, x = make(gatewise.cells.gru, 4, 300, dtype=DOUBLE), torch.randn(6, 3, 4, device=DEVICE, dtype=DOUBLE)
    seen = []
    for executor in ("cuda", "reference"):
        layer.executor = executor
        with gatewise.record(layer) as recording:
            layer(x)
        seen.append(recording["l0"])
    assert set(seen[0]) == set(seen[1]) >= {"r", "z", "n", "h"}
    for name in seen[0]:
        assert_close(seen[0][name], seen[1][name], FLOAT64)


@pytest.mark.parametrize(("H", "B", "T"), [(20, 2, 100_000), (600, 3, 100_000)])
def test_a_hundred_thousand_steps(H: int, B: int, T: int) -> None:
    """Twice the same bits, and the same as in two calls."""
    layer, x = make(gatewise.cells.gru, 4, H), torch.randn(T, B, 4, device=DEVICE)
    made = made_by(layer, x)
    assert all(t.isfinite().all() for t in made)
    assert_equal(made_by(layer, x), made)
    with torch.no_grad():
        first, state = layer(x[: T // 3])
        assert_equal([torch.cat([first, layer(x[T // 3 :], state)[0]])], made[:1])


def test_columns_of_more_numbers_than_an_int_counts() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 100 * 2**30:
        pytest.skip("needs 100 GiB of GPU memory")
    compare_the_end(2100, 1024, 1024, torch.bfloat16)


def compare_the_end(T: int, B: int, H: int, dtype: torch.dtype) -> None:
    """The last steps of a long run, forward and backward, beside a run of these alone from a rounded state."""
    layer, x = make(gatewise.cells.gru, 4, H, dtype=dtype), torch.randn(T, B, 4, device=DEVICE, dtype=dtype)
    layer.executor = "cuda"
    with torch.no_grad():
        state = layer(x[:-3])[1]
    made = []
    for given_x, hx in ((x, None), (x[-3:], state)):
        given_x = given_x.detach().requires_grad_()
        output = layer(given_x, hx)[0][-3:]
        made.append((output.detach(), torch.autograd.grad(output.float().square().sum(), given_x)[0][-3:]))
    for a, b in zip(*made, strict=True):
        assert_near(a, b, BFLOAT16)


@pytest.mark.parametrize(("H", "B"), [(64, 16), (768, 64), (1024, 128)])
def test_the_same_bits_in_every_run_under_load_and_on_any_stream(H: int, B: int) -> None:
    layer, x = make(gatewise.cells.lstm, 4, H, dtype=torch.bfloat16), torch.randn(60, B, 4, device=DEVICE).bfloat16()
    expected = made_by(layer, x)
    other, load = torch.cuda.Stream(), torch.randn(4096, 4096, device=DEVICE)
    other.wait_stream(torch.cuda.current_stream())
    for k in range(20):
        with torch.cuda.stream(other):
            for _ in range(k):
                load = torch.tanh(load @ load)
        assert_equal(made_by(layer, x), expected)
    with torch.cuda.stream(other):
        made = made_by(layer, x)
    torch.cuda.current_stream().wait_stream(other)
    assert_equal(made, expected)


@pytest.mark.parametrize("H", [64, 768])
def test_cuda_graphs(H: int) -> None:
    layer = make(gatewise.cells.gru, 4, H, dtype=torch.bfloat16)
    layer.executor = "cuda"
    x = torch.randn(30, 16, 4, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    weights = [x, *layer.parameters()]

    def run() -> list[Tensor]:
        output = layer(x)[0]
        return [output, *torch.autograd.grad(output.float().square().sum(), weights)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for _ in range(3):
        with torch.no_grad():
            x.copy_(torch.randn_like(x))
        graph.replay()
        assert_equal([t.clone() for t in captured], run())


def test_another_device_than_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    layer, x = make(gatewise.cells.gru, 4, 300), torch.randn(20, 3, 4, device=DEVICE)
    expected = made_by(layer, x)
    with torch.cuda.device(0):
        made = made_by(copy.deepcopy(layer).to("cuda:1"), x.to("cuda:1"))
    assert_equal([t.to(DEVICE) for t in made], expected)


@pytest.mark.parametrize("H", [20, 300])
def test_compiled_and_differentiated_twice(H: int) -> None:
    layer, x = make(gatewise.cells.gru, 4, H, dtype=DOUBLE), torch.randn(6, 3, 4, device=DEVICE, dtype=DOUBLE)
    made = []
    for executor in ("cuda", "reference"):
        layer.executor, given_x = executor, x.detach().requires_grad_()
        for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
            output = run(given_x)[0]
            made.append([output, *torch.autograd.grad(output.square().sum(), [given_x, *layer.parameters()])])
        first = torch.autograd.grad(layer(given_x)[0].square().sum(), given_x, create_graph=True)[0]
        made[-1] += torch.autograd.grad(first.square().sum(), [given_x, *layer.parameters()])
    for k, results in enumerate(made):
        for a, b in zip(results, made[2 + k % 2], strict=True):
            assert_close(a, b, FLOAT64)


@pytest.mark.parametrize("H", [64, 768])
def test_a_call_waits_for_nothing_and_keeps_no_memory(H: int) -> None:
    layer, x = make(gatewise.cells.gru, 4, H), torch.randn(30, 16, 4, device=DEVICE)
    for _ in range(3):
        made_by(layer, x)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    layer.executor, given_x = "cuda", x.requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(50):
            torch.autograd.grad(layer(given_x)[0].sum(), [given_x, *layer.parameters()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_launches_on_two_streams_do_not_wait_for_one_another_for_ever() -> None:
    command = [sys.executable, "-c", "import test_gpu; test_gpu.interleave(768, 64, 200, 100)"]
    subprocess.run(command, cwd=Path(__file__).parent, timeout=120, check=True)


def interleave(H: int, B: int, T: int, times: int) -> None:
    """Two threads, each with a stream: what runs on a whole GPU, from both at once."""
    wrong: list[BaseException] = []
    layers = [make(gatewise.cells.gru, 4, H), make(gatewise.cells.lstm, 4, H)]
    x = torch.randn(T, B, 4, device=DEVICE)
    expected = [made_by(layer, x) for layer in layers]

    def work(layer: nn.Module, wanted: list[Tensor]) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream() if DEVICE == "cuda" else None):
                for _ in range(times):
                    made = made_by(layer, x)
                assert_equal(made, wanted)
        except BaseException as error:
            wrong.append(error)

    if DEVICE == "cuda":
        torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=pair) for pair in zip(layers, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]


def test_recompute_takes_less_memory() -> None:
    layer, x = gatewise.LSTM(16, 128, bidirectional=True, device=DEVICE), torch.randn(400, 16, 16, device=DEVICE)
    made, most = [], []
    for layer.recompute in (None, 50):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        output, _ = layer(x)
        made.append(torch.autograd.grad(output.square().sum(), [*layer.parameters()]))
        most.append(torch.cuda.max_memory_allocated() - before)
    for one, other in zip(*made, strict=True):
        assert_close(other, one, FLOAT32)
    assert most[1] < 0.7 * most[0]


def test_explain_says_cuda_or_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = make(gatewise.cells.gru, 4, 20), torch.randn(6, 3, 4, device=DEVICE)
    assert "runs on cuda: Triton kernels" in gatewise.explain(layer, x)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    refuses(layer, x, "compute capability 7.5")
    monkeypatch.setattr(cuda, "_device_functions", lambda: None)
    refuses(layer, x, "Triton is not installed")


def refuses(layer: nn.Module, x: Tensor, why: str) -> None:
    """The kernels can't run: "auto" has the reference run, and says why; who names them hears why."""
    layer.executor = "auto"
    said = gatewise.explain(layer, x)
    assert "runs on reference" in said
    assert why in said
    layer.executor = "cuda"
    with pytest.raises(RuntimeError, match=why):
        layer(x)
