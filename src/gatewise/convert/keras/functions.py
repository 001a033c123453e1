"""Functions and methods of a traced module -> layers of Keras; those that are modules, too, are in rows.py."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from gatewise.convert.keras import back, builder
from gatewise.convert.keras.rows import MERGES, MODULES, Made, as_module, of_keras
from gatewise.convert.keras.uses import is_last
from gatewise.errors import InputError

if TYPE_CHECKING:
    from gatewise.convert.keras.builder import Builder, Stack, Value

AS_IS = {"contiguous", "detach", "clone", torch.clone}
TRANSPOSE = {"transpose", torch.transpose, "swapaxes", torch.swapaxes}
PERMUTE = {"permute", torch.permute}
CAT = {torch.cat, torch.concat, torch.concatenate}
STACKS = {"unbind", torch.unbind}
SQUEEZE = {"squeeze", torch.squeeze}
FLATTEN = {"flatten", torch.flatten}


def call(build: Builder, node: fx.Node) -> Any:
    """The value of a call of a function or a method.

    Raises: InputError: Keras has no layer for it.
    """
    function = node.target
    if (made := back.function(build, node)) is not NotImplemented:
        return made
    args, kwargs = build.arguments(node)
    first, rest = (args[0], args[1:]) if args else (kwargs.pop("input", None), [])
    name = node.name
    if function is operator.getitem:
        return getitem(build, node, first, rest[0])
    if function is getattr and rest[0] in ("shape", "dtype", "device"):
        raise InputError(f"{name}: the module asks for {rest[0]} of a tensor; expected a computation that does not")
    if function in CAT:
        return _cat(build, name, first, int([*rest, kwargs.get("dim", 0)][0]))
    if isinstance(first, builder.Stack):
        return _of_stack(function, name, first, list(rest) or list(kwargs.values()))
    if not isinstance(first, builder.Value) or first.tensor is None:
        raise _unknown(node)
    if function in AS_IS:
        return first
    if function in TRANSPOSE:
        one, two = (int(a) % len(first.axes) for a in [*rest, *kwargs.values()])
        axes = list(first.axes)
        axes[one], axes[two] = axes[two], axes[one]
        return builder.Value(first.tensor, tuple(axes))
    if function in PERMUTE:
        order = rest[0] if rest and isinstance(rest[0], (list, tuple)) else rest or kwargs["dims"]
        return builder.Value(first.tensor, tuple(first.axes[int(k)] for k in order))
    if function in MERGES and not kwargs and len(rest) == 1:
        return _merge(build, node, first, rest[0])
    if function in FLATTEN and [*rest, *kwargs.values()] in ([1], [1, -1]):
        flat = build.layer(Made("Flatten"), name)(build.batch_first(first).tensor)
        if first.axes[0]:
            raise InputError(
                f"{name}: the first axis is no batch, expected batch-first values where they are flattened"
            )
        return builder.Value(flat, (0, 1))
    if function in ("mean", torch.mean) and [*rest, *kwargs.values()] in ([1], [0]):
        return _mean(build, node, first, int([*rest, *kwargs.values()][0]))
    if (row := of_keras(function)) is not None and not rest and not kwargs:
        return build.row(row, None, first, name)
    module = as_module(function, rest, kwargs)
    if module is None:
        raise _unknown(node)
    return build.row(MODULES[type(module)], module, first, name)


def getitem(build: Builder, node: fx.Node, value: Any, index: Any) -> Any:
    """x[index] of a tuple, of the states of all layers, or of a tensor."""
    if isinstance(value, (tuple, list)):
        return value[index]
    if isinstance(value, builder.Stack):
        taken = value.parts[index] if isinstance(index, (int, slice)) else None
        if taken is None:
            raise InputError(f"{node.name}: states by the index {index}, expected one layer's, or some layers'")
        return builder.Stack(taken) if isinstance(taken, tuple) else taken
    if not isinstance(value, builder.Value):
        raise _unknown(node)
    if value.final is not None and is_last(index, value.time):
        return value.final
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (len(value.axes) + 1 - len(index)), *index[at + 1 :])
    index = (*index, *[slice(None)] * (len(value.axes) - len(index)))
    if len(index) > len(value.axes) or not all(
        isinstance(i, int)
        or (isinstance(i, slice) and all(isinstance(e, (int, type(None))) for e in (i.start, i.stop, i.step)))
        for i in index
    ):
        raise InputError(f"{node.name}: the index {index}, expected integers and slices of them")
    there = [index[value.axes.index(place)] for place in range(len(value.axes))]
    if there[0] != slice(None):
        raise InputError(f"{node.name}: the index {index} takes some samples of the batch, expected all")
    if all(i == slice(None) for i in there):
        return value
    kept = [place for place, i in enumerate(there) if isinstance(i, slice)]
    axes = tuple(kept.index(place) for place in value.axes if place in kept)
    return builder.Value(value.tensor[tuple(there)], axes)


def _unknown(node: fx.Node) -> InputError:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return InputError(
        f"{node.name}: Keras has nothing here for {name} of {', '.join(map(str, node.args))}; expected activations, "
        "sums and products, cat, indices, transpose, flatten, or a module in its place"
    )


def _of_stack(function: Any, name: str, stack: Stack, rest: list[Any]) -> Any:
    if function in AS_IS:
        return stack
    if function in STACKS and rest in ([], [0]):
        return stack.parts
    if function in SQUEEZE and rest in ([], [0]) and len(stack.parts) == 1:
        return stack.parts[0]
    raise InputError(f"{name}: the states of all layers, which Keras has one by one; expected one of them, as h[-1], "
                     "or unbind(0)")  # fmt: skip


def _cat(build: Builder, name: str, values: Any, dim: int) -> Value:
    if not all(isinstance(v, builder.Value) and v.tensor is not None for v in values):
        raise InputError(f"{name}: cat of {values}, expected tensors; of states, one by one, as h[-1]")
    first = values[0]
    place = first.axes[dim]
    if place == 0:
        raise InputError(f"{name}: cat along the batch, which Keras has no layer for")
    tensors = [build.arranged(v, first.axes).tensor for v in values]
    return builder.Value(build.layer(Made("Concatenate", {"axis": place}), name)(tensors), first.axes)


def _merge(build: Builder, node: fx.Node, one: Value, two: Any) -> Value:
    kind = MERGES[node.target]
    if isinstance(two, (int, float)) and not isinstance(two, bool):
        options = {"Add": {"scale": 1.0, "offset": two}, "Subtract": {"scale": 1.0, "offset": -two},
                   "Multiply": {"scale": two}}.get(kind)  # fmt: skip
        if options is None:
            raise _unknown(node)
        return builder.Value(build.layer(Made("Rescaling", options), node.name)(one.tensor), one.axes)
    if not isinstance(two, builder.Value) or two.tensor is None or len(two.axes) != len(one.axes):
        raise _unknown(node)
    tensors = [one.tensor, build.arranged(two, one.axes).tensor]
    return builder.Value(build.layer(Made(kind), node.name)(tensors), one.axes)


def _mean(build: Builder, node: fx.Node, value: Value, dim: int) -> Value:
    """The mean over time of what has three axes: a pooling layer of Keras."""
    if len(value.axes) != 3 or value.axes[dim] == 0:
        raise _unknown(node)
    other = next(k for k in range(3) if k != dim and value.axes[k])
    pooled = build.layer(Made("GlobalAveragePooling1D"), node.name)(build.with_last(value, other).tensor)
    batch = value.axes.index(0)
    return builder.Value(pooled, (0, 1) if batch < other else (1, 0))
