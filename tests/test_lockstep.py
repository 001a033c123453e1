"""The interpreter that runs a grid's programs side by side: waiting works, and each fault it is there for is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")  # made for Linux alone

import triton.language as tl  # noqa: E402
from lockstep import lockstep  # noqa: E402
from triton.runtime.errors import InterpreterError  # noqa: E402


@triton.jit
def wait_for(place, value):
    while tl.load(place, volatile=True) != value:
        pass


@triton.jit
def ping_pong(turns, ROUNDS: tl.constexpr):
    p = tl.program_id(0)
    for t in range(ROUNDS):
        wait_for(turns + 1 - p, t + p)
        tl.store(turns + p, t + 1)


@triton.jit
def exchange(x, out, PROGRAMS: tl.constexpr, PART: tl.constexpr, STEPS: tl.constexpr):
    """Each step, x of all programs' parts becomes cumulative sums of the last step's, each program making its part."""
    p = tl.program_id(0)
    width: tl.constexpr = PROGRAMS * PART
    mine, all_of_it = p * PART + tl.arange(0, PART), tl.arange(0, width)
    for t in range(STEPS):
        a = tl.load(x + t * width + all_of_it, volatile=True)
        while tl.max((a.to(tl.int32, bitcast=True) == -1).to(tl.int32)) != 0:
            a = tl.load(x + t * width + all_of_it, volatile=True)
        made = tl.sum(tl.where(all_of_it[None, :] <= mine[:, None], a[None, :], 0.0), axis=1)
        tl.store(x + (t + 1) * width + mine, made / width)
        tl.store(out + t * width + mine, made)


@triton.jit
def exchange_wrongly(x, out, PART: tl.constexpr):
    """Looks at the other program's first element alone, though the rest may not be there yet."""
    p = tl.program_id(0)
    i = tl.arange(0, PART)
    tl.store(x + p * PART + i, i + 1.0)
    while tl.load(x + (1 - p) * PART, volatile=True) == 0:
        pass
    tl.store(out + p * PART + i, tl.load(x + (1 - p) * PART + i, volatile=True))


@triton.jit
def read_plainly(x, flag, out, FIRST: tl.constexpr):
    p = tl.program_id(0)
    if p == FIRST:
        tl.store(x + 1, 7)
        tl.store(flag, 1)
    else:
        if FIRST == 0:
            wait_for(flag, 1)
        tl.store(out, tl.load(x + 1))
        if FIRST == 1:
            wait_for(flag, 1)


@triton.jit
def wait_by_plain_loads(flag, SETS: tl.constexpr):
    if tl.program_id(0) == 0:
        while tl.load(flag) == 0:
            pass
    elif SETS:
        tl.store(flag, 1)


@triton.jit
def store_overlapping(out, PART: tl.constexpr):
    tl.store(out + tl.program_id(0) * (PART - 1) + tl.arange(0, PART), 1)


@triton.jit
def count(total, arrived, out):
    """A barrier of atomics; then every program has all others' share."""
    p = tl.program_id(1)
    tl.atomic_add(total, p + 1)
    tl.atomic_add(arrived, 1)
    while tl.atomic_cas(arrived, 0, 0) != tl.num_programs(1):
        pass
    tl.store(out + p, tl.load(total, volatile=True))


@triton.jit
def fail(flag):
    p = tl.program_id(0)
    if p == 2:
        assert p != 2, "two is not wanted"
    wait_for(flag, 1)


def zeros(size: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.zeros(size, dtype=dtype)


@pytest.mark.parametrize("seed", range(3))
def test_two_programs_wait_for_each_other(seed: int) -> None:
    turns = zeros(2)
    with lockstep(seed):
        ping_pong[(2,)](turns, 6)
    assert turns.tolist() == [6, 6]


def exchanged(seed: int, programs: int = 4, part: int = 4, steps: int = 5, **options: Any) -> tuple[torch.Tensor, Any]:
    x = torch.full((steps + 1, programs * part), -1, dtype=torch.int32).view(torch.float32)
    x[0] = torch.linspace(-1, 1, programs * part)
    out = torch.empty(steps, programs * part)
    with lockstep(seed, **options) as seen:
        exchange[(programs,)](x, out, programs, part, steps)
    return out, seen.launches[0]


def test_an_exchange_over_steps_is_the_same_in_every_order() -> None:
    state, expected = torch.linspace(-1, 1, 16), []
    for _ in range(5):
        expected.append(state.cumsum(0))
        state = expected[-1] / 16
    orders, leads = set(), set()
    for seed in range(5):
        out, launch = exchanged(seed)
        torch.testing.assert_close(out, torch.stack(expected))
        orders.add(tuple(launch.order))
        leads.add(launch.lead)
    assert len(orders) == 5
    assert max(leads) >= 2  # more than half a step of two stores
    assert exchanged(3)[1] == exchanged(3)[1]  # one seed, one order


def test_one_program_and_many() -> None:
    for programs in (1, 16):
        out, launch = exchanged(0, programs, part=2)
        assert launch.programs == programs
        assert out.isfinite().all()


def test_a_block_is_not_stored_in_one_go() -> None:
    seen = set()
    for seed in range(8):
        x, out = torch.zeros(16), torch.zeros(16)
        with lockstep(seed):
            exchange_wrongly[(2,)](x, out, 8)
        seen.add(bool((out == x).all()))
    assert seen == {True, False}  # it may go well, as on a GPU


def test_atomics_on_a_grid_of_two_axes() -> None:
    out = zeros(3)
    with lockstep():
        count[(1, 3)](zeros(1), zeros(1), out)
    assert out.tolist() == [6, 6, 6]


@pytest.mark.parametrize("seed", range(3))
def test_a_deadlock_is_reported(seed: int) -> None:
    with pytest.raises(AssertionError, match=r"^ping_pong: deadlock: .*: program 0, program 1$"), lockstep(seed):
        ping_pong[(2,)](torch.tensor([5, 5]), 6)
    with pytest.raises(AssertionError, match=r"^wait_by_plain_loads: deadlock: .*: program 0$"), lockstep(seed):
        wait_by_plain_loads[(2,)](zeros(1), False)


@pytest.mark.parametrize("first", [0, 1])
def test_a_race_through_a_plain_load_is_reported(first: int) -> None:
    # Whichever comes first in this order, on a GPU it might be the other.
    said = r"race: program 1 reads, .* program 0 stored" if first == 0 else r"race: program 0 read.* program 1 store"
    with pytest.raises(AssertionError, match=said + r".*, 4 bytes after x$"), lockstep():
        read_plainly[(2,)](zeros(2), zeros(1), zeros(1), first)
    with lockstep(races=False):
        read_plainly[(2,)](zeros(2), zeros(1), zeros(1), first)


def test_waiting_by_plain_loads_is_a_race() -> None:
    with pytest.raises(AssertionError, match=r"race: program 0 read, .* what program 1 stores"), lockstep():
        wait_by_plain_loads[(2,)](zeros(1), True)


def test_a_double_store_is_reported() -> None:
    out = zeros(16)
    said = "store_overlapping: double store: program . and then program . stored in the same launch, .* bytes after out"
    with pytest.raises(AssertionError, match=said), lockstep():
        store_overlapping[(3,)](out, 4)
    with lockstep(double_stores=False):
        store_overlapping[(3,)](out, 4)


def test_an_exception_in_one_program_comes_out() -> None:
    with pytest.raises(InterpreterError, match="two is not wanted"), lockstep():
        fail[(4,)](zeros(1))


def test_a_block_that_launches_nothing_is_no_check() -> None:
    with pytest.raises(AssertionError, match="got none"), lockstep():
        pass
