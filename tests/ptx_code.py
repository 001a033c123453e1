"""From the text of PTX to what its instructions do with all threads' registers, for ptx.py's emulator."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ptx_memory import BASE, Fault, Memory, Shadow
from ptx_ops import MATRICES, TYPES, Array, arithmetic, bits_of, comparison, multiply_add
from torch import Tensor


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


class Code:
    """A kernel's instructions, and the registers and memories that they work on."""

    def __init__(
        self, ptx: str, grid: int, threads: int, arguments: Sequence[Tensor | int], shared: int, races: bool
    ) -> None:
        self.count, self.per_program, self.warps = grid * threads, threads, grid * threads // 32
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
                sizes = [size_of(i.name) for i in self.code if f".{space}" in i.name]
                self.shadows[space] = Shadow(size, min(sizes, default=4), space == "global")
        self.epoch = np.zeros(grid, np.int32)  # of each program, how many barriers its warps have passed
        self.version = 0  # of memory
        self.jumps = 0  # back, since it changed

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
        for made in self.code:
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
        sources = [self.source(t, k) for t, k in zip(operands[1:], kinds, strict=True)]
        target = self.target(operands[0])
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
        width, size = np.dtype(TYPES[kind]).itemsize, size_of(made.name)
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
        target, source = self.target(operands[0]), self.source(operands[1], "b32")
        other = self.source(operands[2], "u32")

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
        if [len(s) for s in given] != [*MATRICES[shape][1:3], 2 if shape.startswith("m8") else 4]:
            return None

        def run(g: Group) -> None:
            a, b, c = ([np.broadcast_to(s(g), g.count).reshape(-1, 32) for s in part] for part in given)
            for target, value in zip(targets, multiply_add(shape, a, b, c), strict=True):
                target(g, value.ravel())

        return run

    def rows(
        self, made: Instruction, op: str, count: int, transposed: bool, operands: Sequence[str]
    ) -> Callable[[Group], None]:
        """ldmatrix, stmatrix: each 8 lanes' addresses are the rows of an 8 x 8 matrix; a lane has two numbers."""
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


def size_of(name: str) -> int:
    """The bytes that a memory access of one thread is about."""
    if "matrix" in name:
        return 16
    parts = name.split(".")
    lanes = next((int(p[1]) for p in parts if p in ("v2", "v4")), 1)
    return lanes * np.dtype(TYPES[parts[-1]]).itemsize
