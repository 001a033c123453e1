"""Proxies: what stands for tensors while equations are traced, and the nodes that arithmetic on them makes.

A cell's equations (`trace.py`) and derivative rows (`grad.py`) are traced by the same proxies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gatewise.graph import pasted
from gatewise.graph.graph import Node, closure
from gatewise.graph.ops import ALIASES, OPS
from gatewise.graph.rules import CellError, is_comparison

Label = tuple[str, int]
Params = Mapping[str, float]


class Builder:
    """Nodes as they are written down, each distinct one once."""

    written_for = pasted.Cell("x", ("h",), ())  # the names that its errors show

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._places: dict[str, int] = {}  # by text, in which -0.0 is not 0.0

    def add(self, op: str, args: Sequence[Proxy | float] = (), key: str = "", params: Params | None = None) -> Proxy:
        """The proxy of this node, which is added unless the same one is there already."""
        indices = tuple(a._index if isinstance(a, Proxy) else self.constant(a)._index for a in args)
        node = Node(op, indices, key, tuple(sorted((name, float(value)) for name, value in (params or {}).items())))
        if str(node) not in self._places:
            self._places[str(node)] = len(self.nodes)
            self.nodes.append(node)
        return Proxy(self, self._places[str(node)])

    def constant(self, value: float) -> Proxy:
        return self.add("const", params={"value": float(value)})

    def fault(self, message: str) -> NoReturn:
        raise CellError(message)

    def code(self) -> str:
        """The line of code that is running, where it is known."""
        return ""

    def attribute(self, proxy: Proxy, name: str) -> Proxy:
        """What `proxy.name` means; only a cell's own equations know."""
        raise AttributeError(name)

    def prune(self, labels: Sequence[Label]) -> tuple[tuple[Node, ...], tuple[Label, ...]]:
        """The nodes that the labelled ones need, renumbered, and the labels with their new numbers."""
        kept = closure(self.nodes, [i for _, i in labels])
        new = {old: i for i, old in enumerate(kept)}
        nodes = tuple(Node(n.op, tuple(new[a] for a in n.args), n.key, n.params) for n in (self.nodes[i] for i in kept))
        return nodes, tuple((label, new[i]) for label, i in labels)


class Proxy:
    """A value of the step, while its cell is traced: arithmetic and torch functions on it become nodes."""

    __slots__ = ("_builder", "_index")  # underscored: gates are not, so that any other name can be a gate
    _builder: Builder
    _index: int

    def __init__(self, builder: Builder, index: int) -> None:
        object.__setattr__(self, "_builder", builder)
        object.__setattr__(self, "_index", index)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        values = [*args, *(kwargs or {}).values()]
        values += [b for a in values if isinstance(a, (tuple, list)) for b in a]  # as torch.cat([a, b]) has them
        builder = next(a._builder for a in values if isinstance(a, Proxy))
        return apply(builder, ALIASES.get(name, name), args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols that numpy, copy and others ask for; Proxy has none of them
            raise AttributeError(name)
        return self._builder.attribute(self, name)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        self._builder.fault(f".{name} is read, and is not given a value; give the result a name: a = …")

    # fmt: off
    def __add__(self, other: Any) -> Any: return apply(self._builder, "add", (self, other))
    def __radd__(self, other: Any) -> Any: return apply(self._builder, "add", (other, self))
    def __sub__(self, other: Any) -> Any: return apply(self._builder, "sub", (self, other))
    def __rsub__(self, other: Any) -> Any: return apply(self._builder, "sub", (other, self))
    def __mul__(self, other: Any) -> Any: return apply(self._builder, "mul", (self, other))
    def __rmul__(self, other: Any) -> Any: return apply(self._builder, "mul", (other, self))
    def __truediv__(self, other: Any) -> Any: return apply(self._builder, "div", (self, other))
    def __rtruediv__(self, other: Any) -> Any: return apply(self._builder, "div", (other, self))
    def __pow__(self, other: Any) -> Any: return apply(self._builder, "pow", (self, other))
    def __rpow__(self, other: Any) -> Any: return apply(self._builder, "pow", (other, self))
    def __neg__(self) -> Any: return apply(self._builder, "neg", (self,))
    def __pos__(self) -> Any: return self
    def __abs__(self) -> Any: return apply(self._builder, "abs", (self,))
    def __lt__(self, other: Any) -> Any: return apply(self._builder, "lt", (self, other))
    def __le__(self, other: Any) -> Any: return apply(self._builder, "le", (self, other))
    def __gt__(self, other: Any) -> Any: return apply(self._builder, "gt", (self, other))
    def __ge__(self, other: Any) -> Any: return apply(self._builder, "ge", (self, other))
    # fmt: on

    def __eq__(self, other: object) -> NoReturn:
        self._builder.fault("== and != on a value: rounding makes them useless; write torch.where with <, <=, > or >=")

    __ne__ = __eq__
    __hash__ = object.__hash__

    def __bool__(self) -> NoReturn:
        self._builder.fault(
            "Python's if, while, and, or, not, min and max need one truth, but a value has one for each unit; "
            "write torch.where(condition, a, b), torch.minimum or torch.maximum"
        )

    def _number(self) -> NoReturn:
        self._builder.fault("a value of the step is no Python number; write torch's function, such as torch.exp(a)")

    __float__ = __int__ = __index__ = __complex__ = _number

    def _array(self, *_: object) -> NoReturn:
        instead = pasted.of_line(self._builder.code(), self._builder.written_for)
        self._builder.fault(
            "a cell is written for one unit and one step: it has no indexing, no loop over units or steps, "
            "no unpacking and no len()" + (f"; {instead}" if instead else "")
        )

    __getitem__ = __setitem__ = __iter__ = __len__ = __contains__ = _array

    def __call__(self, *_: object, **__: object) -> NoReturn:
        x, h, gate = (self._builder.written_for.x, self._builder.written_for.h, self._builder.written_for.gate)
        self._builder.fault(
            f"a value is no function: {x}.{gate} and {h}.{gate} are the products themselves, (a).{gate} that of any a"
        )

    def __array_ufunc__(self, function: Any, method: str, *args: object, **_: object) -> NoReturn:
        _other_toolkit(self._builder, "numpy", function.__name__, args)

    def __array_function__(self, function: Any, types: object, args: Sequence[Any], kwargs: object) -> NoReturn:
        _other_toolkit(self._builder, "numpy", function.__name__, args)

    def __array__(self, *_: object, **__: object) -> NoReturn:
        self._builder.fault("a value of the step is no numpy array: a cell is written in torch's functions")

    def __matmul__(self, other: object) -> NoReturn:
        _matrix_product(self._builder, "@", (self, other))

    __rmatmul__ = __matmul__

    def _operator(self, *_: object) -> NoReturn:
        self._builder.fault("&, |, ~, ^, //, % are no ops of a cell; for conditions nest torch.where(condition, a, b)")

    __and__ = __or__ = __xor__ = __invert__ = __floordiv__ = __mod__ = _operator
    __rand__ = __ror__ = __rxor__ = __rfloordiv__ = __rmod__ = _operator

    def __repr__(self) -> str:
        return f"<value %{self._index}: {self._builder.nodes[self._index]}>"


class Input(Proxy):
    """x itself, of which only gates can be read."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<the input x>"


def apply(builder: Builder, name: str, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> Proxy:
    """The node of one op on these arguments; any fault is the builder's to report."""
    row = OPS.get(name)
    if name in pasted.MATRIX_PRODUCTS:
        _matrix_product(builder, f"torch's {name}", args)
    if row is None:
        instead = pasted.for_function(name, builder.written_for)
        fix = f": {instead}" if instead else f"; expected one of: {' '.join(sorted(OPS))}"
        builder.fault(f"torch's {name} is no op of a cell{fix}")
    kwargs = dict(kwargs or {})
    if kwargs.get("inplace") is False:
        del kwargs["inplace"]
    args = list(args)
    for word in ("condition", "input", "other", "exponent"):  # torch's names of the arguments, in their order
        if word in kwargs and len(args) < row.arity:
            args.append(kwargs.pop(word))
    params = dict(zip(row.params, args[row.arity :], strict=False)) | kwargs
    if len(args) < row.arity or len(args) > row.arity + len(row.params) or set(params) - set(row.params):
        takes = ", ".join([*"abc"[: row.arity], *(f"{p}=…" for p in row.params)])
        builder.fault(f"{name} got {len(args)} arguments and {sorted(kwargs)}; expected {name}({takes})")
    values = [operand(builder, name, a) for a in args[: row.arity]]
    for k, value in enumerate(values):
        if (k in row.conditions) != (isinstance(value, Proxy) and is_comparison(builder.nodes[value._index])):
            builder.fault(
                f"{name}: argument {k + 1} must be a comparison, such as h > 0"
                if k in row.conditions
                else f"{name} of a comparison; write torch.where(condition, a, b) with numbers"
            )
    for word, value in params.items():
        if isinstance(value, Proxy):
            builder.fault(f"{name}: {word} is a value, expected a number; write torch.minimum or torch.maximum")
    numbers = {k: _number(builder, name, v) for k, v in {**row.params, **params}.items() if v is not None}
    return builder.add(name, values, params=numbers)


def _matrix_product(builder: Builder, what: str, args: Sequence[object]) -> NoReturn:
    of_input = any(isinstance(a, Input) for a in args)
    builder.fault(f"{what} in a cell: {pasted.for_product(of_input, builder.code(), builder.written_for)}")


def _other_toolkit(builder: Builder, toolkit: str, name: str, args: Sequence[object]) -> NoReturn:
    if name in pasted.MATRIX_PRODUCTS:
        _matrix_product(builder, f"{toolkit}'s {name}", args)
    instead = pasted.for_function(name, builder.written_for) or pasted.in_torch(name)
    builder.fault(f"{toolkit}'s {name}: {instead}")


def operand(builder: Builder, name: str, value: Any) -> Proxy | float:
    if isinstance(value, Input):
        x, gate = builder.written_for.x, builder.written_for.gate
        builder.fault(f"{name} of {x} itself, which has input_size numbers; read a gate of it, such as {x}.{gate}")
    if isinstance(value, Proxy):
        if value._builder is not builder:
            builder.fault(f"{name} of a value that belongs to another cell's equations")
        return value
    return _number(builder, name, value)


def _number(builder: Builder, name: str, value: Any) -> float:
    if getattr(value, "requires_grad", False):
        builder.fault(f"{name} of a tensor that is learned; make it a keyword-only argument of the cell")
    scalar = getattr(value, "ndim", None) == 0  # torch's and numpy's scalars are numbers too
    if isinstance(value, bool) or not (scalar or isinstance(value, (int, float))):
        builder.fault(
            f"{name} of {type(value).__name__} {str(value)[:40]!r}: expected a value of the step or a number; "
            "a learned vector is a keyword-only argument of the cell"
        )
    return float(value)
