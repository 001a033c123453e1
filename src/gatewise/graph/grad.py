"""Differentiating a cell: its Graph -> its backward Graph.

One step of backpropagation through time, as a graph of its own: what reaches the new states goes in,
what leaves through the old states, the gates and the learned vectors comes out. It is reverse-mode
differentiation, one derivative row of `ops.py` an op, traced with the same proxies as a cell.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache

from gatewise.graph.graph import Graph, closure
from gatewise.graph.ops import OPS
from gatewise.graph.proxy import Builder, Proxy
from gatewise.graph.rules import LEAVES, MASKS, is_comparison, shared_nodes


@lru_cache(maxsize=256)
def backward(graph: Graph) -> Graph:
    """The backward graph of a cell.

    Its leaves are, besides vectors and constants:

    - `grad h`: the gradient of the new h that comes from the step after (or, at the last step, from h_n);
    - `grad %7`: the gradient of what is given out at this step: the layer's output, if node 7 is the first
      state's new value, or what is watched;
    - `state h`, `input r`, `saved %7`, masks: values of the forward step.

    Its outputs:

    - `state h`: the gradient of h_{t-1}, which is the next step's `grad h`;
    - `input r`, `vector p`: the gradients of x.r, and of p at this step;
    - `project %7`, `output %7`: the gradient of what the projection in node 7 made;
    - `operand %6`: the value (not a gradient) of node 6, which some projection read: its product with the
      former, summed over steps, is the gradient of the weights.
    """
    # Twice: what the first has shown to be there anyhow, the second makes values of, rather than save these as well.
    there = Differentiation(graph).run().there()
    trace = Differentiation(graph, there).run()
    nodes, outputs = trace.builder.prune([(label, p._index) for label, p in sorted(trace.outputs.items())])
    return Graph(f"{graph.name}_backward", graph.gates, graph.states, graph.vectors, nodes, outputs)


class Differentiation:
    """The state of one pass over a cell's nodes, last to first."""

    def __init__(self, graph: Graph, there: frozenset[int] = frozenset()) -> None:
        self.graph, self.builder, self.known = graph, Builder(), there
        self.gradients: dict[int, Proxy] = {}
        self.uneven: dict[int, Proxy] = {}  # parts of a gradient that are not averaged over the units yet
        self.projections: dict[int, list[tuple[str, Proxy]]] = defaultdict(list)
        self.outputs: dict[str, Proxy] = {}
        self.values: dict[int, Proxy | float] = {}

    def run(self) -> Differentiation:
        graph = self.graph
        for state, i in graph.outputs:
            self.give(i, self.builder.add("grad", key=state))
        for seed in (graph.outputs[0][1], *graph.watched):
            self.give(seed, self.builder.add("grad", key=f"%{seed}"))
        for i in reversed(closure(graph.nodes, [*(i for _, i in graph.outputs), *graph.watched])):
            self.step(i)
        for op, keys in (("state", graph.states), ("input", graph.input_gates), ("vector", graph.vectors)):
            for key in keys:  # what nothing reads still has a gradient: zero
                self.outputs.setdefault(f"{op} {key}", self.builder.constant(0.0))
        return self

    def there(self) -> frozenset[int]:
        """The cell's nodes whose values the outputs are made of."""
        used = set(closure(self.builder.nodes, [p._index for p in self.outputs.values()]))
        return frozenset(i for i, value in self.values.items() if isinstance(value, Proxy) and value._index in used)

    def give(self, i: int, gradient: Proxy) -> None:
        """Add to the gradient of node i."""
        uneven = i in self.graph.shared and gradient._index not in self._shared()
        sums = self.uneven if uneven else self.gradients
        sums[i] = sums[i] + gradient if i in sums else gradient

    def step(self, i: int) -> None:
        """Hand node i's gradient, complete by now, to what it was made from."""
        node = self.graph.nodes[i]
        # All projections of this value are later nodes: their products with the weights become one.
        if i in self.projections:
            order = self.graph.gates.index
            gates, gradients = zip(*sorted(self.projections[i], key=lambda pair: order(pair[0])), strict=True)
            self.give(i, self.builder.add("unproject", gradients, " ".join(gates)))
            self.outputs[f"operand %{i}"] = self.operand(i)
        # The gradient of a value which units share is averaged over them, once: what follows is the same for all.
        if i in self.uneven:
            self.give(i, self._averaged(self.uneven.pop(i)))
        if i not in self.gradients or node.op == "const" or node.op in MASKS:
            return
        g = self.gradients[i]
        if node.op in ("input", "state", "vector"):
            self.outputs[f"{node.op} {node.key}"] = g
        elif node.op == "project":
            self.outputs[f"project %{i}"] = g
            self.projections[node.args[0]].append((node.key, g))
        elif node.op == "mean":  # whose derivative is the average
            self.give(node.args[0], self._averaged(g))
        elif node.op == "mul" and node.args[0] == node.args[1]:  # a square: one product rather than two
            self.give(node.args[0], 2.0 * g * self.value(node.args[0]))
        elif node.op == "output":
            self.outputs[f"output %{i}"] = g
            self.give(node.args[0], self.builder.add("unoutput", (g,)))
            self.outputs[f"operand %{node.args[0]}"] = self.operand(node.args[0])
        else:
            row = OPS[node.op]
            values = [*(self.value(a) for a in node.args), self.value(i)]
            for a, derivative in zip(node.args, row.derivative, strict=True):
                if derivative is not None and self.graph.nodes[a].op != "const":
                    self.give(a, derivative(g, *values, **dict(node.params)))

    def value(self, i: int) -> Proxy | float:
        """The value of the cell's node i in the backward step: recomputed where that is cheap, else saved."""
        pending = [i]
        while pending:  # a loop: a long chain of cheap nodes would exceed Python's depth of recursion
            node = pending[-1]
            if missing := [a for a in self._remade_from(node) if a not in self.values]:
                pending += missing
            else:
                self.values[node] = self._value(node)
                pending.pop()
        return self.values[i]

    def _remade_from(self, i: int) -> tuple[int, ...]:
        """What node i is recomputed from; nothing, if it is a leaf or is saved."""
        node = self.graph.nodes[i]
        # 1 - z, r * h and the like: made by arithmetic from leaves, which are there anyhow, and at most one
        # other value, so saving both would waste memory. A comparison is made again too: what is saved are numbers.
        # Of values that are there anyhow there may be more, and of what all units share any op is cheap.
        made_from = {a for a in node.args if self.graph.nodes[a].op not in LEAVES}
        cheap = node.op in ("add", "sub", "mul", "neg") or (i in self.graph.shared and node.op != "mean")
        remade = cheap and (len(made_from) <= 1 or made_from <= self.known)
        return node.args if remade or is_comparison(node) else ()

    def _value(self, i: int) -> Proxy | float:
        node = self.graph.nodes[i]
        if node.op == "const":
            return node.params[0][1]
        if node.op in LEAVES:
            return self.builder.add(node.op, key=node.key, params=dict(node.params))
        if args := self._remade_from(i):
            return self.builder.add(node.op, [self.values[a] for a in args], params=dict(node.params))
        return self.builder.add("saved", key=f"%{i}")

    def _averaged(self, g: Proxy) -> Proxy:
        """The mean of g over the units; factors that all units share stay outside of it."""
        nodes = self.builder.nodes
        node = nodes[g._index]
        shared = self._shared()
        if g._index in shared:
            return g
        factors = [nodes[a].op == "const" or a in shared for a in node.args]
        given = [Proxy(self.builder, a) for a in node.args]
        for k in range(len(given)):
            if (
                node.op == "neg"
                or (node.op == "mul" and factors[1 - k])
                or (node.op == "div" and k == 0 and factors[1])
            ):
                given[k] = self._averaged(given[k])
                return self.builder.add(node.op, given)
        return self.builder.add("mean", (g,))

    def _shared(self) -> frozenset[int]:
        """The backward graph's nodes, so far, whose value all units share."""
        return shared_nodes(self.builder.nodes, self.graph.shared)

    def operand(self, i: int) -> Proxy:
        """The value of a node that is projected, which is never a plain number."""
        value = self.value(i)
        assert isinstance(value, Proxy)
        return value
