"""What a conversion says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
