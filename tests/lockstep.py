"""Triton's interpreter with the programs of a grid side by side: kernels whose programs wait for one another run on a
CPU, and what a GPU would leave to chance is an error.

The interpreter alone runs one program after the other, so a program that waits for a later one waits for ever. Here
each program has a thread and exactly one runs: it hands over to another, drawn from a seeded generator, at every
volatile load that it repeats, every atomic, and some of its other volatile loads and stores. One seed, one order; other
seeds, other programs ahead.
"""

from __future__ import annotations

import contextvars
import inspect
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import triton.language as tl
from races import Fault, Races
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, TensorHandle, interpreter_builder

# Loads of what it has loaded already that every program makes, while none stores, before it counts as a deadlock. A
# plain load counts for less: a kernel may well read its weights again and again, but not for ever.
PATIENCE, PLAIN = 50.0, 0.01


@dataclass
class Launch:
    """What was seen of one launch: who ran, one entry for each time that another program went on, and by how many
    stores of blocks the furthest program was ever ahead of the last."""

    programs: int
    order: list[int] = field(default_factory=list)
    lead: int = 0


@dataclass
class Lockstep:
    """The choices of `lockstep`, and the launches made under it."""

    choose: random.Random
    stores: float
    races: bool
    double_stores: bool
    launches: list[Launch] = field(default_factory=list)


@contextmanager
def lockstep(
    seed: int = 0, *, stores: float = 0.5, races: bool = True, double_stores: bool = True
) -> Iterator[Lockstep]:
    """Run all kernels launched in this block with their programs side by side, in an order that `seed` decides.

    Args:
        stores: how often a store hands over: with this probability in its midst, with some elements stored and the
            others not yet, and again after it.
        races: refuse plain loads of what another program stores in the same launch, before or after: a GPU may give
            them either value. Atomics are not looked at.
        double_stores: refuse stores of two programs to the same place.

    Raises AssertionError for these two, for a deadlock, and if the block launched nothing; an error in a program comes
    out as from Triton's own interpreter.
    """
    if not isinstance(tl.max, interpreter.InterpretedFunction):
        raise RuntimeError("expected TRITON_INTERPRET=1 in the environment before the first import of triton; set it")
    settings = Lockstep(random.Random(seed), stores, races, double_stores)
    execute = GridExecutor.__call__

    def call(executor: Any, *args: Any, **kwargs: Any) -> None:
        function = executor.fn
        executor.fn = Programs(function, settings)
        try:
            execute(executor, *args, **kwargs)
        except Fault as fault:
            raise AssertionError(f"{function.__name__}: {fault}") from fault
        finally:
            executor.fn = function

    with mock.patch.object(GridExecutor, "__call__", call):
        yield settings
    assert settings.launches, "expected a kernel to be launched inside `with lockstep()`, got none"


class Stop(BaseException):
    """Ends the other programs once one has failed."""


class Programs:
    """Stands for the kernel in the interpreter's loop over the grid: collects the calls, and runs all at the last."""

    def __init__(self, function: Callable[..., None], settings: Lockstep) -> None:
        self.function, self.settings, self.choose = function, settings, settings.choose
        # GridExecutor looks at these.
        self.__name__, self.__globals__ = function.__name__, function.__globals__
        self.__signature__ = inspect.signature(function)
        self.places: list[tuple[int, int, int]] = []
        self.error: BaseException | None = None  # a Stop once the launch is over

    def __call__(self, **args: Any) -> None:
        self.places.append(interpreter_builder.grid_idx)
        x, y, z = interpreter_builder.grid_dim
        if len(self.places) == x * y * z:
            self.args = args
            self.run()

    def run(self) -> None:
        count = len(self.places)
        self.seen = Launch(count)
        self.settings.launches.append(self.seen)
        self.live = list(range(count))
        # Some programs get their turn ten times as often as others, so that they run ahead as far as they can.
        self.weights = [10 ** -self.choose.random() for _ in self.live]
        self.batons = [threading.Semaphore(0) for _ in self.live]
        self.stored = [0] * count
        self.loaded: list[set[int]] = [set() for _ in self.live]
        self.waited = [0.0] * count
        self.checks = Races(self.places, self.args, self.settings.races, self.settings.double_stores)
        # numpy's errstate is one of a context's variables; the programs are to have the caller's.
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(self.program, p), daemon=True)
            for p in self.live
        ]
        with ExitStack() as patches:
            self.load, self.store = interpreter_builder.create_masked_load, interpreter_builder.create_masked_store
            for name in ("create_masked_load", "create_masked_store", "create_atomic_cas", "create_atomic_rmw"):
                new = getattr(self, name, None) or self.atomic(getattr(interpreter_builder, name))
                patches.enter_context(mock.patch.object(interpreter_builder, name, new))
            try:
                for thread in threads:
                    thread.start()
                self.next(self.live)
                for thread in threads:
                    thread.join()
            finally:  # an interrupt too must leave no thread behind
                self.stop(self.error or Stop())
                for thread in threads:
                    thread.join()
        if self.error and not isinstance(self.error, Stop):
            raise self.error

    # --- the baton -----------------------------------------------------------------------------------

    def program(self, p: int) -> None:
        try:
            self.wait(p)
            self.function(**self.args)
            self.live.remove(p)
            if self.live:
                self.next(self.live)
        except Stop:
            pass
        except BaseException as error:
            self.stop(error)

    def wait(self, p: int) -> None:
        self.batons[p].acquire()
        if self.error:
            raise Stop
        self.current = p
        interpreter_builder.set_grid_idx(*self.places[p])

    def next(self, programs: list[int]) -> None:
        p = self.choose.choices(programs, [self.weights[q] for q in programs])[0]
        self.seen.order.append(p)
        self.batons[p].release()

    def turn(self, always: bool) -> None:
        """Let another program run until this one is drawn again; or, if not always, draw this one at once, maybe."""
        p = self.current
        if others := [q for q in self.live if q != p or not always]:
            self.next(others)
            self.wait(p)

    def stop(self, error: BaseException) -> None:
        self.error = error
        for baton in self.batons:
            baton.release()

    def maybe(self, probability: float) -> bool:
        return self.choose.random() < probability

    # --- what the programs call ----------------------------------------------------------------------

    def create_masked_load(
        self, ptrs: Any, mask: Any, other: Any, cache_modifier: Any, eviction_policy: Any, is_volatile: bool
    ) -> Any:
        again = self.reads(ptrs, 1.0 if is_volatile else PLAIN)
        if not is_volatile:
            self.checks.load(self.current, ptrs, mask)
            if again and self.maybe(0.1):  # a loop of plain loads that waits would keep the others from running
                self.turn(always=True)
            return self.load(ptrs, mask, other, cache_modifier, eviction_policy, is_volatile)
        # A program that waits lets another one store; else it may run on, or what it read be old when it looks at it.
        before = self.maybe(0.5)
        if before:
            self.turn(always=again)
        value = self.load(ptrs, mask, other, cache_modifier, eviction_policy, is_volatile)
        if not before:
            self.turn(always=again)
        return value

    def create_masked_store(self, ptrs: Any, value: Any, mask: Any, cache_modifier: Any, eviction_policy: Any) -> None:
        p = self.current
        self.checks.store(p, ptrs, mask)
        self.stored[p] += 1
        self.seen.lead = max(self.seen.lead, max(self.stored) - min(self.stored))
        whole = np.broadcast_to(np.asarray(mask.data, dtype=bool), ptrs.data.shape)
        if self.maybe(self.settings.stores):  # a GPU does not store a block in one go either
            drawn = np.frombuffer(self.choose.randbytes(whole.size), np.uint8).reshape(whole.shape) < 128
            self.store(ptrs, value, TensorHandle(whole & drawn, tl.int1), cache_modifier, eviction_policy)
            self.moved()
            self.turn(always=True)
            whole = whole & ~drawn
        self.store(ptrs, value, TensorHandle(whole, tl.int1), cache_modifier, eviction_policy)
        self.moved()
        if self.maybe(self.settings.stores):
            self.turn(always=False)

    def atomic(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Hands over before it; one that changes nothing waits as a load does."""
        names = list(inspect.signature(original).parameters)

        def call(*args: Any, **kwargs: Any) -> Any:
            given = dict(zip(names, args, strict=False)) | kwargs
            ptr = given["ptr"]
            mask = given.get("mask", TensorHandle(np.ones_like(ptr.data, bool), tl.int1))
            memory = (ptr, mask, None, None, None, True)
            self.turn(always=True)
            old, value, new = self.load(*memory), original(**given), self.load(*memory)
            if new.data.tobytes() == old.data.tobytes():
                self.reads(ptr, 1.0)
            else:
                self.moved()
            return value

        return call

    # --- deadlocks -----------------------------------------------------------------------------------

    def moved(self) -> None:
        """Memory has changed, so a program that waits may find what it waits for."""
        self.waited = [0.0] * len(self.places)
        for loaded in self.loaded:
            loaded.clear()

    def reads(self, ptrs: Any, counts: float) -> bool:
        """Whether the program has loaded just this already since memory last changed; so it waits, if they all do."""
        p, what = self.current, hash(ptrs.data.tobytes())
        if what not in self.loaded[p]:
            self.loaded[p].add(what)
            self.waited[p] = 0.0
            return False
        self.waited[p] += counts
        if all(self.waited[q] >= PATIENCE for q in self.live):
            names = ", ".join(map(self.checks.name, self.live))
            raise Fault(f"deadlock: these load again and again what none of them stores: {names}")
        return True
