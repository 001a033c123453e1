"""How a GPU scan is divided among programs: the candidates, and a model of the time of a step.

The model counts clock cycles of one step: an exchange through the L2 cache, the products, what is read. Its constants
are those of an H100 by its data sheet, and guesses where that says nothing; none was fitted to measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from gatewise.scan.gpu.source import Tiling

STORE = 1000  # cycles from a store until all others can read it, by way of the L2 cache
READ = 500  # cycles until what is read there comes
LOOK = 200  # cycles of a look at what came, and until it can be multiplied: four barriers, and shared memory
REST = 300  # cycles for all else, for each number of a tile that a thread has: a hundred instructions of eight warps
L2_RATE = 64  # bytes a cycle that one multiprocessor reads from the L2 cache
L2_RATE_OF_ALL = 3100  # that all read together
# Multiplications a cycle of one multiprocessor, as far as Triton's products reach; float64's and ieee float32's last.
RATES = {"tensor": 900, "tf32": 450, "ieee": 115, "float64": 50}
SHARED_RATE = 128  # bytes a cycle that it reads from its shared memory
RESERVED = 2 * 1024  # bytes of shared memory for small exchanges among a program's threads
REGISTERS = 64  # of a thread, for what is read ahead
PARTS = 12  # of what a step reads; each is written out, and with more of them compiling takes too long
SUMS = 96  # of a thread, for products; with more of either the compiler spills them to memory


@dataclass(frozen=True)
class Device:
    """What the choice depends on: multiprocessors, bytes of shared memory of one."""

    processors: int
    shared: int


@dataclass(frozen=True)
class Work:
    """What a scan's step consists of.

    batch, groups: samples of a group, and how many groups there are, each with its own weights.
    hidden, output: H and P. projects: whether these are two sizes.
    gates: how many gates' products a step has, each H x P. projections: the same of the output's projection.
    operands: how many values of P or H numbers these read. sums: how many products are summed at a time.
    exchanges: how many exchanges of a step are waited for, one after the other. early: how many of these are of what
    the step before has stored.
    bytes: of a number. rate: a key of RATES.
    """

    batch: int
    groups: int
    hidden: int
    output: int
    projects: bool
    gates: int
    projections: int
    operands: int
    sums: int
    exchanges: int
    early: int
    bytes: int
    rate: str


def power_of_two(n: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (n - 1).bit_length()


def alone(hidden: int, output: int) -> Tiling:
    """A tiling whose programs need nothing of one another, for an interpreter, to which all sizes are the same."""
    units, outputs = power_of_two(max(hidden, 16)), power_of_two(max(output, 16))
    return Tiling(16, units, outputs, 1, False, units, 1, 1, 1 << 10, 4)


def candidates(work: Work, device: Device) -> Iterator[tuple[float, Tiling]]:
    """The tilings that fit the device, each with the model's cycles for a step."""
    wide = max(work.hidden, work.output)
    smallest = 1 if work.rate == "ieee" else 16  # rows, of products on tensor cores
    most = power_of_two(max(work.batch, smallest, 2))
    for rows in (1, 2, 4, 8, 16) if work.rate == "ieee" else (16, 32, 64):
        if not smallest <= rows <= most:
            continue
        all_of = power_of_two(max(work.hidden, 16)), power_of_two(max(work.output, 16))
        if max(all_of) <= 256:
            yield from _candidate(work, device, rows, *all_of, 1, max(all_of))
        for units in (8, 16, 32, 64, 128):
            tiles = -(-work.hidden // units)
            if tiles < 2 or tiles * work.groups > device.processors:
                continue
            outputs = max(power_of_two(-(-work.output // tiles)), 8) if work.projects else units
            for depth in {min(power_of_two(max(wide, 16)), cap) for cap in (64, 128, 256, 512, 1024)}:
                if rows * depth * work.bytes <= 32 * 1024:
                    yield from _candidate(work, device, rows, units, outputs, tiles, depth)


def _candidate(
    work: Work, device: Device, rows: int, units: int, outputs: int, tiles: int, depth: int
) -> Iterator[tuple[float, Tiling]]:
    """The tiling of these sizes with its time, if it fits."""
    alone, wide = tiles == 1, max(work.hidden, work.output)
    row_tiles = -(-work.batch // rows)
    parts = row_tiles if alone else min(row_tiles, max(1, device.processors // (tiles * work.groups)))
    turns = -(-row_tiles // parts)
    terms = -(-work.output // depth), -(-work.hidden // depth)
    blocks = work.gates * terms[0] + work.projections * terms[1]
    block = depth * max(units, outputs if work.projects else 0) * work.bytes
    # A program alone sums over its own tile, of H and of P; the same splits serve both.
    for warps, splits in _divisions(work, rows, units, min(units, outputs) if alone else depth):
        if not alone and rows * depth < 32 * warps:
            continue  # several threads would each load a number, some before it is stored; `missing` asks one of them
        operand = rows * depth * work.bytes
        waited = 0 if alone else work.operands * max(terms)
        ieee = work.rate == "ieee"
        if ieee and rows >= 4 and depth // splits > 16:
            continue  # a thread reads all terms of its rows and units at once, and would spill
        ahead = max(1, min(8, REGISTERS * warps * 32 * 4 // operand))
        # What is multiplied goes through shared memory, for tensor cores all that was read at once (see
        # Products.product); and after it, at the same place, sums in parts, of two products at once.
        staged = operand * (1 if ieee else max(1, min(ahead, waited)))
        sums = splits * rows * max(units, outputs) * max(4, work.bytes)
        room = device.shared - RESERVED - max(staged, sums * min(work.sums, 2) if splits > 1 else 0)
        resident = room // block if blocks * block > room else blocks
        if resident < blocks:  # and the others come and go
            resident -= 2 * work.sums
        each = sums * work.sums // (4 * 32 * warps)
        if resident < 0 or each > SUMS or (alone and resident < blocks):
            continue
        rate = RATES[work.rate] * warps / 8
        multiplied = rows * (work.gates * units * work.output + work.projections * outputs * work.hidden) / rate
        if ieee:  # each warp reads its terms' weights once, and four rows of a tile from one bank
            fetched = blocks * block + rows * work.operands * wide * work.bytes * 4
            multiplied = max(multiplied, fetched / (SHARED_RATE * warps / 8))
        used = tiles * parts * work.groups
        l2_rate = min(L2_RATE, L2_RATE_OF_ALL / min(used, device.processors))
        read = (waited * operand + (blocks - resident) * block) / l2_rate
        looks = 0 if alone else max(work.exchanges, -(-waited // ahead))
        waits = looks + blocks - resident  # nothing is done meanwhile
        turn = multiplied + max(read, multiplied * 0.25) + waits * (READ + LOOK)
        turn += REST * max(1, rows * max(units, outputs) / (32 * warps))
        # What is read first is read until it is there, half a time in vain; other turns may pass meanwhile, if it is of
        # the step before.
        vain = min(waited, ahead) * operand / l2_rate / 2
        turn += 0 if alone else (work.exchanges - work.early) * STORE + (0 if work.early else vain)
        cycles = turns * turn + (0 if alone else max(0, work.early * (STORE + vain) - (turns - 1) * turn))
        waves = -(-row_tiles * work.groups // device.processors) if alone else 1
        tiling = Tiling(rows, units, outputs, tiles, turns > 1, depth, splits, ahead, resident, warps)
        yield cycles * waves, tiling


def _divisions(work: Work, rows: int, units: int, depth: int) -> Iterator[tuple[int, int]]:
    """How many warps, and in how many parts they share a product's sum: 1 where there are tiles enough for all."""
    most = max(1, depth // 16)  # terms of one product of Triton's are 16 at least
    for warps in (4, 8):
        if work.rate == "ieee":  # a thread has a square of sums, for which it reads few numbers: 4 x 4 where it can
            yield warps, min(most, max(warps, warps * 32 * min(rows, 4) ** 2 // (rows * units)))
        elif rows == 16 and units >= 128:
            yield warps, 1
        else:
            yield warps, min(most, warps)


@lru_cache(maxsize=512)
def choose(work: Work, device: Device) -> tuple[Tiling, ...]:
    """The tilings that fit, fastest by the model first; empty if none does."""

    def rank(pair: tuple[float, Tiling]) -> tuple[object, ...]:
        cycles, tiling = pair
        parts = work.operands * -(-max(work.hidden, work.output) // tiling.depth)
        return max(parts, PARTS), cycles, parts, tiling.warps, tiling.rows, tiling.units

    return tuple(tiling for _, tiling in sorted(candidates(work, device), key=rank))
