"""What it means for a cell that a gate's weights and biases are negated."""

from __future__ import annotations

from gatewise.graph.graph import Graph
from gatewise.inspect.trials import Symbol


def is_sigmoid(cell: Graph, gate: str) -> bool:
    """Whether all that is made of a gate's sums is their σ, so that to negate the sums is to take 1 minus it."""
    sums = {i for i, node in enumerate(cell.nodes) if node.op in ("input", "project") and node.key == gate}
    readers = set()
    for i, node in enumerate(cell.nodes):
        if sums & set(node.args) and node.op == "add":
            sums.add(i)
        elif sums & set(node.args):
            readers.add(node.op)
    return readers == {"sigmoid"}


def flipped_vectors(cell: Graph) -> dict[Symbol, frozenset[Symbol]]:
    """The vectors that must be negated for a gate's sum to be: {vector: the gates of such sums}.

    A peephole is one: -(x.i + h.i + p c) has -p in it. So is the bias of a layer normalisation, but not its gain.
    """
    gates: dict[Symbol, set[Symbol]] = {}
    for gate in cell.gates:
        for vector in _flipped_by(cell, gate):
            gates.setdefault(Symbol("vector", vector), set()).add(Symbol("gate", gate))
    return {vector: frozenset(of) for vector, of in gates.items()}


def _flipped_by(cell: Graph, gate: str) -> set[str]:
    """Each node is odd in the gate's weights, even, or neither; what is added to an odd one is to be odd, too."""
    parity: list[int | None] = []
    linear = _linear(cell)
    flipped: set[str] = set()
    for node in cell.nodes:
        reads = [parity[a] for a in node.args]
        made: int | None = 0 if not any(read != 0 for read in reads) else None  # also of a leaf
        if node.op in ("input", "project") and node.key == gate:
            made = 1 if made == 0 else None
        elif node.op == "abs":
            made = None if None in reads else 0
        elif node.op in ("neg", "mean"):
            made = reads[0]
        elif node.op in ("mul", "div"):
            made = None if None in reads else sum(map(int, filter(None, reads))) % 2
        elif node.op in ("add", "sub") and 1 in reads and None not in reads:
            added = [linear[a] for a, read in zip(node.args, reads, strict=True) if read == 0]
            if all(added):
                made = 1
                flipped.update(*added)
        parity.append(made)
    return flipped


def _linear(cell: Graph) -> list[frozenset[str]]:
    """The vectors whose negation negates a node, of each node; none if there are no such."""
    linear: list[frozenset[str]] = []
    for node in cell.nodes:
        parts = [linear[a] for a in node.args]
        found: frozenset[str] = frozenset()
        if node.op == "vector":
            found = frozenset({node.key})
        elif node.op in ("neg", "mean"):
            found = parts[0]
        elif node.op in ("mul", "div") and not all(parts):
            found = parts[0] or parts[1]
        elif node.op in ("add", "sub") and all(parts):
            found = parts[0] | parts[1]
        linear.append(found)
    return linear
