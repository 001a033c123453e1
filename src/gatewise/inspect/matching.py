"""Which name of one cell is which of another: names, and signs of weights, that make the two one function.

A choice of names can't be tried one after the other: 8 gates and 4 states have 240,000 of them, and 256 signs each.
So the names get colours, the same in both cells, and only names of one colour can be each other (colour refinement,
as for isomorphic graphs, but of functions: other ways to write a cell make no difference). At first a gate's colour
is whether it is read from x and projected. Then both cells run with numbers that depend on colours alone; once for
each name, which has numbers of its own in that run. Names whose runs have different outputs get different colours, and
so on until no colour is split. Where names of one colour remain (two gates may play one role), one of them is told
apart and each of its colour in the other cell is tried as its counterpart.

Where weights may be negated, a gate has two colours, of itself and of its negation. While these are the same, its sign
is not known, and the runs are summed over both signs.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatewise.graph.graph import Graph
from gatewise.inspect.negation import flipped_vectors
from gatewise.inspect.trials import KIND, Choice, Size, Symbol, run, symbols

ROUNDING = 1e-9  # in float64, of values of about 1 after a few steps
ALIKE = 1e-7  # of runs in a search: what is taken for equal too often costs time, and the last word is ROUNDING's
WHOLE = Size(5, 3, 4, 8)  # the run that has the last word
SMALL = Size(3, 2, 3, 4)  # those of a search
SIGNS = 8  # the most gates over whose signs runs are summed, 2^8 of them; of more, those are zero
TRIES = 200  # rounds of a search before it gives up

Element = tuple[Symbol, int]  # a name and its sign
Colours = dict[Element, int]


class Match(NamedTuple):
    """names: b's name of each name of a. negated: the gates and vectors of a that are negated in b."""

    names: Mapping[Symbol, Symbol]
    negated: frozenset[Symbol]


class Gaps(NamedTuple):
    """The largest and the mean difference of two cells' outputs and last states."""

    largest: Any
    mean: Any


class UndecidedError(Exception):
    """The search has been given up."""


def by_order(a: Graph, b: Graph) -> Match:
    """Same names for each other; the others in their order, gates of one kind and states of one size."""
    left, right = symbols(a), symbols(b)
    kinds_a, kinds_b = _kinds(a), _kinds(b)
    names = {symbol: symbol for symbol in left if symbol in right and kinds_a[symbol] == kinds_b[symbol]}
    free = [symbol for symbol in right if symbol not in names]
    for symbol in left:
        like = [other for other in free if kinds_b[other] == kinds_a[symbol]]
        if symbol not in names and like:  # evaluation may have fewer names in one of two cells
            names[symbol] = like[0]
            free.remove(like[0])
    return Match(names, frozenset())


def nearest(a: Graph, b: Graph) -> Match:
    """The names under which two different functions are near each other, a gate or its negation: exchanges names, and
    negates gates, while that helps."""
    match = by_order(a, b)
    kinds = _kinds(a)
    pairs = [(s, t) for s, t in itertools.combinations(match.names, 2) if kinds[s] == kinds[t]]
    gates = [symbol for symbol in match.names if symbol.kind == "gate"]
    distance = gaps(a, b, match, SMALL).mean
    while True:
        candidates = [match._replace(negated=match.negated ^ {gate}) for gate in gates]
        for one, other in pairs:
            names = {**match.names, one: match.names[other], other: match.names[one]}
            candidates += [Match(names, negated) for negated in (match.negated, frozenset[Symbol]())]
        means = _gaps(a, b, candidates, SMALL).mean
        best = int(means.argmin()) if candidates else 0
        if not candidates or not means[best] < distance:
            return match._replace(negated=frozenset())
        match, distance = candidates[best], means[best].item()


def find(a: Graph, b: Graph, signs: bool, keep_names: bool) -> Match | None:
    """The names, and with `signs` the negated gates, that make two cells one function; None if there are none.

    Args:
        keep_names: gates, states and vectors mean those of the same name.

    Raises: UndecidedError: too many names look alike.
    """
    if Counter(_kinds(a).values()) != Counter(_kinds(b).values()):
        return None
    return _Search(a, b, signs).find(keep_names)


def gaps(a: Graph, b: Graph, match: Match, size: Size = WHOLE) -> Gaps:
    """How two cells' outputs and last states differ with the same numbers; infinitely if some are not finite."""
    return Gaps(*(numbers.item() for numbers in _gaps(a, b, [match], size)))


def _gaps(a: Graph, b: Graph, matches: Sequence[Match], size: Size) -> Gaps:
    """The same for several matches at once, each (K,)."""
    left, right = _values(a, b, matches, size, *([i for _, i in cell.outputs] for cell in (a, b)))
    distances = []
    for k, (state, i) in enumerate(a.outputs):
        of_b = [dict(b.outputs)[match.names[Symbol("state", state)].name] for match in matches]
        other = torch.stack([right[j][:, n] for n, j in enumerate(of_b)], 1)
        distance = (left[i] - other).abs().nan_to_num(nan=math.inf)
        seen = distance if k == 0 else distance[-1:]  # of the output every step
        distances.append(seen.movedim(1, 0).flatten(1))
    return Gaps(torch.cat(distances, 1).amax(1), torch.cat(distances, 1).mean(1))


def values(
    a: Graph, b: Graph, match: Match, size: Size, nodes_a: Sequence[int], nodes_b: Sequence[int]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Some nodes' values, (T, 1, B, H or P), with the same numbers in both cells, but for what is negated in a."""
    return _values(a, b, [match], size, nodes_a, nodes_b)


def _values(
    a: Graph, b: Graph, matches: Sequence[Match], size: Size, nodes_a: Sequence[int], nodes_b: Sequence[int]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """The same for several matches at once, (T, K, B, H or P)."""
    draws = {symbol: n for n, symbol in enumerate(dict.fromkeys([*symbols(a), *symbols(b)]))}
    plus = torch.ones(len(matches), dtype=torch.float64, device="cpu")
    of_a, of_b = {}, {}
    for symbol in symbols(a):
        signs = [-1.0 if symbol in match.negated else 1.0 for match in matches]
        draw = torch.full(plus.shape, draws[symbol], device="cpu")
        of_a[symbol] = Choice(draw, torch.tensor(signs, dtype=torch.float64, device="cpu"))
    back = [{other: symbol for symbol, other in match.names.items()} for match in matches]
    for other in symbols(b):
        draw = torch.tensor([draws[names.get(other, other)] for names in back], device="cpu")
        of_b[other] = Choice(draw, plus)
    return run(a, of_a, size, nodes_a), run(b, of_b, size, nodes_b)


def _kinds(cell: Graph) -> dict[Symbol, tuple[object, ...]]:
    """What is known of each name at once: those of different kinds can't be each other."""
    sizes = dict(zip(cell.states, cell.state_sizes, strict=True))
    masks = {cell.nodes[i].key: (cell.nodes[i].op, cell.nodes[i].params, cell.sizes[i]) for i in cell.masks}
    kinds: dict[Symbol, tuple[object, ...]] = {}
    for symbol in symbols(cell):
        kind, name = symbol
        if kind == "gate":
            kinds[symbol] = (kind, name in cell.input_gates, name in cell.hidden_gates)
        elif kind == "state":
            kinds[symbol] = (kind, name == cell.states[0], sizes[name])
        else:
            kinds[symbol] = (kind, masks.get(name))
    return kinds


class _Search:
    """The search for the names of two cells."""

    def __init__(self, a: Graph, b: Graph, signs: bool) -> None:
        self.a, self.b = _Side(a, signs), _Side(b, signs)
        self.tries = 0

    def find(self, keep_names: bool) -> Match | None:
        colour_of: dict[object, int] = {}
        first = []
        for side in (self.a, self.b):
            kinds = _kinds(side.cell)
            kept = {s: (kinds[s], s.name if keep_names and s.kind != "mask" else "") for s in kinds}
            first.append({(s, sign): colour_of.setdefault(kept[s], len(colour_of)) for s, sign in side.elements})
        return self._match(*first)

    def _match(self, a: Colours, b: Colours) -> Match | None:
        refined = self._refined(a, b)
        if refined is None:
            return None
        a, b = refined
        sizes = Counter(a.values())
        open_colours = [colour for colour in sizes if sizes[colour] > 1]
        if not open_colours:
            return self._checked(a, b)
        colour = min(open_colours, key=lambda c: (sizes[c], c))
        one = min((e for e in a if a[e] == colour), key=self.a.place)
        others = [e for e in b if b[e] == colour]
        for other in sorted(others, key=lambda e: (e[0].name != one[0].name, e[1] != one[1], self.b.place(e))):
            match = self._match(self.a.told_apart(a, one), self.b.told_apart(b, other))
            if match is not None:
                return match
        return None

    def _refined(self, a: Colours, b: Colours) -> tuple[Colours, Colours] | None:
        """The colours, split as far as runs tell names apart; None if the cells have different ones."""
        while True:
            self.tries += 1
            if self.tries > TRIES:
                raise UndecidedError
            sides = self.a.seen(a), self.b.seen(b)
            seen = [(side, element, row) for side in (0, 1) for element, row in sides[side].items()]
            colours: tuple[Colours, Colours] = ({}, {})
            examples: list[tuple[int, Tensor]] = []  # of each new colour: the old one, and what is seen
            for side, element, row in seen:
                old = (a, b)[side][element]
                like = (n for n, (colour, example) in enumerate(examples) if colour == old and _alike(row, example))
                n = next(like, len(examples))
                if n == len(examples):
                    examples.append((old, row))
                colours[side][element] = n
            if Counter(colours[0].values()) != Counter(colours[1].values()):
                return None
            if len(examples) == len(set(a.values())):
                return colours
            a, b = colours

    def _checked(self, a: Colours, b: Colours) -> Match | None:
        element_of = {colour: element for element, colour in b.items()}
        found = {e[0]: element_of[colour] for e, colour in a.items() if e[1] == 1}
        negated = {symbol for symbol, (_, sign) in found.items() if sign == -1}
        negated |= {vector for vector, gates in self.a.flipped.items() if gates <= negated}
        match = Match({symbol: other for symbol, (other, _) in found.items()}, frozenset(negated))
        return match if gaps(self.a.cell, self.b.cell, match).largest <= ROUNDING else None


class _Side:
    """One of the two cells of a search."""

    def __init__(self, cell: Graph, signs: bool) -> None:
        self.cell, self.signs = cell, signs
        self.symbols = symbols(cell)
        self.gates = [s for s in self.symbols if s.kind == "gate"]
        self.elements: list[Element] = [(s, 1) for s in self.symbols]
        self.elements += [(s, -1) for s in self.gates if signs]
        self.flipped = flipped_vectors(cell) if signs else {}
        self.places: dict[Symbol, int] = {}
        for node in cell.nodes:
            if node.key:
                self.places.setdefault(Symbol(KIND.get(node.op, "mask"), node.key), len(self.places))

    def place(self, element: Element) -> int:
        """Where the cell first reads it: of names that could be each other, the first are, and so on."""
        return self.places.get(element[0], len(self.places))

    def told_apart(self, colours: Colours, element: Element) -> Colours:
        """The colours, with new ones for an element and its negation."""
        new = max(colours.values()) + 1
        symbol, sign = element
        opposite = {(symbol, -sign): new + 1} if (symbol, -sign) in colours else {}
        return {**colours, element: new, **opposite}

    def seen(self, colours: Colours) -> dict[Element, Tensor]:
        """What the runs show of each element that has numbers of its own."""
        unknown = [s for s in self.gates if self.signs and colours[s, 1] == colours[s, -1]]
        summed = unknown if len(unknown) <= SIGNS else []
        patterns = list(itertools.product((1, -1), repeat=len(summed)))
        elements, count = self.elements, 1 + max(colours.values())
        choices: dict[Symbol, Choice] = {}
        for symbol in self.symbols:
            both = [colours[symbol, sign] for sign in (1, -1) if (symbol, sign) in colours]
            draw = torch.full((len(elements), len(patterns)), min(both), device="cpu")
            sign = torch.ones(draw.shape, dtype=torch.float64, device="cpu")
            if symbol in summed:
                sign[:] = torch.tensor([pattern[summed.index(symbol)] for pattern in patterns], device="cpu")
            elif symbol in unknown:
                sign[:] = 0.0
            elif len(both) == 2 and both[1] < both[0]:
                sign[:] = -1.0
            for k, element in enumerate(elements):
                if element[0] == symbol:
                    draw[k], sign[k] = count + colours[element], element[1]
            choices[symbol] = Choice(draw.flatten(), sign.flatten())
        for vector, gates in self.flipped.items():
            of_gates = torch.stack([choices[gate].sign for gate in gates])
            agreed = torch.where((of_gates == of_gates[0]).all(0), of_gates[0], 0.0)
            choices[vector] = Choice(choices[vector].draw, agreed)
        return self._shown(colours, choices, len(patterns))

    def _shown(self, colours: Colours, choices: Mapping[Symbol, Choice], patterns: int) -> dict[Element, Tensor]:
        outputs = dict(self.cell.outputs)
        made = run(self.cell, choices, SMALL, outputs.values())

        def flat(value: Tensor) -> Tensor:  # (T, K, B, H) -> (elements, patterns, numbers)
            finite = value.nan_to_num(nan=7e5, posinf=8e5, neginf=9e5)  # any numbers, if the same in both cells
            return finite.movedim(1, 0).reshape(len(self.elements), patterns, -1)

        states = {s: flat(made[outputs[s.name]]) for s in self.symbols if s.kind == "state"}
        by_colour: dict[int, list[Tensor]] = {}
        for state, value in states.items():
            by_colour.setdefault(colours[state, 1], []).append(value)
        parts = [states[self.symbols[len(self.gates)]]]  # the output, then what the states of each colour have together
        for colour in sorted(by_colour):
            parts += [torch.stack(by_colour[colour]).pow(power).sum(0) for power in (1, 2)]
        shown = {}
        for k, element in enumerate(self.elements):
            of_element = [part[k] for part in (*parts, *([states[element[0]]] if element[0] in states else []))]
            whole = torch.cat(of_element, 1)
            shown[element] = torch.cat([whole.mean(0), (whole**2).mean(0)])
        return shown


def _alike(one: Tensor, other: Tensor) -> bool:
    return bool(((one - other).abs() <= ALIKE * (1 + other.abs())).all())
