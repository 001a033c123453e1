"""Watching the gates: what any named value of a cell is, at every step, while a model runs.

The executor that runs a layer gives the values out as it makes them; nothing is run a second time.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit._trace import is_tracing

from gatewise.graph.graph import Graph
from gatewise.layer import Layer

Steps = int | slice | Iterable[int]


@contextmanager
def record(
    model: nn.Module,
    names: str | Iterable[str] | None = None,
    steps: Steps | None = None,
    join: bool = False,
) -> Iterator[Recording]:
    """Record the values inside a model's layers while it runs.

        with gatewise.record(model, ["z", "h"]) as seen:
            model(x)
        seen["rnn.l0"]["z"]        # (T, B, H)

    A layer's key is its name in the model and `l0`, `l1`, … for its layers, with `_reverse` for the second direction;
    a layer that is recorded itself has the keys `l0`, …

    Args:
        model: a layer of gatewise's, or a module that has some.
        names: the values to record: names of local variables in the cell's equations (`r`, `z`, `n`), and of its
            states, which mean their new values; or `%7`, a node of `cell.text`. None means all that have a name.
        steps: the steps to keep, an index, a slice or several indices; None means all.
        join: whether calls follow each other in time, as those of `layer.step` do, and are joined along T. Else what
            is seen is each layer's last call.

    Yields:
        The recording, a mapping of mappings: of each layer, in the order in which they run, and of each name its
        values (T, B, H), or (T, B, P) of what is projected by `.hr`. Time comes first whatever the layer's
        `batch_first` is; row t belongs to x_t in the reverse direction, too; unbatched input has B = 1. Steps
        beyond `lengths` are NaN. In evaluation random masks are their expectations. With gradients a loss may use
        what was recorded.

    Each name takes T B H numbers a layer and direction while the recording is alive (with gradients, and before
    `steps` are taken, in any case as long as the call's own results are). What is not asked for is not made, and
    outside of the context a layer runs as ever. What recomputes a forward pass (non-reentrant checkpointing) must do so
    inside of it.

    Raises:
        ValueError: the model has no layer of gatewise's; no cell in it has a value of such a name; or with `join`,
            the batch changed between two calls. IndexError: a step is beyond a call's.
        RuntimeError: a layer runs in torch.compile, torch.func or an export, which see no values.
    """
    layers = layers_of(model, "record")
    wanted = None if names is None else (names,) if isinstance(names, str) else tuple(names)
    for name in wanted or ():
        if not any(_node(layer.cell, name) is not None for layer in layers.values()):
            known = {name for layer in layers.values() for name in layer.cell.named}
            raise ValueError(f"record: no cell has a value named {name!r}, expected some of: {' '.join(sorted(known))}")
    recording = Recording(wanted, steps, join)
    recorders = [(layer, Recorder(recording, name)) for name, layer in layers.items()]
    for layer, recorder in recorders:
        layer._recorders = (*layer._recorders, recorder)
    try:
        yield recording
    finally:
        for layer, recorder in recorders:
            layer._recorders = tuple(r for r in layer._recorders if r is not recorder)


class Recording(Mapping[str, Mapping[str, Tensor]]):
    """What `record` saw: of each layer and direction, of each name, (T, B, size)."""

    def __init__(self, names: tuple[str, ...] | None, steps: Steps | None, join: bool) -> None:
        self._names, self._join = names, join
        self._steps: slice | tuple[int, ...] | None
        if steps is None or isinstance(steps, slice):
            self._steps = steps
        else:
            self._steps = tuple(operator.index(t) for t in (steps if isinstance(steps, Iterable) else (steps,)))
        self._seen: dict[str, dict[str, Tensor]] = {}
        self.cells: dict[str, Graph] = {}
        """The cell of each key, as it ran."""

    def __getitem__(self, key: str) -> Mapping[str, Tensor]:
        if key not in self._seen:
            raise KeyError(f"{key!r} was not recorded; expected one of: {' '.join(self._seen) or 'nothing ran yet'}")
        return self._seen[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._seen)

    def __len__(self) -> int:
        return len(self._seen)

    def __repr__(self) -> str:
        lines = [
            f"{key}: {', '.join(f'{name} {tuple(v.shape)}' for name, v in seen.items())}"
            for key, seen in self._seen.items()
        ]
        return "\n".join(lines) or "nothing was recorded"

    def wanted(self, cell: Graph) -> dict[str, int]:
        """The names to record of a cell, and their nodes."""
        if self._names is None:
            return cell.named
        nodes = {name: _node(cell, name) for name in self._names}
        return {name: i for name, i in nodes.items() if i is not None}

    def add(self, key: str, cell: Graph, values: Mapping[str, Tensor]) -> None:
        """What one call of a layer made."""
        kept = {name: self._taken(value) for name, value in values.items()}
        before = self._seen.get(key)
        if self._join and before is not None:
            for name, value in kept.items():
                if value.shape[1:] != before[name].shape[1:]:
                    raise ValueError(
                        f"record: with join, {key} was called with a batch of {before[name].shape[1]} and now with"
                        f" {value.shape[1]}, expected the same; record the calls apart"
                    )
            kept = {name: torch.cat([before[name], value]) for name, value in kept.items()}
        self._seen[key], self.cells[key] = kept, cell.watching(())

    def _taken(self, value: Tensor) -> Tensor:
        """The steps that are wanted, as a tensor of their own."""
        if self._steps is None:
            return value
        if isinstance(self._steps, slice):
            return value[self._steps].clone()
        for t in self._steps:
            if not -len(value) <= t < len(value):
                raise IndexError(f"record: step {t} of a call with {len(value)} steps")
        return value[list(self._steps)]


class Recorder:
    """What hands a layer's values to a recording; a layer has one for each `record` that is open."""

    def __init__(self, recording: Recording, name: str) -> None:
        self.recording, self.name = recording, name
        self.steps = 0  # of the call that runs, T

    def watch(self, cell: Graph) -> Graph:
        """The cell with all watched that the recording wants and a layer's output is not."""
        if torch.compiler.is_compiling() or is_tracing() or torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                "record: the layer runs in torch.compile, torch.func or an export, where values can't be seen;"
                " call the model itself"
            )
        nodes = self.recording.wanted(cell).values()
        seen = [i for i in nodes if i != cell.outputs[0][1] and cell.nodes[i].op != "const"]
        return cell.watching([*cell.watched, *seen])

    def take(self, suffix: str, cell: Graph, output: Tensor, watched: Mapping[int, Tensor], active: Tensor) -> None:
        """One layer in one direction has run: its output, and the values of nodes, (T, B, size) in x's order.

        active: (T, B), which steps are those of a sequence; or (0, 0), all are. T is that of the longest sequence.
        """
        values = {}
        for name, i in self.recording.wanted(cell).items():
            value = watched.get(i)
            if i == cell.outputs[0][1]:  # which a later operation may change in place, where no gradient forbids it
                value = output if output.requires_grad else output.clone()
            if value is None:  # a number
                value = torch.full_like(output, dict(cell.nodes[i].params)["value"])
            if active.shape[0]:
                value = torch.where(active.unsqueeze(2), value, torch.full_like(value, torch.nan))
                value = F.pad(value, (0, 0, 0, 0, 0, self.steps - len(value)), value=torch.nan)
            values[name] = value
        if values:
            self.recording.add(key_of(self.name, suffix), cell, values)


def key_of(name: str, suffix: str) -> str:
    """The key of a layer in one direction, such as `rnn.l0`: its name in the model, what its parameters end with."""
    place = suffix.removeprefix("_") or "l0"
    return f"{name}.{place}" if name else place


def _node(cell: Graph, name: str) -> int | None:
    if name.startswith("%") and name[1:].isdecimal() and int(name[1:]) < len(cell.nodes):
        return int(name[1:])
    return cell.named.get(name)


def layers_of(model: nn.Module, what: str) -> dict[str, Layer]:
    """The layers of gatewise's in a model, by their names; an error of `what` if there are none."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{what}: model is a {type(model).__name__}, expected a layer of gatewise's or a module with one"
        )
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Layer)}
    if not layers:
        raise ValueError(f"{what}: {_no_layers(model)}")
    return layers


def _no_layers(model: nn.Module) -> str:
    theirs = [name for name, m in model.named_modules() if isinstance(m, (nn.RNNBase, nn.RNNCellBase))]
    fix = (
        f"torch.nn's layers ({', '.join(n or 'the model itself' for n in theirs)}) show nothing,"
        " gatewise.replace(model) swaps them"
        if theirs
        else "expected gatewise.GRU, LSTM, RNN, Recurrent or a module that has one"
    )
    return f"{type(model).__name__} has no layer of gatewise's; {fix}"
