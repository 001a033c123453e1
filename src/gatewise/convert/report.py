"""What a conversion says of itself, and what its proof came to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from torch import nn

from gatewise.convert.network import Spec


@dataclass(frozen=True)
class Mapped:
    """One layer or node of the source. source: its name and kind there. target: what it became, and where. how: gates,
    biases, activations: what had to be known for that."""

    source: str
    target: str
    how: str = ""


@dataclass(frozen=True)
class Conversion:
    """What came of reading or writing a file.

    module: the torch module, read or written. kind: the file's, such as "Keras". mapped: what became what.
    left: what did not come along, each with its reason. notes: what else should be known, a sentence each.
    """

    module: nn.Module
    kind: str
    mapped: Sequence[Mapped] = ()
    left: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        lines = _table([(m.source, f"-> {m.target}", m.how) for m in self.mapped])
        lines += [f"left: {left}" for left in self.left]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _table(rows: Sequence[tuple[str, ...]], widest: int = 60) -> list[str]:
    """Columns side by side; a cell wider than most does not widen its whole column."""
    widths = [max((len(c) for c in column if len(c) <= widest), default=0) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


@dataclass(frozen=True)
class Runtime:
    """A model that another library runs.

    name: the library and its version. inputs: what it reads. run: numpy arrays in, numpy arrays out, in the order of
    the torch module's inputs and (flattened) outputs. layer: the one of `Layers` that it runs; "" where it is a whole.
    """

    name: str
    inputs: Sequence[Spec]
    run: Callable[[Sequence[Any]], Sequence[Any]] = field(repr=False)
    layer: str = ""


class NoRuntime(Exception):  # noqa: N818  # a fact, and no fault of anybody's
    """No other library runs such a file; the text says why."""


class Layers(nn.ModuleDict):
    """The recurrent layers of a file, by their names there: what `load` gives of a file that does not tell the whole.

    left: what else is in the file, and why it is not here.
    """

    left: Sequence[str] = ()


@dataclass(frozen=True)
class Difference:
    """One output of another library and of gatewise, on one input.

    absolute: the largest difference. relative: as a share of the largest number there, or of 1. allowed: how much of
    that is rounding. wrong: why they do not agree, or "".
    """

    runtime: str
    input: str
    output: str
    absolute: float
    relative: float
    allowed: float
    wrong: str = ""


@dataclass(frozen=True)
class Proof:
    """What a comparison came to: "proved", "failed" or "not proved".

    failed: something was compared, and differs by more than rounding.
    not proved: nothing differs, but something that should have been compared was not, for a reason in `unproved`; or
    nothing was compared at all.
    proved: neither of these. Every output of every file agrees with what the file's own library gives. Of files of
    tensors, which no library runs, every number is the module's own, and so is what the recurrent layers give.

    differences: of each output on each input. read_back: files whose numbers are the module's own, a sentence each.
    unproved: what was not compared, and why. notes: what else is to be known, and changes nothing: files that no other
    library runs, and shapes that it refuses where it ran others.
    """

    differences: Sequence[Difference] = ()
    unproved: Sequence[str] = ()
    read_back: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __add__(self, other: Proof) -> Proof:
        return Proof(*([*getattr(self, f.name), *getattr(other, f.name)] for f in fields(self)))

    @property
    def state(self) -> Literal["proved", "failed", "not proved"]:
        """One of the three."""
        if any(d.wrong for d in self.differences):
            return "failed"
        return "not proved" if self.unproved or not (self.differences or self.read_back) else "proved"

    @property
    def ok(self) -> bool:
        """Whether it is proved."""
        return self.state == "proved"

    @property
    def reason(self) -> str:
        """Why it is not proved, or failed; "" of what is proved."""
        if self.state == "failed":
            return next(f"{d.runtime}, {d.input}, {d.output}: {d.wrong}" for d in self.differences if d.wrong)
        first = next(iter([*self.unproved, *self.notes]), "nothing was compared")
        return "" if self.ok else re.sub("^not (proved|compared): ", "", first)

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The libraries that took part, with their versions."""
        return tuple(dict.fromkeys(d.runtime for d in self.differences))

    def __str__(self) -> str:
        lines = []
        for name in self.runtimes:
            mine = [d for d in self.differences if d.runtime == name]
            if ran := [d for d in mine if not math.isnan(d.relative)]:
                most = max(ran, key=lambda d: d.relative)
                outputs, inputs = len({d.output for d in ran}), len({d.input for d in ran})
                lines.append(f"{'compared' if any(d.wrong for d in mine) else 'proved'}: {name} and gatewise on random "
                             f"input, {count(inputs, 'shape')}, {count(outputs, 'output')}: the largest difference is"
                             f" {most.absolute:.1e}, {most.relative:.1e} of the largest number")  # fmt: skip
            lines += [f"FAILED: {name}, {d.input}, {d.output}: {d.wrong}" for d in mine if d.wrong]
        if allowed := max((d.allowed for d in self.differences), default=0.0):
            lines.append(f"up to {allowed:.0e} of the largest number is rounding: sums in another order")
        lines += [f"proved: {sentence}" for sentence in self.read_back]
        return "\n".join([*lines, *self.unproved, *self.notes]) or "nothing was compared"


def count(number: int, what: str) -> str:
    """A number of things, such as "2 shapes"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
