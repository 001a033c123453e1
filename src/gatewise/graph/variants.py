"""The same cell with another function somewhere: Graph -> Graph. Other toolkits' options become cells by these two.

activations   another function in place of a gate's sigmoid or tanh
coupled       a gate that is one minus another, and so has no weights of its own
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gatewise.graph.change import Editor, Value
from gatewise.graph.graph import Graph, Node
from gatewise.graph.ops import ALIASES, OPS
from gatewise.graph.proxy import Proxy, apply
from gatewise.graph.rules import CellError

# What a textbook calls an activation: bounded or rectifying functions, which gates and candidates are made with.
ACTIVATIONS = ("sigmoid", "tanh", "relu", "softplus", "elu", "leaky_relu", "softsign", "hardsigmoid")


def activations(cell: Graph, **functions: Callable[[Any], Any] | str) -> Graph:
    """The cell with other activations: the named values are made with these functions in place of their own.

        g_t = tanh(a)   becomes   g_t = f(a)                    activations(lstm, g=f)
        h_t = o_t ⊙ tanh(c_t)   becomes   h_t = o_t ⊙ f(c_t)    activations(lstm, h=f)

    Args:
        cell: any cell.
        functions: by the name that a value has in the cell's equations (a state's name means its new value), what
            stands in place of the one activation in its equation: a function of one value, written as a cell's
            equations are, such as `lambda a: torch.clamp(0.2 * a + 0.5, 0, 1)`, or an op's name, such as "relu".

    Returns: The cell itself where no function is another one.

    Raises:
        ValueError: the cell has no such value, or its equation has no activation, or several.
        CellError: a function is none that a cell's equations may have. TypeError: cell is no cell.
    """
    labels = ",".join(f"{name}={_label(f)}" for name, f in functions.items())
    edit = Editor("activations", cell, *([labels] if labels else []))
    new: dict[int, tuple[str, Callable[[Any], Any] | str]] = {}
    for name, f in functions.items():
        other, _ = new.setdefault(activation_of(cell, name), (name, f))
        if other != name:
            raise ValueError(
                f"activations: {other} and {name} of {cell.name} are made with one activation; give it once"
            )

    def change(i: int, node: Node, args: Sequence[Value]) -> Value:
        if i not in new:
            return edit.same(node, args)
        name, function = new[i]
        if isinstance(function, str):
            op = ALIASES.get(function, function)
            if op not in OPS or OPS[op].arity != 1:
                known = " ".join(sorted(name for name, row in OPS.items() if row.arity == 1))
                raise CellError(f"activations: {name}={function!r} is no op of one value; expected one of: {known}")
            return apply(edit.builder, op, args)
        if not callable(function):
            raise TypeError(f"activations: {name} is {function!r}, expected a function of one value, or an op's name")
        value = function(args[0])
        if not isinstance(value, Proxy):
            raise CellError(f"activations: {name}'s function made {value!r} of a value, expected a value")
        return value

    edit.run(change)
    made = edit.finish()
    return cell if made.nodes == cell.nodes and made.outputs == cell.outputs else made


def coupled(cell: Graph, **gates: str) -> Graph:
    """The cell with gates that are one minus another: the forget gate of an LSTM that forgets as much as it takes in.

        f_t = σ(W_if x_t + …)   becomes   f_t = 1 - i_t         coupled(lstm, f="i")

    The weights of a gate that nothing reads any more are gone.

    Args:
        cell: any cell.
        gates: by the value that is replaced, the one that it is the complement of; both by their names in the
            cell's equations, in which the latter comes first.

    Raises: ValueError: the cell has no such values, in this order. TypeError: cell is no cell.

    Source: Greff et al. 2017, arXiv 1503.04069 (CIFG).
    """
    edit = Editor("coupled", cell, *(f"{name}={other}" for name, other in gates.items()))
    places: dict[int, int] = {}
    for name, other in gates.items():
        i, j = _place(cell, name, "coupled"), _place(cell, other, "coupled")
        if j >= i:
            raise ValueError(
                f"coupled: {name}={other!r}: {cell.name} computes {other} {'after' if j > i else 'as'} {name}"
            )
        places[i] = j

    def change(i: int, node: Node, args: Sequence[Value]) -> Value:
        return edit.op("sub", 1.0, edit.values[places[i]]) if i in places else edit.same(node, args)

    edit.run(change)
    return edit.finish()


def _label(function: Callable[[Any], Any] | str) -> str:
    """How a function is named in the cell's name, which has no spaces."""
    name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
    return "f" if name == "<lambda>" else "".join(name.split())


def _place(cell: Graph, name: str, change: str) -> int:
    """The node of a value of this name."""
    places = {**dict(cell.names), **dict(cell.outputs)}
    if name not in places:
        raise ValueError(f"{change}: {cell.name} has no value {name!r}, expected one of: {' '.join(places)}")
    return places[name]


def activation_of(cell: Graph, name: str) -> int:
    """The node of the one activation in a value's own equation."""
    place = _place(cell, name, "activations")
    others = {i for _, i in (*cell.names, *cell.outputs)} - {place}
    found, queue = set(), [place]
    while queue:
        i = queue.pop()
        if cell.nodes[i].op in ACTIVATIONS:
            found.add(i)
        queue += [a for a in cell.nodes[i].args if a not in others]
    if len(found) != 1:
        count = "no activation" if not found else f"{len(found)} activations"
        raise ValueError(f"activations: the equation of {name} in {cell.name} has {count}, expected one")
    return found.pop()
