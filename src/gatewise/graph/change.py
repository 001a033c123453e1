"""Changing a cell: Graph -> Graph. What is shown of a changed cell is what runs.

    recurrent_dropout   one mask a sequence, on what is projected from the states
    zoneout             states that keep their old value now and then
    layer_norm          normalised gates and cell state
    clip_state_grad     a bound on the gradient that flows back from step to step

Each takes a cell and returns another, so they are nested: `zoneout(layer_norm(lstm), 0.1)`. The random
masks are leaves of the graph; a layer draws them with torch's generator before its steps run, so
`torch.manual_seed` fixes them, and every executor is given the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch

from gatewise.graph.graph import Graph, Node, closure, summed, walk
from gatewise.graph.ops import OPS
from gatewise.graph.proxy import Builder, Proxy, apply
from gatewise.graph.rules import MASKS, check_cell, fresh_names

Value = Proxy | float | bool
Edit = Callable[[int, Node, Sequence[Value]], Value]


def recurrent_dropout(cell: Graph, p: float) -> Graph:
    """Dropout on what is projected from a state, with one mask for all steps of a sequence.

        W_hr h_{t-1} + b_hr   becomes   W_hr (m ⊙ h_{t-1}) + b_hr,    m = 0 with probability p, else 1 / (1 - p)

    for every gate r; m is drawn for each sequence, unit, layer and direction, once a call of the layer, and
    is the same for all gates. Where h_{t-1} is used without a projection (z ⊙ h) it is left whole. A projected
    expression, W (r ⊙ h), gets the mask of the first state: W (m ⊙ r ⊙ h). In evaluation the cell is as before.

    Args:
        cell: any cell that projects a state.
        p: the probability, in [0, 1).

    Raises: ValueError: p is out of range, or the cell projects nothing. TypeError: cell is no cell.

    Source: Gal and Ghahramani 2016, arXiv 1512.05287 (tied masks).
    """
    p = probability("recurrent_dropout", "p", p)
    edit = Editor("recurrent_dropout", cell, p)
    if p >= 1:
        raise ValueError("recurrent_dropout: p is 1, expected less: nothing of the past would be left to scale up")
    if not cell.hidden_gates:
        raise ValueError(f"recurrent_dropout: {cell.name} projects no state, so there is nothing to drop")
    if p == 0:
        return cell
    first = cell.states[0]
    masks: dict[str, Value] = {}

    def change(i: int, node: Node, args: Sequence[Value]) -> Value:
        if node.op != "project":
            return edit.same(node, args)
        source = cell.nodes[node.args[0]]
        state = source.key if source.op == "state" else first
        if state not in masks:
            masks[state] = edit.mask("sequence_mask", f"keep_{state}", keep=1 - p, scale=1 / (1 - p))
        return edit.same(node, [edit.op("mul", masks[state], args[0])])

    edit.run(change)
    return edit.finish()


def zoneout(cell: Graph, p: float | Mapping[str, float]) -> Graph:
    """States that keep their old value at random.

        s_t   becomes   m_t ⊙ s_{t-1} + (1 - m_t) ⊙ s_t,    m_t = 1 with probability p, else 0

    for each state s; m_t is drawn for each step, sequence, unit, layer and direction. Within the step the
    equations see the s_t that was not zoned out, as in the paper: an LSTM's h_t = o_t ⊙ tanh(c_t) before
    either is mixed. In evaluation m_t is its expectation: p s_{t-1} + (1 - p) s_t.

    Args:
        cell: any cell.
        p: a probability in [0, 1] for all states, or one for each state that is meant: {"h": 0.05, "c": 0.5}.

    Raises: ValueError: a probability is out of range, or the cell has no such state. TypeError: cell is no cell.

    Source: Krueger et al. 2017, arXiv 1606.01305.
    """
    if isinstance(p, Mapping):
        rates = {state: probability("zoneout", f"p of {state}", rate) for state, rate in p.items()}
        edit = Editor("zoneout", cell, *(f"{state}={rate}" for state, rate in rates.items()))
    else:
        rate = probability("zoneout", "p", p)
        edit = Editor("zoneout", cell, rate)
        rates = dict.fromkeys(cell.states, rate)
    for state in set(rates) - set(cell.states):
        raise ValueError(f"zoneout: {cell.name} has no state {state!r}, expected one of: {' '.join(cell.states)}")
    edit.run(edit.keep)
    old = {node.key: edit.values[i] for i, node in walk(cell, "state")}
    for state, rate in rates.items():
        if rate:
            m = edit.mask("step_mask", f"zone_{state}", keep=rate, scale=1.0)
            before = old[state] if state in old else edit.builder.add("state", key=state)
            zoned = edit.op("add", edit.op("mul", m, before), edit.op("mul", edit.op("sub", 1.0, m), edit.new[state]))
            edit.new[state] = zoned
    return edit.finish() if any(rates.values()) else cell


def layer_norm(cell: Graph, eps: float = 1e-5) -> Graph:
    """Layer normalisation of the gates' two halves, and of the states that the output is made of.

        x.g   becomes   gain_x_g ⊙ N(x.g) + bias_x_g            N(a) = (a - mean(a)) / √(var(a) + eps)
        h.g   becomes   gain_h_g ⊙ N(h.g) + bias_h_g
        c_t   becomes   gain_c ⊙ N(c_t) + bias_c                where the first state's equation reads it

    Mean and variance (divided by the number of values) are taken over what is normalised together. Gates whose
    two halves are simply added, x.g + h.g, and that project the same value, are normalised together: i, f, g and o
    of an LSTM over 4H numbers, r and z of a GRU over 2H; any other gate on its own: a GRU's n, over H. These are
    the groups of the paper's LSTM and GRU. The halves x and h are normalised apart. A state after the first, such
    as an LSTM's c, is normalised over H for the first one's equation (peepholes of the new c among it), not for
    the next step.

    In float16 the squares of values above 255 are infinite; bfloat16 has no such bound.

    The gains (which start from 1) and the biases (from 0) are learned vectors of the new cell. The layer's own
    biases are inside N, beside the products; `bias=False` gives the paper's equations.

    Args:
        cell: any cell. eps: what is added to a variance.

    Raises: ValueError: eps is not positive; or the cell is zoned out, so that its states mean mixed values, which no
        equation of the step reads: normalise first. TypeError: cell is no cell.

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450, and its appendix.
    """
    edit = Editor("layer_norm", cell)
    if not _is_number(eps) or not 0 < eps < float("inf"):
        raise ValueError(f"layer_norm: eps is {eps!r}, expected a positive number")
    group = _groups(cell)
    made: dict[tuple[str, int, str], Value] = {}  # (side, operand, gate) -> its normalised half
    if any(cell.nodes[i].op == "step_mask" for i in cell.masks):
        raise ValueError(f"layer_norm: {cell.name} is zoned out already; normalise first: zoneout(layer_norm(cell), p)")
    later: dict[int, list[str]] = {}
    for state, i in cell.outputs[1:]:
        if i != cell.outputs[0][1] and cell.nodes[i].op != "state":
            later.setdefault(i, []).append(state)
    for_first = set(closure(cell.nodes, [cell.outputs[0][1]]))
    raw: dict[str, Value] = {}

    def half(side: str, operand: int, gates: Sequence[str], values: Sequence[Value]) -> None:
        for gate, value in zip(gates, _normalised(edit, values, eps), strict=True):
            gain, bias = edit.vector(f"gain_{side}_{gate}", 1.0), edit.vector(f"bias_{side}_{gate}", 0.0)
            made[side, operand, gate] = edit.op("add", edit.op("mul", gain, value), bias)

    def change(i: int, node: Node, args: Sequence[Value]) -> Value:
        if node.op in ("input", "project"):
            side, operand = ("x", -1) if node.op == "input" else ("h", node.args[0])
            if (side, operand, node.key) not in made:
                readers = {n.key for _, n in walk(cell, node.op) if n.args == node.args}
                gates = [g for g in cell.gates if group[g] == group[node.key] and g in readers]
                half(side, operand, gates, [edit.same(Node(node.op, node.args, g), args) for g in gates])
            return made[side, operand, node.key]  # a state that is a gate itself is normalised as a gate
        value = edit.same(node, args)
        if i in later and i in for_first:
            raw.update(dict.fromkeys(later[i], value))
            (normal,) = _normalised(edit, [value], eps)
            gain, bias = edit.vector(f"gain_{later[i][0]}", 1.0), edit.vector(f"bias_{later[i][0]}", 0.0)
            value = edit.op("add", edit.op("mul", gain, normal), bias)
        return value

    edit.run(change)
    edit.new.update(raw)
    edit.names.update(raw)
    return edit.finish()


def clip_state_grad(cell: Graph, c: float) -> Graph:
    """The same values, and a clamped gradient: what flows back through a state is kept within [-c, c].

        ∂L/∂s_{t-1}   becomes   clamp(∂L/∂s_{t-1}, -c, c)    at each step t, for each state s and unit

    What reaches an output directly is not clamped, nor are the gradients of the weights. In forward-mode
    derivatives (`jvp`) nothing is clamped: there nothing flows back.

    Args:
        cell: any cell. c: the bound, positive.

    Raises: ValueError: c is not positive. TypeError: cell is no cell.

    Source: Graves 2013, arXiv 1308.0850, who clips the derivatives of each step's LSTM inputs.
    """
    if not _is_number(c) or not 0 < c < float("inf"):
        raise ValueError(f"clip_state_grad: c is {c!r}, expected a positive number")
    edit = Editor("clip_state_grad", cell, float(c))

    def change(i: int, node: Node, args: Sequence[Value]) -> Value:
        value = edit.same(node, args)
        return apply(edit.builder, "clip_grad", [value], {"limit": float(c)}) if node.op == "state" else value

    edit.run(change)
    return edit.finish()


def expected(cell: Graph) -> Graph:
    """The cell with each random mask replaced by its expectation, keep * scale."""
    edit = Editor("", cell)

    def change(i: int, node: Node, args: Sequence[Value]) -> Value:
        if node.op in MASKS:
            mean = dict(node.params)["keep"] * dict(node.params)["scale"]
            return 1.0 if abs(mean - 1.0) < 1e-12 else mean  # a dropout's, but for rounding
        return edit.same(node, args)

    edit.run(change)
    return edit.finish()


def probability(function: str, argument: str, p: Any) -> float:
    """p as a Python float; raises ValueError unless it is a probability."""
    if not _is_number(p) or not 0 <= p <= 1:
        raise ValueError(f"{function}: {argument} is {p!r}, expected a probability in [0, 1]")
    return float(p)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)  # numpy's are numbers, too


class Editor:
    """A cell that is written again, node by node, into a new graph.

    values: of each old node. new: of each state. names: of the named values.
    """

    def __init__(self, change: str, cell: Graph, *numbers: object) -> None:
        if not isinstance(cell, Graph):
            raise TypeError(f"{change}: cell is {cell!r}, expected what @gatewise.cell(gates=…) makes of a function")
        self.cell, self.builder = cell, Builder()
        self.name = f"{change}({','.join(map(str, (cell.name, *numbers)))})" if change else cell.name
        self.vectors = list(cell.vectors)
        self.taken = {*cell.vectors, *(cell.nodes[i].key for i in cell.masks)}
        self.values: list[Value] = []
        self.new: dict[str, Value] = {}
        self.names: dict[str, Value] = {}

    def run(self, change: Edit) -> None:
        """Write each node as `change` says: (its index, the node, its arguments' new values) -> its new value."""
        for i, node in enumerate(self.cell.nodes):
            self.values.append(change(i, node, [self.values[a] for a in node.args]))
        self.new = {state: self.values[i] for state, i in self.cell.outputs}
        self.names = {name: self.values[i] for name, i in self.cell.names}

    def keep(self, i: int, node: Node, args: Sequence[Value]) -> Value:
        """The change that changes nothing."""
        return self.same(node, args)

    def same(self, node: Node, args: Sequence[Value]) -> Value:
        """The same node, of the arguments' new values; what is made of numbers alone is a number."""
        if node.op == "const":
            return dict(node.params)["value"]
        if node.op not in OPS:
            given = [a for a in args if not isinstance(a, bool)]
            return self.builder.add(node.op, given, node.key, dict(node.params))
        return self.op(node.op, *args, **dict(node.params))

    def op(self, name: str, *args: Value, **params: float) -> Value:
        """An op of these values."""
        if name == "where" and isinstance(args[0], bool):
            return args[1] if args[0] else args[2]
        if not any(isinstance(a, Proxy) for a in args):
            numbers = [torch.tensor(a, dtype=torch.float64) for a in args]
            value: bool | float = OPS[name].run(*numbers, **params).item()
            return value
        if name == "mul" and 1.0 in [a for a in args if isinstance(a, float)]:
            return args[1] if isinstance(args[0], float) else args[0]  # the mask of a dropout, expected
        return apply(self.builder, name, args, params)

    def _fresh(self, name: str) -> str:
        """A name that no mask or vector of the cell has: nesting a change twice makes `zone_h_2`."""
        free = next(n for n in fresh_names(name) if n not in self.taken)
        self.taken.add(free)
        return free

    def mask(self, op: str, name: str, *, keep: float, scale: float) -> Value:
        """A new random mask."""
        return self.builder.add(op, key=self._fresh(name), params={"keep": keep, "scale": scale})

    def vector(self, name: str, initial: float) -> Value:
        """A new learned vector."""
        self.vectors.append(self._fresh(name))
        return self.builder.add("vector", key=self.vectors[-1], params={"initial": initial})

    def finish(self) -> Graph:
        """The new cell; the names of values stay, a state's name means its new value."""
        cell, builder = self.cell, self.builder
        outputs = [(state, self._node(value)) for state, value in self.new.items()]
        named = {**self.names, **self.new}
        names = [(name, value._index) for name, value in named.items() if isinstance(value, Proxy)]
        nodes, labels = builder.prune([*outputs, *names])
        n = len(outputs)
        read = {node.key for node in nodes if node.op in ("input", "project")}
        gates = tuple(gate for gate in cell.gates if gate in read)
        had = {node.key for node in nodes if node.op == "vector"}
        vectors = tuple(vector for vector in self.vectors if vector in had)
        graph = Graph(self.name, gates, cell.states, vectors, nodes, labels[:n], labels[n:])
        check_cell(graph)
        return graph

    def _node(self, value: Value) -> int:
        return (value if isinstance(value, Proxy) else self.builder.constant(value))._index


def _normalised(edit: Editor, values: Sequence[Value], eps: float) -> list[Value]:
    """The values, normalised together over all their units."""

    def mean(parts: Sequence[Value]) -> Value:
        total = parts[0]
        for part in parts[1:]:  # of all gates first, unit by unit: one sum over the units is dearer than these
            total = edit.op("add", total, part)
        return edit.op("mul", edit.op("mean", total), 1 / len(parts))

    average = mean(values)
    centred = [edit.op("sub", value, average) for value in values]
    variance = mean([edit.op("mul", c, c) for c in centred])
    scale = edit.op("div", 1.0, edit.op("sqrt", edit.op("add", variance, eps)))
    return [edit.op("mul", c, scale) for c in centred]


def _groups(cell: Graph) -> dict[str, object]:
    """For each gate what is the same for gates that are normalised together."""
    groups: dict[str, object] = {}
    for gate in cell.gates:
        whole = summed(cell, gate)
        parts = [cell.nodes[i] for i in cell.nodes[whole].args] if whole is not None else []
        groups[gate] = next((part.args for part in parts if part.op == "project"), gate)
    return groups
