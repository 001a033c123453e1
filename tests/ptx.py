"""An emulator of the PTX that Triton makes: compiled kernels run on CPU tensors, and what a GPU would leave to chance
is an error.

All threads of a launch run side by side. Threads at the same instruction run it together, as numpy arrays; which go
next is drawn from a seed, so programs (CTAs) and warps run ahead of others as they may on a GPU, and wait at barriers,
or by loading again and again what another is to store. One seed, one order. Memory is one array with gaps between the
tensors; a store is seen by all at once, other than on a GPU. Lanes of a warp that take different branches run the
lowest instruction first, so they meet again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ptx_code import Code, Group, Instruction
from ptx_memory import Fault
from ptx_ops import Array
from torch import Tensor

FAR = np.iinfo(np.int32).max
FOR_EVER = 5_000  # jumps back, while memory does not change


@dataclass
class Seen:
    """What was seen of a launch.

    instructions, barriers: of each warp, how many it executed, but for those of the loops in which it waited.
    choices: how often it was to be decided who goes on.
    """

    instructions: Array
    barriers: Array
    choices: int = 0


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


class Machine(Code):
    """A kernel at work."""

    def __init__(
        self, ptx: str, grid: int, threads: int, arguments: Sequence[Tensor | int], shared: int, seed: int, races: bool
    ) -> None:
        super().__init__(ptx, grid, threads, arguments, shared, races)
        self.choose, self.seed = np.random.default_rng(seed), seed
        self.pc = np.zeros(self.count, np.int32)
        self.ready = np.ones(self.count, np.bool_)
        self.stalled = np.zeros(self.count, np.bool_)  # before what needs all lanes of a warp
        self.ended = np.zeros(self.warps, np.bool_)
        self.arrived = np.zeros(self.warps, np.bool_)
        self.parked = np.full(self.warps, -1, np.int64)  # the version of which a warp has seen all that it waits for
        # Of an awaited load: memory's version then, the address, and how often it was loaded again for nothing.
        self.looked: dict[int, tuple[Array, ...]] = {}
        self.spins = np.zeros(self.warps, np.bool_)
        self.speed = 10 ** -self.choose.random(grid)  # some programs run ahead
        self.seen = Seen(np.zeros(self.warps, np.int64), np.zeros(self.warps, np.int64))

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
        """Before an awaited load: warps that loaded just this twice while memory did not change wait until it does.

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
