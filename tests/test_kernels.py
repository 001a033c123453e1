"""The GPU kernels as compiled for an H100: what the machine code shows of them where there is no GPU."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from compile_kernels import Case, answers
from lockstep import lockstep

import gatewise
from gatewise.scan import cuda
from gatewise.scan.gpu.source import Tiling
from gatewise.scan.gpu.tiling import RATES, Work, candidates

SHARED = 227 * 1024  # bytes that a block of an H100 can have
SPILL = 64  # bytes of a thread: some addresses, which cost tens of a step's thousands of cycles
MOST = 640  # the same for a few of many sizes, such as wide norms: the most seen is 616
SCRIPT = Path(__file__).with_name("compile_kernels.py")
DIRECTIONS = (False, True)


def both(*cases: Case) -> list[Case]:
    """Each case forward and backward."""
    return [Case(**{**asdict(case), "backward": backward}) for case in cases for backward in DIRECTIONS]


# Every built-in cell's way of exchanging, every type, and every way of dividing a step; sizes that H doesn't divide.
SHORT = both(
    Case("gru", 64, 16),
    Case("gru", 1024, 128),
    Case("gru", 256, 64, "fp32", "tf32"),
    Case("gru", 256, 16, "fp32"),
    Case("gru", 1024, 64, "fp32"),
    Case("gru", 200, 1, "fp64"),
    Case("gru", 256, 16, ragged=True, groups=2),
    Case("gru_reset_before", 256, 16),
    Case("lstm", 768, 16, "fp16"),
    Case("lstm_peephole", 256, 1),
    Case("lstm_projected", 256, 16, proj=64, ragged=True),
    Case("rnn", 300, 1, "fp32", change="layer_norm"),
    Case("every_op", 64, 16, "fp32"),
    Case("every_op", 64, 16, "fp64"),
)
CELLS = ("rnn", "gru", "gru_reset_before", "lstm", "lstm_peephole")
LONG = both(
    *(Case(cell, H, B) for cell in CELLS for H in (1, 64, 200, 256, 768, 1024, 2048) for B in (1, 16, 128, 1024)),
    *(Case("lstm", H, B, type) for type in ("fp16", "fp64") for H in (64, 256, 768) for B in (1, 128)),
    *(Case("gru", H, B, "fp32", p) for p in ("ieee", "tf32") for H in (64, 256, 768, 1024) for B in (1, 16, 128)),
    *(Case("lstm_projected", H, B, proj=max(1, H // 4)) for H in (64, 256, 768) for B in (1, 128)),
    *(Case("lstm", H, B, change="layer_norm") for H in (64, 256, 768) for B in (1, 128)),
    *(Case("gru", H, B, ragged=True, groups=2) for H in (64, 256, 768) for B in (1, 128)),
)


def compiled(cases: list[Case], cache: Path) -> dict[Case, dict[str, Any]]:
    """What is known of the cases' kernels, compiled in a process of its own, in which Triton doesn't interpret."""
    return dict(zip(cases, answers(SCRIPT, [asdict(case) for case in cases], cache), strict=True))


@lru_cache(maxsize=1)
def linux_without(module: str) -> str:
    """Why nothing can be compiled here; empty if it can."""
    if sys.platform != "linux":
        return "Triton is for Linux"
    try:
        __import__(module)
    except ModuleNotFoundError:
        return f"{module} is not installed"
    return ""


@pytest.fixture(scope="module", autouse=True)
def triton() -> None:
    if why := linux_without("triton"):
        pytest.skip(why)


def check(kernels: dict[Case, dict[str, Any]], what: Callable[[Case, dict[str, Any]], Iterator[str]]) -> None:
    """Fail with all that `what` finds wrong."""
    found = [f"{case}: {wrong}" for case, facts in kernels.items() for wrong in what(case, facts)]
    assert not found, "\n".join(found)


def suffice(case: Case, facts: dict[str, Any], spill: int = SPILL) -> Iterator[str]:
    """Registers and shared memory do."""
    if (facts["stack"] > spill or facts["local"]) and case.cell != "every_op":  # that one need only compile
        yield f"{facts['registers']} registers, {facts['stack']} bytes of stack, {facts['local']} of local memory"
    if facts["shared"] > SHARED:
        yield f"{facts['shared']} bytes of shared memory"


def one_kernel(case: Case, facts: dict[str, Any]) -> Iterator[str]:
    """One runs all steps and calls nothing."""
    if facts["ptx"].count(".entry ") != 1:
        yield "not one kernel"
    if re.search(r"\bcall\b|vprintf|__assertfail", facts["ptx"]) or facts["scratch"]:
        yield "calls a function, or needs memory of its own"
    if facts["options"]["launch_cooperative_grid"] != (facts["tiling"]["tiles"] > 1):
        yield "all programs must be there exactly if they wait for one another"


def weights_stay(case: Case, facts: dict[str, Any]) -> Iterator[str]:
    """Those that fit are loaded once; what the initial state's products read is beside them."""
    tiling, (before, loop) = facts["tiling"], facts["ttgir"].split("scf.for", 1)
    held, expected = before.count("ttg.local_alloc"), min(tiling["resident"], facts["blocks"])
    if not expected <= held <= expected + facts["source"].count("tl.broadcast_to("):
        yield f"{held} blocks of weights are in shared memory, expected {tiling['resident']} of {facts['blocks']}"
    if case.proj:
        return
    depth = tiling["depth"] if tiling["tiles"] > 1 else tiling["units"]
    shape = [depth, tiling["units"]]
    if tiling["splits"] > 1:
        shape = [tiling["splits"], depth // tiling["splits"], tiling["units"]]
    loads = [line for line in loop.splitlines() if "tt.load" in line and "isVolatile" not in line]
    again = sum(f"tensor<{'x'.join(map(str, shape))}x!tt.ptr" in line for line in loads)
    if again != max(0, facts["blocks"] - tiling["resident"]):
        yield f"{again} blocks of weights are loaded at each step"


def past_the_first_cache(case: Case, facts: dict[str, Any]) -> Iterator[str]:
    """What programs exchange is read there."""
    awaited = facts["ttgir"].count("isVolatile = true")
    asked = [names.count(",") + 1 for names in re.findall(r"while missing\(\((.*?),\), WARPS", facts["source"])]
    if awaited != 2 * sum(asked):
        yield "each awaited value must be read before a loop and in it"
    volatile, strong = facts["ptx"].count("ld.volatile.global"), facts["sass"].count("STRONG.SYS")
    if (awaited > 0) != (volatile > 0) or (volatile > 0) != (strong > 0):
        yield f"{awaited} awaited reads are {volatile} volatile ones and {strong} strong ones"
    if "ld.global.nc" in facts["ptx"] or ".CONSTANT" in facts["sass"]:
        yield "reads memory as if nobody stored to it"


def by_one_thread_each(case: Case, facts: dict[str, Any]) -> Iterator[str]:
    """What programs exchange is read there: one of two threads might read a number before it is stored, and the other
    one be asked whether it is missing."""
    layouts = dict(re.findall(r"^(#blocked\d*) = #ttg.blocked<\{(.*)\}>", facts["ttgir"], re.M))
    for shape, layout in re.findall(r"isVolatile = true\} : tensor<([\dx]+)x!tt[^,]*, (#\w+)>", facts["ttgir"]):
        lists = [json.loads(numbers) for numbers in re.findall(r"= (\[[^]]*\])", layouts[layout])][:3]
        if any(int(size) < math.prod(n) for size, n in zip(shape.split("x"), zip(*lists, strict=True), strict=True)):
            yield f"{shape} numbers are read by more threads: {layouts[layout]}"


def where_they_should(case: Case, facts: dict[str, Any]) -> Iterator[str]:
    """Products run there."""
    units = {"bf16": r"HMMA\S*F32\.BF16|HGMMA", "fp16": r"HMMA\S*\.F32\b|HGMMA", "fp64": r"DMMA|DFMA"}
    tf32, unit = case.precision == "tf32", units.get(case.type)
    if unit and not re.search(unit, facts["sass"]):
        yield f"no {unit}"
    if case.type == "fp32" and (re.search(r"HMMA\S*TF32|HGMMA", facts["sass"]) is not None) != tf32:
        yield f"tensor cores, or none, in {case.precision}"


def test_the_machine_code(tmp_path: Path) -> None:
    """One test for all, since to compile takes most of a minute."""
    kernels = compiled(SHORT, tmp_path)
    for what in (suffice, one_kernel, weights_stay, past_the_first_cache, by_one_thread_each, where_they_should):
        check(kernels, what)


@pytest.mark.slow
def test_registers_and_shared_memory_suffice_at_many_sizes(tmp_path: Path) -> None:
    kernels = compiled(LONG, tmp_path)
    check(kernels, lambda case, facts: suffice(case, facts, MOST))
    more = [case for case, facts in kernels.items() if facts["stack"] > SPILL]
    assert len(more) <= len(LONG) // 20, more


def test_nothing_is_compiled_twice(tmp_path: Path) -> None:
    """By no other process, and for no other batch: of the numbers that a kernel is given only x's strides may matter,
    by whether 16 divides them."""
    cases = [*both(Case("gru", 64, 16)), *(Case("gru", 64, B) for B in (15, 2))]
    first = compiled(cases, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.cubin")}
    again = compiled(cases, tmp_path)
    assert len(files) == len(DIRECTIONS)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.cubin")} == files
    assert [facts["hash"] for facts in again.values()] == [facts["hash"] for facts in first.values()]


@pytest.mark.parametrize("hidden", [17, 64, 300, 1024])
def test_every_tiling_fits_what_a_gpu_asks(hidden: int) -> None:
    """Products have 16 terms at least; a number that is awaited is read by one thread; all that wait are there."""
    for batch, groups, output, rate in product((1, 100), (1, 2), (3, hidden), RATES):
        work = Work(batch, groups, hidden, output, output < hidden, 4, 1, 2, 4, 2, 1, 4, rate)
        found = [tiling for _, tiling in candidates(work, cuda.H100)]
        assert found
        for tiling in found:
            alone = tiling.tiles == 1
            terms = min(tiling.units, tiling.outputs) if alone else tiling.depth
            assert terms // tiling.splits >= 16
            assert alone or tiling.rows * tiling.depth >= 32 * tiling.warps
            assert alone or tiling.tiles * groups <= cuda.H100.processors
            assert tiling.tiles * tiling.units >= hidden
            assert tiling.tiles * tiling.outputs >= output


def test_a_state_of_any_bits_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bits set means "not there yet" among programs; the state before the first step may have such a NaN."""
    monkeypatch.setattr(cuda, "force", Tiling(2, 2, 2, 3, False, 4, 2, 1, 99, 4))
    layer, hx = gatewise.GRU(3, 5), torch.zeros(1, 2, 5)
    hx.view(torch.int32)[0, 0, 1] = -1
    layer.executor = "cuda"
    with lockstep():
        output = layer(torch.randn(3, 2, 3), hx)[0]
    assert output[:, 0].isnan().all()
    assert output[:, 1].isfinite().all()


def test_more_numbers_than_offsets_can_hold_are_refused() -> None:
    case = Case("gru", 2048, 349_526)  # x 3 x 2048 is just above 2**31
    inputs = case.inputs(graph := case.graph())
    like = torch.zeros(())
    inputs = inputs._replace(weight_hr=like.expand(0, 2048))
    assert "numbers" in cuda.why_not(graph, inputs)
    smaller = Case("gru", 2048, 349_525).inputs(graph)._replace(weight_hr=like.expand(0, 2048))
    assert cuda.why_not(graph, smaller) == ""
