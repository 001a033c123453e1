"""Biases, of which some toolkits have one for each gate and some two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gatewise.convert.layout import Layout
from gatewise.convert.numbers import Numbers
from gatewise.errors import InputError
from gatewise.graph.graph import Graph, summed

Blocks = dict[str, Tensor]  # by gate

NAMES = ("bias beside the input", "bias beside the states")


def one_bias_is_enough(cell: Graph) -> tuple[str, ...]:
    """The gates whose two biases are only ever added, so that their sum does as well; and those that have but one."""
    two = set(cell.input_gates) & set(cell.hidden_gates)
    return tuple(gate for gate in cell.gates if gate not in two or summed(cell, gate) is not None)


def check_one_bias(cell: Graph, beside_h: Blocks) -> None:
    """InputError if one bias for each gate, beside the input, cannot say what these and others beside the input do."""
    enough = one_bias_is_enough(cell)
    if wrong := [g for g, row in beside_h.items() if g not in enough and row.any()]:
        raise InputError(
            f"gate {' '.join(wrong)} of {cell.name} has two biases that cannot be added into one: the one beside the "
            "state's product is not simply added to the one beside the input's; take a format of two biases, or set "
            "this gate's bias_hh to zero, which changes what is computed"
        )


def read_biases(
    bias: Any, sides: Sequence[Sequence[str]], order: Sequence[str], size: int, layout: Layout, numbers: Numbers
) -> tuple[Blocks, Blocks]:
    """The biases beside the input, and those beside the states, by gate, of what `from_arrays` takes as `bias`."""
    if bias is None:
        return {}, {}
    if _is_pair(bias):
        one, two = (_by_gate(bias[k], sides[k], size, layout, NAMES[k], numbers) for k in (0, 1))
        return one, two
    if not isinstance(bias, Mapping):
        bias = numbers(bias, "bias")
        if (halves := _halves(bias, sides, order, size, layout)) is not None:
            one, two = (_by_gate(halves[k], sides[k], size, layout, NAMES[k], numbers) for k in (0, 1))
            return one, two
    found = _by_gate(bias, order, size, layout, "bias", numbers)
    return {g: v for g, v in found.items() if g in sides[0]}, {g: v for g, v in found.items() if g not in sides[0]}


def _is_pair(bias: Any) -> bool:
    """Whether it is two arrays, mappings or None, and not one array that happens to be a list of two."""
    if not isinstance(bias, (list, tuple)) or len(bias) != 2:
        return False
    if any(part is None or isinstance(part, Mapping) for part in bias):
        return True
    if isinstance(bias, tuple):
        return not any(isinstance(part, (int, float)) for part in bias)
    return all(getattr(part, "ndim", 0) for part in bias)


def _halves(
    bias: Tensor, sides: Sequence[Sequence[str]], order: Sequence[str], size: int, layout: Layout
) -> Sequence[Tensor] | None:
    """One array of two biases for each gate as two; None, if it has one for each; told by its shape alone."""
    x, h = (len(side) for side in sides)
    one: set[tuple[int, ...]] = {(len(order) * size,), layout.bias_shape(len(order), size)}
    two: set[tuple[int, ...]] = {((x + h) * size,)}
    if x == h:
        two |= {(2, x * size), (2, *layout.bias_shape(x, size))}
    if tuple(bias.shape) in one:
        return None
    if tuple(bias.shape) in two:
        return torch.split(bias.reshape(-1), [x * size, h * size])
    wanted = " or ".join(map(str, sorted(one, key=len)))
    pair = f"(2, {x * size})" if x == h else f"a pair of ({x * size},) and ({h * size},)"
    raise InputError(f"bias has shape {tuple(bias.shape)}, expected {wanted} for one each of {len(order)} gates of "
                     f"{size} units, or {pair} for two")  # fmt: skip


def _by_gate(part: Any, gates: Sequence[str], size: int, layout: Layout, what: str, numbers: Numbers) -> Blocks:
    """One bias for each gate, of an array of them all or of a mapping."""
    if part is None:
        return {}
    if isinstance(part, Mapping):
        if unknown := [g for g in part if g not in gates]:
            raise InputError(f"{what}: gates {' '.join(map(str, unknown))}, expected of: {' '.join(gates)}")
        made = {g: numbers(v, f"{what}, of gate {g}") for g, v in part.items()}
        for gate, row in made.items():
            if row.shape != (size,):
                raise InputError(f"{what}, of gate {gate}, has shape {tuple(row.shape)}, expected ({size},)")
        return made
    row = part if isinstance(part, Tensor) else numbers(part, what)
    shapes: set[tuple[int, ...]] = {(len(gates) * size,), layout.bias_shape(len(gates), size)}
    if tuple(row.shape) not in shapes:
        wanted = " or ".join(map(str, sorted(shapes, key=len)))
        raise InputError(f"{what} has shape {tuple(row.shape)}, expected {wanted}: {len(gates)} gates of {size} units")
    return dict(zip(gates, layout.split_bias(row.reshape(-1), len(gates)), strict=True))
