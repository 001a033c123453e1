"""What the shapes of a layer are made of: rows of parameters and tensors, and relations, each from layer and graph."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gatewise.graph.graph import Graph
from gatewise.layer import Layer
from gatewise.scan.plan import backward_plan

_INFIX = {"add": "+", "sub": "-", "mul": "⊙", "div": "/"}


def value(formula: str, sizes: Mapping[str, int]) -> int:
    """The number that a formula such as "G·H·(I + H + 2)" is, for these sizes."""
    return int(eval(formula.replace("·", "*"), {"__builtins__": {}}, dict(sizes)))  # what was made here, no user's text


def numbers(formula: str, sizes: Mapping[str, int]) -> str:
    """A formula with its letters replaced by numbers: "3·256·(28 + 256 + 2)"."""
    return re.sub(r"[A-Z]\w*", lambda letter: str(sizes[letter[0]]), formula)


@dataclass(frozen=True)
class Row:
    """A tensor: its name, its shape in letters, ("G·H", "I"), and in numbers, (768, 28), what it is, its bytes."""

    name: str
    symbols: tuple[str, ...]
    shape: tuple[int, ...]
    what: str
    bytes: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Relation:
    """How two expressions of a layer's results relate, and why.

    left, right: Python, of `output`, the final states (`h_n` …), `lengths`, `arange` and the sizes' letters.
    equal: whether they are equal, or differ. lengths: whether it is about a call with `lengths`.
    """

    left: str
    right: str
    why: str
    equal: bool = True
    lengths: bool = False

    def __str__(self) -> str:
        return f"{self.left} {'==' if self.equal else '!='} {self.right}"


def row_of(name: str, symbols: tuple[str, ...], sizes: Mapping[str, int], dtype: torch.dtype, what: str = "") -> Row:
    shape = tuple(value(s, sizes) for s in symbols)
    return Row(name, symbols, shape, what, math.prod(shape) * dtype.itemsize)


def times(factor: str, size: str, sizes: Mapping[str, int]) -> str:
    """A product, such as "D·H"; of one direction "H"."""
    return size if factor == "D" and sizes[factor] == 1 else f"{factor}·{size}"


def in_directions(terms: list[str], sizes: Mapping[str, int]) -> str:
    """A sum, times D where there are two directions."""
    total = " + ".join(terms)
    if sizes["D"] == 1:
        return total
    return f"D·({total})" if len(terms) > 1 else f"D·{total}"


def gate_letters(cell: Graph) -> tuple[str, str]:
    """The letters of how many gates are read from x, and how many are projected from states."""
    same = len(cell.input_gates) == len(cell.hidden_gates) or not cell.hidden_gates
    return ("G", "G") if same else ("Gx", "Gh")


def parameter_rows(layer: Layer, k: int, sizes: Mapping[str, int]) -> tuple[Row, ...]:
    """The parameters of one layer and direction, the k-th, as the layer has them."""
    cell = layer.cell
    number, reverse = divmod(k, sizes["D"])
    suffix = layer._suffixes(number)[reverse]
    out = "P" if cell.projects_output else "H"
    reads = "I" if number == 0 else times("D", out, sizes)
    gx, gh = gate_letters(cell)
    alone = [gate for gate in cell.hidden_gates if gate not in cell.input_gates]  # of bias="input"
    two = bias_of(layer) is True
    biased = cell.hidden_gates if two else alone
    known: dict[str, tuple[tuple[str, ...], str]] = {
        "weight_ih": ((f"{gx}·H", reads), _stacked("W_i", cell.input_gates)),
        "weight_hh": ((f"{gh}·H", out), _stacked("W_h", cell.hidden_gates)),
        "bias_ih": ((f"{gx}·H",), _stacked("b_i", cell.input_gates)),
        "bias_hh": (
            (f"{gh}·H" if two else f"{len(biased)}·H" if len(biased) > 1 else "H",),
            _stacked("b_h", biased),
        ),
        "weight_hr": (("P", "H"), "the output projection"),
    }
    known |= dict.fromkeys(cell.vectors, (("H",), "learned vector"))
    if layer.learn_state:
        initial = zip(cell.states, cell.state_sizes, strict=True)
        known |= {f"{state}_0": ((size,), "learned state") for state, size in initial}
    rows = []
    for name, (symbols, what) in known.items():
        parameter = getattr(layer, name + suffix, None)
        if isinstance(parameter, torch.Tensor):
            bytes = parameter.numel() * parameter.dtype.itemsize
            rows.append(Row(name + suffix, symbols, tuple(parameter.shape), what, bytes))
    return tuple(rows)


def bias_of(layer: Any) -> bool | str:
    bias: bool | str = layer.bias
    return bias


def _stacked(letter: str, gates: Sequence[str]) -> str:
    names = [f"{letter}{gate}" for gate in gates]
    return " ".join(names) if len(names) <= 5 else f"{names[0]} … {names[-1]}"


def find_relations(final: str, out: str, sizes: Mapping[str, int], batch_first: bool) -> list[Relation]:
    """How the output relates to the final state of the first state, `final`."""

    def at(step: str, part: str = "") -> str:
        if batch_first:
            return f"output[:, {step}, {part}]" if part else f"output[:, {step}]"
        return f"output[{step}, :, {part}]" if part else f"output[{step}]"

    last_valid = "arange(B), lengths - 1" if batch_first else "lengths - 1, arange(B)"
    if sizes["D"] == 1:
        return [
            Relation(at("-1"), f"{final}[-1]", "the last layer's last step"),
            Relation(f"output[{last_valid}]", f"{final}[-1]", "each sample's own last step", lengths=True),
        ]
    forward, reverse = f":{out}", f"{out}:"
    found = [
        Relation(at("-1", forward), f"{final}[-2]", "forward ends at the last step"),
        Relation(at("0", reverse), f"{final}[-1]", "reverse ends at the first step"),
    ]
    if sizes["T"] > 1:
        why = "there reverse has read one step"
        found.append(Relation(at("-1", reverse), f"{final}[-1]", why, equal=False))
    found += [
        Relation(f"output[{last_valid}, {forward}]", f"{final}[-2]", "each sample's own last step", lengths=True),
        Relation(at("0", reverse), f"{final}[-1]", "reverse ends at the first step", lengths=True),
    ]
    return found


# --- the tensors on the way ----------------------------------------------------------------------


def tensor_rows(cell: Graph, sizes: Mapping[str, int], dtype: torch.dtype) -> list[Row]:
    """What is made of each step: what the gates read, masks, and the cell's named values."""
    labels = _labels(cell)
    nodes = list(enumerate(cell.nodes))
    by_gate = sorted((cell.gates.index(n.key), i) for i, n in nodes if n.op == "input")
    wanted = [(labels[i], i, "from x") for _, i in by_gate]
    wanted += [(labels[i], i, "recurrent") for i, n in nodes if n.op == "project"]
    wanted += [(cell.nodes[i].key, i, "random") for i in cell.masks]
    wanted += [(name, i, "") for name, i in cell.names if name not in cell.states]
    wanted += [(state, i, "new state") for state, i in cell.outputs]
    axes = _axes(cell)
    shaped = [(name, i, what) for name, i, what in wanted if cell.sizes[i] != "1"]  # a number has no shape
    return [row_of(name, (*axes[i], cell.sizes[i]), sizes, dtype, what) for name, i, what in shaped]


def _axes(cell: Graph) -> list[tuple[str, ...]]:
    """The axes of each node before its units: ("T", "B") of every step, ("B",) of a sequence, () of a unit."""
    leaves = {"input": ("T", "B"), "state": ("T", "B"), "step_mask": ("T", "B"), "sequence_mask": ("B",)}
    axes: list[tuple[str, ...]] = []
    for node in cell.nodes:
        axes.append(leaves.get(node.op) or max((axes[a] for a in node.args), key=len, default=()))
    return axes


def kept_rows(cell: Graph, sizes: Mapping[str, int], dtype: torch.dtype) -> list[Row]:
    """What a layer in one direction keeps of every step for its backward pass: states, and what the backward graph
    reads besides; and masks."""
    dtype = torch.float32 if dtype is torch.bfloat16 else dtype  # in which the C++ kernels have states and sums
    labels, axes = _labels(cell), _axes(cell)
    news = [i for _, i in cell.outputs]
    rows = [row_of(s, ("T", "B", cell.sizes[i]), sizes, dtype) for s, i in zip(cell.states, news, strict=True)]
    for i in backward_plan(cell).extras:
        size = "1" if i in cell.shared else "H" if cell.sizes[i] == "1" else cell.sizes[i]  # one number of all units
        rows.append(row_of(labels[i], ("T", "B", size), sizes, dtype))
    return rows + [row_of(cell.nodes[i].key, (*axes[i], cell.sizes[i]), sizes, dtype) for i in cell.masks]


def _labels(cell: Graph) -> list[str]:
    """A short name of each node: the cell's own, or what it is made of, or its number."""
    own = {i: name for name, i in cell.names}
    labels: list[str] = []
    for i, node in enumerate(cell.nodes):
        args = [labels[a] for a in node.args]
        inner = [f"({a})" if " " in a else a for a in args]
        if i in own:
            label = own[i]
        elif node.op == "const":
            label = f"{node.params[0][1]:g}"
        elif node.op == "input":
            label = f"x.{node.key}"
        elif node.op == "project":
            label = f"{inner[0]}.{node.key}"
        elif node.op in _INFIX:
            label = f" {_INFIX[node.op]} ".join(inner)
        else:
            label = f"{node.op}({', '.join(args)})" if args else node.key
        labels.append(label if len(label) <= 20 else f"%{i}")
    return labels
