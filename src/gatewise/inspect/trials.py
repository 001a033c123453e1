"""Cells run on random numbers, in many choices of these side by side: what tells two functions from each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.graph.graph import Graph
from gatewise.graph.ops import OPS
from gatewise.graph.rules import MASKS


class Symbol(NamedTuple):
    """What a cell gives a name and a run gives numbers: kind is "gate", "state", "vector" or "mask"."""

    kind: str
    name: str


# What is named by the key of a node; a mask's by that of any other.
KIND = {"input": "gate", "project": "gate", "state": "state", "vector": "vector"}


class Size(NamedTuple):
    """T, B, I and H of a run; with an output projection P is half of H."""

    steps: int
    batch: int
    inputs: int
    units: int


class Choice(NamedTuple):
    """The numbers of one symbol in each of K runs: which draw, (K,) integers, and its sign, (K,): 1, -1 or 0."""

    draw: Tensor
    sign: Tensor


class Draws(NamedTuple):
    """Random numbers of every kind, the n-th row of each for the symbol whose draw is n."""

    weight_ih: Tensor  # (N, H, I)
    bias_ih: Tensor  # (N, H)
    weight_hh: Tensor  # (N, H, H)
    bias_hh: Tensor  # (N, H)
    vector: Tensor  # (N, H)
    state: Tensor  # (N, B, H)
    uniform: Tensor  # (N, T, B, H), of masks


def symbols(cell: Graph) -> list[Symbol]:
    """All that has numbers in a cell: gates, states, vectors, masks, each in its order."""
    masks = [cell.nodes[i].key for i in cell.masks]
    kinds = {"gate": cell.gates, "state": cell.states, "vector": cell.vectors, "mask": masks}
    return [Symbol(kind, name) for kind, names in kinds.items() for name in names]


def run(cell: Graph, choices: Mapping[Symbol, Choice], size: Size, nodes: Iterable[int]) -> dict[int, Tensor]:
    """The values of some nodes, (T, K, B, H or P) in float64, in K runs that differ in their numbers.

    Args:
        choices: of each of the cell's symbols. nodes: which values are wanted.
    """
    runs = _Runs(cell, choices, size)
    kept: dict[int, list[Tensor]] = {i: [] for i in nodes}
    for t in range(size.steps):
        runs.step(t)
        for i, steps in kept.items():
            steps.append(runs.full(i))
    return {i: torch.stack(steps) for i, steps in kept.items()}


class _Runs:
    """K runs of one cell side by side, a step at a time."""

    def __init__(self, cell: Graph, choices: Mapping[Symbol, Choice], size: Size) -> None:
        self.cell, self.choices, self.batch = cell, choices, size.batch
        self.count = len(next(iter(choices.values())).draw)
        self.draws = _draws(1 + max(int(choice.draw.max()) for choice in choices.values()), size)
        self.x, self.weight_hr = _shared(size)
        projected = size.units // 2 if cell.projects_output else size.units
        self.width = {"H": size.units, "P": projected, "1": 1}
        sizes = zip(cell.states, cell.state_sizes, strict=True)
        self.states = {s: self._chosen(Symbol("state", s), "state")[..., : self.width[of]] for s, of in sizes}
        self.values: list[Tensor | float] = [0.0] * len(cell.nodes)
        self.sequences: dict[int, Tensor] = {}  # (K, T, B, H or P)
        self.functions: list[tuple[int, Callable[..., Tensor]]] = []
        for i, node in enumerate(cell.nodes):
            if node.op == "const":
                self.values[i] = node.params[0][1]
            elif node.op == "vector":
                self.values[i] = self._chosen(Symbol("vector", node.key), "vector").unsqueeze(1)
            elif node.op == "input":
                weight, bias = (self._chosen(Symbol("gate", node.key), part) for part in ("weight_ih", "bias_ih"))
                products = torch.einsum("tbi,khi->ktbh", self.x, weight)
                self.sequences[i] = products + bias[:, None, None]
            elif node.op in MASKS:
                self.sequences[i] = self._mask(i)
            elif node.op != "state":
                self.functions.append((i, self._function(i)))

    def step(self, t: int) -> None:
        """Compute every value of step t."""
        for i, node in enumerate(self.cell.nodes):
            if node.op == "state":
                self.values[i] = self.states[node.key]
            elif i in self.sequences:
                self.values[i] = self.sequences[i][:, t]
        for i, function in self.functions:
            self.values[i] = function(*(self.values[a] for a in self.cell.nodes[i].args))
        self.states = {state: self.full(i) for state, i in self.cell.outputs}

    def full(self, i: int) -> Tensor:
        """A node's value as (K, B, H or P)."""
        value = _tensor(self.values[i]).double()  # a comparison's, too
        return value.expand(self.count, self.batch, self.width[self.cell.sizes[i]])

    def _chosen(self, symbol: Symbol, part: str) -> Tensor:
        """One kind of numbers of a symbol in each run."""
        choice = self.choices[symbol]
        numbers: Tensor = getattr(self.draws, part)[choice.draw]
        return numbers * choice.sign.view(-1, *[1] * (numbers.dim() - 1))

    def _mask(self, i: int) -> Tensor:
        node, numbers = self.cell.nodes[i], dict(self.cell.nodes[i].params)
        uniform = self.draws.uniform[self.choices[Symbol("mask", node.key)].draw][..., : self.width[self.cell.sizes[i]]]
        mask = (uniform < numbers["keep"]).double() * numbers["scale"]
        return mask if node.op == "step_mask" else mask[:, :1].expand_as(mask)

    def _function(self, i: int) -> Callable[..., Tensor]:
        """What computes a node from those that it reads."""
        node = self.cell.nodes[i]
        if node.op == "output":
            return lambda _: self.full(node.args[0]) @ self.weight_hr.t()
        if node.op == "project":
            weight, bias = (self._chosen(Symbol("gate", node.key), part) for part in ("weight_hh", "bias_hh"))
            weight = weight[..., : self.width["P"]].transpose(1, 2)
            return lambda _: torch.baddbmm(bias.unsqueeze(1), self.full(node.args[0]), weight)
        row, numbers = OPS[node.op], dict(node.params)
        if row.scalars:
            return partial(row.run, **numbers)
        return lambda *args: row.run(*map(_tensor, args), **numbers)


def _tensor(value: Tensor | float) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")


@cache
def _draws(count: int, size: Size) -> Draws:
    """That many draws, of which the n-th does not depend on how many there are."""
    T, B, I, H = size
    shapes = {"weight_ih": (H, I), "bias_ih": (H,), "weight_hh": (H, H), "bias_hh": (H,), "vector": (H,)}
    rows = []
    for n in range(count):
        generator = torch.Generator("cpu").manual_seed(n)
        drawn = partial(torch.randn, generator=generator, dtype=torch.float64, device="cpu")
        row = {name: drawn(shape) * 0.5 for name, shape in shapes.items()}
        row |= {
            "state": drawn((B, H)),
            "uniform": torch.rand(T, B, H, generator=generator, dtype=torch.float64, device="cpu"),
        }
        rows.append(row)
    return Draws(*(torch.stack([row[name] for row in rows]) for name in Draws._fields))


@cache
def _shared(size: Size) -> tuple[Tensor, Tensor]:
    """x, (T, B, I), and the output projection, (P, H)."""
    generator = torch.Generator("cpu").manual_seed(2**20)
    drawn = partial(torch.randn, generator=generator, dtype=torch.float64, device="cpu")
    return drawn((size.steps, size.batch, size.inputs)), drawn((size.units // 2, size.units)) * 0.5
