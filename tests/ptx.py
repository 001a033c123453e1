"""An emulator of the PTX that Triton makes: compiled kernels run on CPU tensors, and what a GPU would leave to chance is
an error.

All threads of a launch run side by side. Threads at the same instruction run it together, as numpy arrays; which go
next is drawn from a seed, so programs (CTAs) and warps run ahead of others as they may on a GPU, and wait at barriers,
or by loading again and again what another is to store. One seed, one order. Memory is one array with gaps between the
tensors. Lanes of a warp that take different branches run the lowest instruction first, so they meet again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ptx_ops import MATRICES, TYPES, Array, arithmetic, bits_of, comparison, multiply_add
from torch import Tensor

BASE = 0x7F0000000000  # the address at which memory begins
GAP = 512  # bytes between tensors
FOR_EVER = 30_000  # jumps back, while memory does not change
MANY = -2  # of who has read: several
FAR = np.iinfo(np.int32).max
FILES = {"p": np.bool_, "rs": np.uint16, "r": np.uint32, "rd": np.uint64, "f": np.uint32, "fd": np.uint64}


class Group:
    """Threads that run an instruction together.

    threads: their numbers, ascending. at: the same as an index, a slice where they are neighbours. whole: whether they
    are whole warps.
    """

    def __init__(self, threads: Array, whole: bool | None = None) -> None:
        self.threads, self.count = threads, len(threads)
        first, last = int(threads[0]), int(threads[-1])
        self.at: Any = slice(first, last + 1) if last - first + 1 == self.count else threads
        if whole is None:
            lanes = np.bincount(threads // 32)
            whole = bool(np.isin(lanes, (0, 32)).all())
        self.whole = whole
        self.warps = threads[::32] // 32 if whole else np.unique(threads // 32)

    def only(self, mask: Array) -> Group | None:
        """Those of whom this is true."""
        if mask.all():
            return self
        return Group(self.threads[mask]) if mask.any() else None


@dataclass
class Instruction:
    """One of a program's. text: as it is written. run: what it does, if it is no branch, barrier or end."""

    text: str
    name: str
    guard: Callable[[Group], Array] | None = None
    run: Callable[[Group], Any] | None = None
    target: int = -1
    address: Callable[[Group], Array] | None = None
    together: bool = False  # whether all lanes of a warp must be there
    kind: str = ""  # branch, barrier, end, awaited load, store: what the scheduler has to do with


@dataclass
class Seen:
    """What was seen of a launch. Of each warp: instructions and barriers that it executed, but not those of the loops in
    which it waited. choices: how often the seed decided who goes on."""

    instructions: Array
    barriers: Array
    choices: int = 0
    names: dict[str, int] = field(default_factory=dict)


class Fault(AssertionError):
    """What would be an error on a GPU, or chance."""


def run(
    ptx: str,
    grid: int,
    threads: int,
    arguments: Sequence[Tensor | int],
    *,
    shared: int = 0,
    seed: int = 0,
    races: bool = True,
) -> Seen:
    """Run a kernel's `grid` programs of so many threads each.

    Args:
        arguments: as many as the kernel has. Tensors must hold their storages' bytes in CPU memory; they are changed.
        shared: bytes of shared memory of a program, which begin as ones.
        seed: 0: whoever can go on does, together; else some, drawn at random.
        races: whether to look for races in both memories, and reads of shared memory that was never written.

    Raises AssertionError for memory accesses out of bounds or not aligned, races, and deadlocks.
    """
    machine = Machine(ptx, grid, threads, arguments, shared, seed, races)
    with np.errstate(all="ignore"):
        machine.go()
    machine.memory.back()
    return machine.seen


class Memory:
    """The arguments' tensors in one array of bytes, and what lies outside of them."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors if t.numel()}
        self.begins: dict[int, int] = {}
        self.views: list[tuple[int, Array]] = []
        end = GAP
        for pointer, storage in sorted(storages.items()):
            begin = end + (pointer - end) % 256  # as aligned as it is
            view = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
            self.begins[pointer], end = begin, begin + len(view) + GAP
            self.views.append((begin, view))
        self.bytes = np.zeros(-(-end // 256) * 256, np.uint8)
        self.inside = np.zeros(len(self.bytes), np.bool_)
        for begin, view in self.views:
            self.bytes[begin : begin + len(view)] = view
        for t in tensors:
            if t.numel():
                begin = self.pointer(t) - BASE
                numbers = 1 + sum((size - 1) * step for size, step in zip(t.shape, t.stride(), strict=True))
                self.inside[begin : begin + numbers * t.element_size()] = True

    def pointer(self, t: Tensor) -> int:
        storage = t.untyped_storage().data_ptr()
        return BASE + self.begins[storage] + t.data_ptr() - storage if t.numel() else 0

    def back(self) -> None:
        for begin, view in self.views:
            view[:] = self.bytes[begin : begin + len(view)]


class Shadow:
    """Who touched what since which barrier, of both memories, in units of the smallest access's bytes.

    A stamp is a program's barriers so far x 64 + the warp, which tells warps of one program apart.
    """

    def __init__(self, size: int, unit: int, of_all: bool) -> None:
        self.unit = unit
        self.stored, self.loaded = (np.full(-(-size // unit), -1, np.int32) for _ in range(2))
        # In memory that all programs have in common also which program it was.
        self.stored_by, self.loaded_by = (np.full(-(-size // unit) if of_all else 0, -1, np.int16) for _ in range(2))
        self.of_all = of_all

    def load(self, index: Array, size: int, stamp: Array, program: Array) -> str:
        units, stamp, program = self._units(index, size, stamp, program)
        was = self.stored[units]
        same = (was >> 6 == stamp >> 6) & (was != stamp) & (was >= 0)
        if self.of_all:
            by = self.stored_by[units]
            if ((by != program) & (by >= 0)).any():
                return "loads what another program stores, as if it were there"
            same &= by == program
            readers = self.loaded_by[units]
            self.loaded_by[units] = np.where((readers == program) | (readers == -1), program, MANY)
        elif (was < 0).any():
            return "loads what nobody stored"
        if same.any():
            return "loads what another warp stored, without a barrier between"
        last = self.loaded[units]
        self.loaded[units] = np.where((last >> 6 == stamp >> 6) & (last != stamp) & (last >= 0), stamp | 63, stamp)
        # Of several warps that load now in one instruction one was noted.
        noted = self.loaded[units]
        self.loaded[units[(noted != stamp)]] |= 63
        if self.of_all:
            self.loaded_by[units[self.loaded_by[units] != program]] = MANY
        return ""

    def store(self, index: Array, size: int, stamp: Array, program: Array, anew: Array) -> str:
        """anew: whether it is another value than was there; warps may well store one value twice."""
        units, stamp, program = self._units(index, size, stamp, program)
        anew = np.repeat(anew, len(units) // len(anew))
        was, last = self.stored[units], self.loaded[units]
        over = (was >> 6 == stamp >> 6) & (was != stamp) & (was >= 0)
        under = (last >> 6 == stamp >> 6) & (last != stamp) & (last >= 0)
        if self.of_all:
            by, readers = self.stored_by[units], self.loaded_by[units]
            if ((by != program) & (by != -1)).any():
                return "stores where another program does"
            if ((readers != program) & (readers != -1)).any():
                return "stores what another program loads as if it were there"
            over, under = over & (by == program), under & (readers == program)
            self.stored_by[units] = program
        self.stored[units] = stamp
        if (over & anew).any():
            return "stores where another warp stored, without a barrier between"
        if self.of_all and (self.stored_by[units] != program).any():
            return "stores where another program does"
        return "stores what another warp loads, without a barrier between" if (under & anew).any() else ""

    def _units(self, index: Array, size: int, stamp: Array, program: Array) -> tuple[Array, Array, Array]:
        count = max(1, size // self.unit)
        units = (index[:, None] // self.unit + np.arange(count)).ravel()
        return units, np.repeat(stamp, count), np.repeat(program, count)


class Machine:
    """A kernel at work."""

    def __init__(
        self, ptx: str, grid: int, threads: int, arguments: Sequence[Tensor | int], shared: int, seed: int, races: bool
    ) -> None:
        self.count, self.per_program, self.warps = grid * threads, threads, grid * threads // 32
        self.choose, self.seed = np.random.default_rng(seed), seed
        thread = np.arange(self.count)
        self.program, self.warp = thread // threads, (thread % threads // 32).astype(np.int32)
        self.special = {
            "%tid.x": (thread % threads).astype(np.uint32), "%ctaid.x": self.program.astype(np.uint32),
            "%laneid": (thread % 32).astype(np.uint32), "%ntid.x": np.uint32([threads]), "%nctaid.x": np.uint32([grid]),
        }  # fmt: skip
        self.memory = Memory([a for a in arguments if isinstance(a, Tensor)])
        self.size, self.pitch = shared, -(-shared // 16) * 16 + 16
        self.shared = np.full(grid * self.pitch, 0xFF, np.uint8)
        head, body = entry_of(ptx)
        names = re.findall(r"\.param\s[^,]*?(\w+)\s*(?:,|$)", head)
        assert len(names) == len(arguments), f"the kernel has {len(names)} arguments, was given {len(arguments)}"
        given = [self.memory.pointer(a) if isinstance(a, Tensor) else a for a in arguments]
        self.parameters = dict(zip(names, given, strict=True))
        self.registers: dict[str, Array] = {}
        self.code: list[Instruction] = []
        self.parse(body)
        self.shadows: dict[str, Shadow] = {}
        if races:
            for space, size in (("global", len(self.memory.bytes)), ("shared", len(self.shared))):
                sizes = [_size(i.name) for i in self.code if f".{space}" in i.name]
                self.shadows[space] = Shadow(size, min(sizes, default=4), space == "global")
        self.pc = np.zeros(self.count, np.int32)
        self.ready = np.ones(self.count, np.bool_)
        self.stalled = np.zeros(self.count, np.bool_)  # before what needs all lanes of a warp
        self.ended = np.zeros(self.warps, np.bool_)
        self.arrived = np.zeros(self.warps, np.bool_)
        self.epoch = np.zeros(grid, np.int32)
        self.version = 0  # of memory
        self.jumps = 0  # back, since it changed
        self.parked = np.full(self.warps, -1, np.int64)  # the version of which a warp has seen all that it waits for
        # Of an awaited load: memory's version then, the address, and how often it was loaded again for nothing.
        self.looked: dict[int, tuple[Array, ...]] = {}
        self.spins = np.zeros(self.warps, np.bool_)
        self.speed = 10 ** -self.choose.random(grid)  # some programs run ahead
        self.seen = Seen(np.zeros(self.warps, np.int64), np.zeros(self.warps, np.int64))

    # --- text -> instructions --------------------------------------------------------------------------

    def parse(self, body: str) -> None:
        labels: dict[str, int] = {}
        statements: list[str] = []
        lines = [line.split("//")[0].strip() for line in body.splitlines()]
        text = "\n".join(line for line in lines if not re.match(r"\.(loc|file)\b", line))
        for part in text.split(";"):
            rest = re.sub(r"\s+", " ", part).strip()
            while match := re.match(r"([$\w]+): ?|[{}] ?", rest):
                if match[1]:
                    labels[match[1]] = len(statements)
                rest = rest[match.end() :]
            if match := re.match(r"\.reg \.(\w+) ([%\w]+)(?:<(\d+)>)?$", rest):
                dtype = bits_of(TYPES[match[1]]) if match[1] != "pred" else np.bool_
                names = [f"{match[2]}{k}" for k in range(int(match[3]))] if match[3] else [match[2]]
                for name in names:  # ones in all bits: nobody may count on zeros
                    self.registers[name] = np.full(self.count, -1).astype(dtype)
            elif rest.startswith(".pragma") or not rest:
                continue
            elif rest.startswith("."):
                raise NotImplementedError(f"PTX: {rest}")
            else:
                statements.append(rest)
        self.code = [self.instruction(s) for s in statements]
        for k, made in enumerate(self.code):
            if made.kind == "branch":
                made.target = labels[made.text.split()[-1]]
        # The jumps back of loops that only wait: with awaited loads in them, and no stores.
        self.waits = set()
        for k, made in enumerate(self.code):
            if made.kind == "branch" and 0 <= made.target <= k:
                kinds = {i.kind for i in self.code[made.target : k + 1]}
                if "awaited" in kinds and "store" not in kinds:
                    self.waits.add(k)

    def instruction(self, text: str) -> Instruction:
        match = re.match(r"(?:@(!?)(%\w+) )?([\w.:]+)(?: (.*))?$", text)
        if match is None:
            raise NotImplementedError(f"PTX: {text}")
        inverse, predicate, name, rest = match.groups()
        made = Instruction(text, name)
        if predicate:
            row = self.registers[predicate]
            made.guard = (lambda g: ~row[g.at]) if inverse else (lambda g: row[g.at])
        operands = split(rest or "")
        if name in ("bra", "bra.uni"):
            made.kind = "branch"
        elif name in ("ret", "exit"):
            made.kind = "end"
        elif name == "bar.sync":
            if operands != ["0"] or predicate:
                raise NotImplementedError(f"PTX: {text}")
            made.kind, made.together = "barrier", True
        else:
            made.run = self.memory_access(made, operands) or self.crosswise(made, operands) or self.each(made, operands)
            if made.run is None:
                raise NotImplementedError(f"PTX: {text}")
        return made

    # --- operands --------------------------------------------------------------------------------------

    def source(self, text: str, kind: str) -> Callable[[Group], Array]:
        """What reads an operand, as numbers of a type."""
        dtype, bits = np.dtype(TYPES[kind]), bits_of(TYPES[kind]) if kind != "pred" else np.dtype(np.bool_)
        row = self.special.get(text) if text.startswith("%") else None
        row = self.registers.get(text, row)
        if row is None:
            constant = number(text, dtype, bits)
            return lambda g: constant
        if len(row) == 1:
            return lambda g: row
        if row.dtype == bits or kind == "pred":
            return lambda g: row[g.at].view(dtype)
        return lambda g: row[g.at].astype(bits).view(dtype)

    def sources(self, text: str, kind: str) -> list[Callable[[Group], Array]]:
        """The same of a vector {a, b}, or of one."""
        return [self.source(part, kind) for part in split(text.strip("{} "))]

    def target(self, text: str) -> Callable[[Group, Array], None]:
        """What writes a register: signed numbers keep their sign, others get zeros in front."""
        if text == "_":
            return lambda g, value: None
        row = self.registers[text]

        def write(g: Group, value: Array) -> None:
            if value.dtype.kind == "f":
                value = value.view(bits_of(value.dtype))
            row[g.at] = value.astype(row.dtype, copy=False)

        return write

    def targets(self, text: str) -> list[Callable[[Group, Array], None]]:
        return [self.target(part) for part in split(text.strip("{} "))]

    def address(self, text: str, kind: str) -> Callable[[Group], Array]:
        """[register + number], or of shared memory's beginning."""
        base, _, offset = text.strip("[] ").replace(" ", "").partition("+")
        where, more = self.source("0" if base == "global_smem" else base, kind), int(offset or 0)
        return lambda g: np.broadcast_to(where(g).astype(np.int64) + more, g.count)

    # --- instructions of each thread -------------------------------------------------------------------

    def each(self, made: Instruction, operands: Sequence[str]) -> Callable[[Group], Any] | None:
        """Arithmetic, comparisons and moves."""
        op, *mods = made.name.split(".")
        if op == "setp":
            return self.compared(mods, operands)
        if op == "mov" and "{" in made.text:
            return self.packed(TYPES[mods[-1]], operands)
        if (found := arithmetic(made.name)) is None:
            return None
        function, kinds, to = found
        if len(kinds) != len(operands) - 1:
            return None
        sources, target = [self.source(t, k) for t, k in zip(operands[1:], kinds, strict=True)], self.target(operands[0])
        dtype = TYPES[to]
        return lambda g: target(g, function(*(s(g) for s in sources)).astype(dtype, copy=False))

    def compared(self, mods: Sequence[str], operands: Sequence[str]) -> Callable[[Group], None] | None:
        """setp: a comparison, joined with a predicate or not; to the second target goes its opposite, or what the upper
        halves make."""
        name, *joined = [m for m in mods if m not in TYPES]
        kind = mods[-1]
        compare = comparison(name, kind)
        joins = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
        if compare is None or len(joined) > 1 or not set(joined) <= set(joins):
            return None
        a, b = (self.source(t, kind) for t in operands[1:3])
        targets = [self.target(t) for t in operands[0].split("|")]
        join = joins[joined[0]] if joined else None
        inverse = bool(join) and operands[3].startswith("!")
        other = self.source(operands[3].lstrip("!"), "pred") if join else None

        def run(g: Group) -> None:
            y = compare(a(g), b(g))
            halves = (y[..., 0], y[..., 1]) if kind.endswith("x2") else (y, ~y)
            for target, value in zip(targets, halves, strict=False):
                target(g, join(value, other(g) ^ inverse) if join and other else value)

        return run

    def packed(self, whole: Any, operands: Sequence[str]) -> Callable[[Group], None]:
        """mov of a register from or to its parts, the lowest first."""
        into, of = operands
        parts = split((into if "{" in into else of).strip("{} "))
        part = np.dtype(f"u{np.dtype(whole).itemsize // len(parts)}")
        kind = f"b{8 * part.itemsize}"
        if "{" in into:
            source, targets = self.source(of, f"b{8 * np.dtype(whole).itemsize}"), self.targets(into)

            def unpack(g: Group) -> None:
                numbers = np.ascontiguousarray(source(g)).view(part).reshape(-1, len(parts))
                for k, target in enumerate(targets):
                    target(g, numbers[:, k])

            return unpack
        sources, put = self.sources(of, kind), self.target(into)

        def pack(g: Group) -> None:
            numbers = np.empty((g.count, len(parts)), part)
            for k, source in enumerate(sources):
                numbers[:, k] = source(g)
            put(g, numbers.view(bits_of(whole))[:, 0])

        return pack

    # --- memory ----------------------------------------------------------------------------------------

    def memory_access(self, made: Instruction, operands: Sequence[str]) -> Callable[[Group], Any] | None:
        op, *mods = made.name.split(".")
        if op not in ("ld", "st") or mods[-1] not in TYPES:
            return None
        space = next((m for m in mods if m in ("global", "shared", "param")), "")
        known = {space, mods[-1], "volatile", "v2", "v4"}
        if not space or set(mods) - known:
            return None
        kind = mods[-1]
        if space == "param":
            target, value = self.target(operands[0]), self.parameters[operands[1].strip("[] ")]
            constant = np.array([value], np.int64).astype(TYPES[kind])
            return lambda g: target(g, constant)
        reference, values = operands if op == "st" else reversed(operands)
        address = self.address(reference, "b64" if space == "global" else "u32")
        width, size = np.dtype(TYPES[kind]).itemsize, _size(made.name)
        lanes = range(size // width)
        awaited = "volatile" in mods
        memory = (self.memory.bytes if space == "global" else self.shared).view(bits_of(TYPES[kind]))
        if op == "ld":
            targets, dtype = self.targets(values), TYPES[kind]
            if awaited and space == "global":
                made.kind, made.address = "awaited", address

            def load(g: Group) -> None:
                index = self.places(made, space, address(g), size, g)
                if not awaited:
                    self.check(made, space, "load", index, size, g)
                index = index // width
                for k in lanes:
                    targets[k](g, memory[index + k].view(dtype))

            return load
        sources = self.sources(values, f"b{8 * width}")
        made.kind = "store" if space == "global" else ""

        def store(g: Group) -> None:
            index = self.places(made, space, address(g), size, g)
            values = np.empty((g.count, len(lanes)), memory.dtype)
            for k in lanes:
                values[:, k] = sources[k](g)
            self.put(made, space, index, size, values, g)
            if space == "global":
                self.version += 1
                self.jumps = 0

        return store

    def put(self, made: Instruction, space: str, index: Array, size: int, values: Array, g: Group) -> None:
        """Store a row of values for each index."""
        memory = (self.memory.bytes if space == "global" else self.shared).view(values.dtype)
        place = index[:, None] // values.itemsize + np.arange(values.shape[1])
        anew = (memory[place] != values).any(1)
        memory[place] = values
        if (wrong := (memory[place] != values).any(1)).any():
            self.fault(made, g, "stores several values to one place", np.repeat(wrong, g.count // len(wrong)))
        self.check(made, space, "store", index, size, g, anew)

    def places(self, made: Instruction, space: str, address: Array, size: int, g: Group) -> Array:
        """Addresses -> indices in this memory's bytes, each checked."""
        if (wrong := address % size != 0).any():
            self.fault(made, g, f"address is not a multiple of {size}", wrong)
        if space == "shared":
            if (wrong := (address < 0) | (address + size > self.size)).any():
                self.fault(made, g, f"is not within {self.size} bytes of shared memory", wrong)
            return self.program[g.at] * self.pitch + address
        index = address - BASE
        wrong = (index < 0) | (index + size > len(self.memory.inside))
        clipped = np.where(wrong, 0, index)
        wrong |= ~(self.memory.inside[clipped] & self.memory.inside[clipped + size - 1])
        if wrong.any():
            self.fault(made, g, "is outside of all tensors", wrong)
        return index

    def check(self, made: Instruction, space: str, what: str, index: Array, size: int, g: Group, *more: Array) -> None:
        if shadow := self.shadows.get(space):
            program = self.program[g.at]
            stamp = self.epoch[program] * 64 + self.warp[g.at]
            if wrong := getattr(shadow, what)(index, size, stamp, program.astype(np.int16), *more):
                self.fault(made, g, wrong)

    def fault(self, made: Instruction, g: Group, wrong: str, which: Array | None = None) -> None:
        thread = int(g.threads[which][0] if which is not None else g.threads[0])
        program, lane = divmod(thread, self.per_program)
        line = next(k for k, other in enumerate(self.code) if other is made)
        raise Fault(f"instruction {line}, `{made.text}`, of thread {lane} of program {program} or another: {wrong}")

    # --- instructions of a warp --------------------------------------------------------------------------

    def crosswise(self, made: Instruction, operands: Sequence[str]) -> Callable[[Group], Any] | None:
        """What the lanes of a warp do together; all of them must be there."""
        name = made.name
        if name.startswith("mma.sync.aligned."):
            run = self.matrices(name.removeprefix("mma.sync.aligned."), operands)
        elif match := re.match(r"(ld|st)matrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared\.b16$", name):
            run = self.rows(made, match[1], int(match[2]), bool(match[3]), operands)
        elif name == "bar.warp.sync" and operands == ["-1"]:
            run = lambda g: None  # noqa: E731
        elif match := re.match(r"shfl\.sync\.(bfly|idx)\.b32$", name):
            run = self.shuffle(match[1], operands)
        elif match := re.match(r"redux\.sync\.(min|max|add|and|or|xor)\.([sub]32)$", name):
            reduce = {"min": np.minimum, "max": np.maximum, "add": np.add, "and": np.bitwise_and, "or": np.bitwise_or}
            target, source = self.target(operands[0]), self.source(operands[1], match[2])
            op = reduce.get(match[1], np.bitwise_xor)

            def run(g: Group) -> None:
                numbers = op.reduce(np.broadcast_to(source(g), g.count).reshape(-1, 32), axis=1)
                target(g, np.repeat(numbers, 32))

        else:
            return None
        made.together = True
        return None if made.guard else run

    def shuffle(self, how: str, operands: Sequence[str]) -> Callable[[Group], None] | None:
        if "|" in operands[0] or operands[3:] != ["31", "-1"]:
            return None
        target, source, other = self.target(operands[0]), self.source(operands[1], "b32"), self.source(operands[2], "u32")

        def run(g: Group) -> None:
            lane = np.arange(g.count)
            towards = np.broadcast_to(other(g), g.count).astype(np.int64)
            lane = lane ^ towards if how == "bfly" else lane // 32 * 32 + towards % 32
            target(g, np.broadcast_to(source(g), g.count)[lane])

        return run

    def matrices(self, shape: str, operands: Sequence[str]) -> Callable[[Group], None] | None:
        if shape not in MATRICES:
            return None
        kind = "b64" if shape.endswith("f64") else "b32"
        targets = self.targets(operands[0])
        given = [self.sources(text, kind) for text in operands[1:]]
        if [len(s) for s in given] != [*MATRICES[shape][1:3], 4]:
            return None

        def run(g: Group) -> None:
            a, b, c = ([np.broadcast_to(s(g), g.count).reshape(-1, 32) for s in part] for part in given)
            for target, value in zip(targets, multiply_add(shape, a, b, c), strict=True):
                target(g, value.ravel())

        return run

    def rows(
        self, made: Instruction, op: str, count: int, transposed: bool, operands: Sequence[str]
    ) -> Callable[[Group], None]:
        """ldmatrix, stmatrix: of each 8 lanes' addresses the rows of an 8 x 8 matrix, of which a lane gets two numbers."""
        reference, values = operands if op == "st" else reversed(operands)
        address, memory = self.address(reference, "u32"), self.shared.view(np.uint16)
        targets = self.targets(values) if op == "ld" else []
        sources = self.sources(values, "b32") if op == "st" else []

        def run(g: Group) -> None:
            first = (np.arange(g.count) % 32) < 8 * count
            who = g if first.all() else Group(g.threads[first], False)
            index = self.places(made, "shared", address(g)[first], 16, who)
            if op == "ld":
                self.check(made, "shared", "load", index, 16, who)
                numbers = memory[(index // 2).reshape(-1, count, 8, 1) + np.arange(8)]
                numbers = np.ascontiguousarray(numbers.swapaxes(2, 3) if transposed else numbers)
                pairs = numbers.view(np.uint32).reshape(-1, count, 32)
                for k, target in enumerate(targets):
                    target(g, pairs[:, k].ravel())
                return
            pairs = np.stack([np.broadcast_to(s(g), g.count).reshape(-1, 32) for s in sources], 1)
            numbers = np.ascontiguousarray(pairs).view(np.uint16).reshape(-1, count, 8, 8)
            numbers = numbers.swapaxes(2, 3) if transposed else numbers
            self.put(made, "shared", index, 16, numbers.reshape(-1, 8), who)

        return run

    # --- who goes on -----------------------------------------------------------------------------------

    def go(self) -> None:
        while (group := self.next()) is not None:
            self.advance(group)

    def next(self) -> Group | None:
        """The threads to go on: of a warp those at its lowest instruction; of all warps at one instruction some."""
        self.seen.choices += 1
        ready = self.ready
        if self.stalled.any():
            first, last = (self.pc.reshape(-1, 32).min(1), self.pc.reshape(-1, 32).max(1))
            self.stalled &= ~np.repeat((first == last) & ready.reshape(-1, 32).all(1), 32)
            ready = ready & ~self.stalled
        lowest = np.where(ready, self.pc, FAR).reshape(-1, 32).min(1)
        able = (lowest != FAR) & (self.parked != self.version)
        if not able.any():
            if self.ended.all():
                return None
            self.deadlock()
        self.parked[able] = -1
        at = np.unique(lowest[able])
        pc = at[0]
        if len(at) > 1:  # who does not wait goes first, mostly: else most of the time would be for waiting
            busy = np.array([not self.spins[able & (lowest == p)].all() for p in at])
            weights = np.where(busy, 1.0, 0.02 if self.seed else 1e-9)
            pc = at[0 if not self.seed and busy[0] else self.choose.choice(len(at), p=weights / weights.sum())]
        chosen = able & (lowest == pc)
        if self.seed and self.choose.random() < 0.5:
            fast = np.repeat(self.choose.random(len(self.speed)) < self.speed, self.per_program // 32)
            if self.choose.random() < 0.3:
                fast = self.choose.random(self.warps) < 0.5
            if (chosen & fast).any():
                chosen &= fast
        threads = np.flatnonzero(np.repeat(chosen, 32) & ready & (self.pc == pc))
        return Group(threads, len(threads) == 32 * int(chosen.sum()))

    def deadlock(self) -> None:
        where = {int(p) for p in self.pc[~np.repeat(self.ended, 32)]}
        lines = ", ".join(f"{k} `{self.code[k].text}`" for k in sorted(where))
        raise Fault(f"deadlock: nobody can go on; they wait at instruction {lines}")

    def advance(self, g: Group | None) -> None:
        """Run these until they part, wait, or others are to have their turn."""
        assert g is not None
        pc = int(self.pc[g.threads[0]])
        since = pc
        while True:
            made = self.code[pc]
            if not g.whole and made.together:
                self.pc[g.at] = pc
                self.stalled[g.at] = True
                self.seen.instructions[g.warps] += pc - since
                return
            if not made.kind:
                who = g if made.guard is None else g.only(np.broadcast_to(made.guard(g), g.count))
                if who is not None:
                    made.run(who)
                pc += 1
                continue
            self.seen.instructions[g.warps] += pc + 1 - since
            if made.kind == "branch":
                pc = self.branch(g, made, pc)
            elif made.kind == "barrier":
                pc = self.barrier(g, made, pc)
            elif made.kind == "end":
                self.ready[g.at] = False
                self.ended[g.warps] |= ~self.ready.reshape(-1, 32)[g.warps].any(1)
                self.release(np.unique(self.program[g.threads]))
                return
            else:
                if made.kind == "awaited" and (g := self.look(g, made, pc)) is None:
                    return
                who = g if made.guard is None else g.only(np.broadcast_to(made.guard(g), g.count))
                if who is not None:
                    made.run(who)
                pc += 1
                if self.seed and self.choose.random() < 0.2:
                    self.pc[g.at] = pc
                    return
            if pc < 0:
                return
            since = pc
            if not g.whole:  # the others of the warp may be at a lower instruction
                self.pc[g.at] = pc
                return

    def branch(self, g: Group, made: Instruction, pc: int) -> int:
        """Where all go on, or -1 if they part."""
        taken = np.broadcast_to(made.guard(g), g.count) if made.guard else np.ones(g.count, np.bool_)
        if pc in self.waits and taken.any():
            again = g.only(taken)
            length = pc + 1 - made.target
            self.seen.instructions[again.warps] -= length
            self.seen.barriers[again.warps] -= sum(i.kind == "barrier" for i in self.code[made.target : pc + 1])
        if 0 <= made.target <= pc and taken.any():
            self.jumps += 1
            if self.jumps > FOR_EVER:
                raise Fault(f"deadlock: loops for ever at instruction {pc}, `{made.text}`, and nobody stores")
            if self.seed and self.jumps % 16 == 0:
                self.pc[g.at] = np.where(taken, made.target, pc + 1)
                return -1
        if taken.all() or not taken.any():
            return made.target if taken.all() else pc + 1
        self.pc[g.at] = np.where(taken, made.target, pc + 1)
        return -1

    def barrier(self, g: Group, made: Instruction, pc: int) -> int:
        """Wait for the others of the program; go on if they are here."""
        self.seen.barriers[g.warps] += 1
        self.pc[g.at] = pc + 1
        self.ready[g.at] = False
        self.arrived[g.warps] = True
        programs = np.unique(self.program[g.threads[::32]])
        free = self.release(programs)
        if len(free) == len(programs) and len(g.warps) * 32 == len(programs) * self.per_program:
            return -1 if self.seed and self.choose.random() < 0.2 else pc + 1
        return -1

    def release(self, programs: Array) -> Array:
        """Let those programs go on of which all warps have arrived at a barrier."""
        arrived, ended = (a.reshape(len(self.epoch), -1)[programs] for a in (self.arrived, self.ended))
        free = programs[(arrived | ended).all(1) & arrived.any(1)]
        if len(free):
            warps = np.zeros((len(self.epoch), self.per_program // 32), np.bool_)
            warps[free] = True
            on = warps.ravel() & self.arrived
            self.ready |= np.repeat(on, 32)
            self.arrived[on] = False
            self.epoch[free] += 1
        return free

    def look(self, g: Group, made: Instruction, pc: int) -> Group | None:
        """Before an awaited load: warps that have loaded just this twice while memory did not change wait until it does.
        Once would not do: what the program loads elsewhere may be newer. Gives the others, if any.
        """
        self.spins[g.warps] = False
        who = g if made.guard is None else g.only(np.broadcast_to(made.guard(g), g.count))
        if who is None:
            return g
        if pc not in self.looked:
            self.looked[pc] = tuple(np.full(self.count, -1, np.int64) for _ in range(3))
        versions, addresses, times = self.looked[pc]
        address = made.address(who) if made.address else np.zeros(who.count, np.int64)
        same = addresses[who.at] == address
        still = same & (versions[who.at] == self.version)
        times[who.at] = np.where(still, times[who.at] + 1, 0)
        versions[who.at], addresses[who.at] = self.version, address
        new = np.bincount(who.threads[times[who.at] < 2] // 32, minlength=self.warps)
        waiting = np.zeros(self.warps, np.bool_)
        waiting[who.warps] = new[who.warps] == 0
        self.spins[who.threads[same] // 32] = True
        self.parked[waiting] = self.version
        self.pc[g.at] = pc
        return g.only(~waiting[g.threads // 32])


# --- text ------------------------------------------------------------------------------------------------


def entry_of(ptx: str) -> tuple[str, str]:
    """The parameters and the body of the one kernel."""
    _, _, rest = ptx.partition(".entry")
    head, _, rest = rest.partition(")")
    _, _, body = rest.partition("\n{")
    return head.partition("(")[2], re.split(r"^\$L__func_end|^\}", body, maxsplit=1, flags=re.M)[0]


def split(text: str) -> list[str]:
    """Operands, commas within brackets aside."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text)] if text else []


def number(text: str, dtype: Any, bits: Any) -> Array:
    """A constant: an integer, or the bits of a float."""
    if match := re.match(r"0([fd])([0-9A-Fa-f]+)$", text):
        return np.array([int(match[2], 16)], np.uint32 if match[1] == "f" else np.uint64).astype(bits).view(dtype)
    value = 0 if text == "global_smem" else int(text.rstrip("U"), 0)
    if dtype == np.bool_:
        return np.array([value != 0])
    return np.array([value & (1 << 8 * bits.itemsize) - 1], np.uint64).astype(bits).view(dtype)


def _size(name: str) -> int:
    """The bytes that a memory access of one thread is about."""
    if "matrix" in name:
        return 16
    parts = name.split(".")
    lanes = next((int(p[1]) for p in parts if p in ("v2", "v4")), 1)
    return lanes * np.dtype(TYPES[parts[-1]]).itemsize
