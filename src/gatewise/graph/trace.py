"""Tracing: equations written in Python -> Graph.

The function is called once, with proxies instead of tensors. What is done to a proxy is written down as
a node; what can't be written down is an error that names the cell's own line. The function's local
variables at its return name the nodes.
"""

from __future__ import annotations

import inspect
import keyword
import linecache
import re
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from types import CodeType, FrameType, FunctionType
from typing import Any, NoReturn

import torch

from gatewise.graph import pasted
from gatewise.graph.graph import Graph, closure
from gatewise.graph.ops import ALIASES, OPS
from gatewise.graph.proxy import Builder, Input, Params, Proxy, apply, operand
from gatewise.graph.rules import (
    MASKS,
    OUTPUT_PROJECTION,
    CellError,
    SizeError,
    check_cell,
    fresh_names,
    is_comparison,
)

Function = Callable[..., Any]


def cell(*, gates: str, name: str | None = None) -> Callable[[Function], Graph]:
    """Decorator: a function that states a cell's equations becomes a `Graph`.

    The function is `(x, state, …, *, vector, …) -> new state, …`. In it

    - `x.r` reads W_ir x_t + b_ir, and `h.r` reads W_hr h_{t-1} + b_hr, for a gate r. `.r` on any
      state-sized expression projects it with the same weights: `(r * h).n`.
    - all the rest is element-wise: + - * / **, comparisons, numbers, and the ops of `gatewise.graph.ops`
      (`torch.sigmoid`, `torch.tanh`, `torch.where` …).
    - `.hr` is torch's output projection W_hr to `proj_size`.
    - keyword-only arguments are learned vectors of size (H,), such as an LSTM's peepholes. A default is the
      number that the vector starts from: `*, gain=1.0`.
    - what is returned are the new states, in the order of the arguments; the first is the layer's output.
    - a cell called with these values, `h, c = lstm(x, h, c)`, is inlined.

    Args:
        gates: the gates' names, separated by spaces, in the order in which the weights stack them.
        name: the cell's name; the function's, if not given.

    Returns:
        The cell, for `gatewise.Recurrent(cell, input_size, hidden_size)`.

    Raises:
        CellError: an equation is not allowed; the message names its line and what to write instead.

    Example:
        >>> @gatewise.cell(gates="f n")              # the minimal gated unit, arXiv 1603.09420
        ... def mgu(x, h):
        ...     f = torch.sigmoid(x.f + h.f)
        ...     n = torch.tanh(x.n + (f * h).n)
        ...     return (1 - f) * h + f * n
    """
    if not isinstance(gates, str):
        raise CellError(f"gates={gates!r}: expected the gates' names in one string, such as gates='r z n'")

    def decorate(function: Function) -> Graph:
        return trace(function, tuple(gates.split()), name)

    return decorate


class CellBuilder(Builder):
    """A Builder that knows the cell's gates and, for its errors, the cell's lines."""

    def __init__(self, name: str, gates: tuple[str, ...], code: CodeType) -> None:
        super().__init__()
        self.name, self.gates, self.code_of_cell = name, gates, code
        self.lines: list[int | None] = []  # where each node was written
        self.inlined: list[tuple[str, int]] = []  # the names that inlined cells gave
        self.first_fault: CellError | None = None

    def add(self, op: str, args: Sequence[Proxy | float] = (), key: str = "", params: Params | None = None) -> Proxy:
        proxy = super().add(op, args, key, params)
        while len(self.lines) < len(self.nodes):
            self.lines.append(self._current_line())
        return proxy

    def attribute(self, proxy: Proxy, name: str) -> Proxy:
        if name == OUTPUT_PROJECTION and not isinstance(proxy, Input):
            return self.add("output", (proxy,))
        if name not in self.gates:
            expected = " ".join(self.gates) or "none at all"
            instead = self._instead_of(proxy, name) or f"a new gate is declared in gates='… {name}'"
            self.fault(f".{name}: {name!r} is no gate of this cell, expected one of: {expected}; {instead}")
        if isinstance(proxy, Input):
            return self.add("input", key=name)
        if is_comparison(self.nodes[proxy._index]):
            self.fault(f".{name} of a comparison; project a value")
        return self.add("project", (proxy,), key=name)

    def _instead_of(self, proxy: Proxy, name: str) -> str:
        """What to write for an attribute that is no gate, as torch's methods are none; "" for what may be one."""
        weight = pasted.weight_of(name, self.gates) or pasted.weight_of(f"W_{name}", self.gates)
        if weight and weight.gate in self.gates:
            return pasted.in_place_of(weight._replace(name=name), self.written_for)
        if name in pasted.MATRIX_PRODUCTS:
            return pasted.for_product(isinstance(proxy, Input), self.code(), self.written_for)
        if ALIASES.get(name, name) in OPS:
            return f"for the function write torch.{name}(…)"
        if function := pasted.for_function(name, self.written_for):
            return function
        if hasattr(torch.Tensor, name) and name != "H":  # which is a gate's name in textbooks
            return (
                "a value is of one unit at one step, and has no shape, device or methods; "
                f"a new gate is declared in gates='… {name}'"
            )
        return ""

    def code(self) -> str:
        line = self._current_line()
        return linecache.getline(self.code_of_cell.co_filename, line).strip() if line else ""

    def fault(self, message: str, line: int | None = None) -> NoReturn:
        error = CellError(self.where(line or self._current_line()) + message)
        self.first_fault = self.first_fault or error
        raise error

    def _current_line(self) -> int | None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not self.code_of_cell:
            frame = frame.f_back
        return frame.f_lineno if frame else None

    def where(self, line: int | None) -> str:
        """'gru (cells.py, line 12: `r = …`): ', or the cell's first line if none is known."""
        line = line or self.code_of_cell.co_firstlineno
        text = linecache.getline(self.code_of_cell.co_filename, line).split(" #")[0].strip()
        return f"{self.name} ({_file_name(self.code_of_cell)}, line {line}{f': `{text}`' if text else ''}): "


def trace(function: Function, gates: tuple[str, ...], name: str | None = None) -> Graph:
    """The graph of a cell's equations; see `cell`."""
    if not isinstance(function, FunctionType):
        raise CellError(f"a cell is a Python function, got {type(function).__name__}; write def gru(x, h): …")
    builder = CellBuilder(name or function.__name__, gates, inspect.unwrap(function).__code__)
    x, states, starts = _signature(function, builder)
    builder.written_for = pasted.Cell(x, states, gates)
    vectors = tuple(starts)
    values = [builder.add("state", key=state) for state in states]
    learned = {vector: builder.add("vector", key=vector, params=starts[vector]) for vector in vectors}

    made, local, line = _call(function, builder, [Input(builder, -1), *values], learned)

    results = list(made) if isinstance(made, (tuple, list)) else [made]
    if len(results) != len(states):
        builder.fault(
            f"returns {len(results)} values, expected {len(states)}: the new {', '.join(states)}, in this order", line
        )
    for state, value in zip(states, results, strict=True):
        if not isinstance(value, Proxy) or isinstance(value, Input):
            what = "x itself" if isinstance(value, Input) else repr(value)
            builder.fault(f"the new {state} is {what}, expected a value made from x and the states", line)
    outputs = [(state, value._index) for state, value in zip(states, results, strict=True)]
    names = _names(builder, outputs, local)

    nodes, labels = builder.prune([*outputs, *names])
    try:
        new, named = labels[: len(outputs)], labels[len(outputs) :]
        graph = Graph(builder.name, gates, states, vectors, nodes, new, named, __wrapped__=function)
        check_cell(graph)
    except SizeError as error:
        kept = closure(builder.nodes, [i for _, i in (*outputs, *names)])
        raise CellError(builder.where(builder.lines[kept[error.node]]) + _message(error, builder.name)) from None
    except CellError as error:
        raise CellError(builder.where(None) + _message(error, builder.name)) from None
    return graph


def _message(error: CellError, name: str) -> str:
    return str(error).removeprefix(f"{name}: ")


def _signature(
    function: FunctionType, builder: CellBuilder
) -> tuple[str, tuple[str, ...], dict[str, dict[str, float]]]:
    """The names of the input and the states, and of the vectors with their initial values: the arguments."""
    states: list[str] = []
    vectors: dict[str, dict[str, float]] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            vectors[parameter.name] = {}
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if type(parameter.default) not in (int, float):
                builder.fault(f"argument {parameter}: a vector's default is the number that it starts from")
            vectors[parameter.name] = {"initial": float(parameter.default)}
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            builder.fault(f"{parameter} in a cell's arguments; name each state, and each vector after a *")
        elif parameter.default is not parameter.empty:
            builder.fault(f"argument {parameter}: a state has no default; drop it, or write a vector after a *")
        else:
            states.append(parameter.name)
    if len(states) < 2:
        builder.fault(f"takes {len(states)} arguments, expected the input and at least one state: def cell(x, h)")
    return states[0], tuple(states[1:]), vectors


def _call(
    function: FunctionType, builder: CellBuilder, args: list[Proxy], learned: dict[str, Proxy]
) -> tuple[Any, dict[str, Any], int | None]:
    """What the function returns, its local variables then, and the line of its return."""
    result: list[Any] = []
    failure: list[BaseException] = []
    local: dict[str, Any] = {}
    line: list[int] = []

    def hook(frame: FrameType, event: str, _: object) -> None:
        if event == "return" and frame.f_code is builder.code_of_cell:
            local.clear()
            local.update(frame.f_locals)
            line[:] = [frame.f_lineno]

    def run() -> None:
        sys.setprofile(hook)
        try:
            result.append(function(*args, **learned))
        except BaseException as error:
            failure.append(error)
        finally:
            sys.setprofile(None)

    # A thread of its own has no profiler yet: replacing another's hook crashes under cProfile.
    thread = threading.Thread(target=run, name=f"trace {builder.name}")
    thread.start()
    thread.join()
    if builder.first_fault is not None:  # also one that the cell's own try … except has swallowed
        raise builder.first_fault.with_traceback(None)
    if failure:
        error = failure[0]
        lines = [tb.tb_lineno for tb in _frames(error) if tb.tb_frame.f_code is builder.code_of_cell]
        place = builder.where(lines[-1] if lines else None)
        raise CellError(
            f"{place}{type(error).__name__}: {' '.join(str(error).split())}{_hint(error, builder)}"
        ) from error
    return result[0], local, line[0] if line else None


def _hint(error: BaseException, builder: CellBuilder) -> str:
    """What to do about an error that Python or torch raised in the equations: '; …', or ""."""
    if isinstance(error, TypeError) and "must be Tensor, not" in str(error):
        return "; a plain number goes with + - * / ** and comparisons, and as a bound of torch.clamp(a, min=…, max=…)"
    missing = re.search(r"'(\w+)'", str(error))
    if not isinstance(error, NameError) or missing is None:
        return ""
    *_, last = _frames(error)
    code, line = last.tb_frame.f_code, last.tb_lineno
    elsewhere = code is not builder.code_of_cell and not code.co_name.startswith("<")  # such as a comprehension
    where = f", in {code.co_name} ({_file_name(code)}, line {line})" if elsewhere else ""
    if code.co_filename != builder.code_of_cell.co_filename:
        return where  # whose names are not the cell's
    known = [*last.tb_frame.f_locals, *last.tb_frame.f_globals]
    source = linecache.getline(code.co_filename, line).strip()
    return f"{where}; {pasted.for_name(missing[1], source, builder.written_for, known)}"


def _file_name(code: CodeType) -> str:
    return code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]


def _frames(error: BaseException) -> Iterable[Any]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _names(builder: CellBuilder, outputs: Sequence[tuple[str, int]], local: dict[str, Any]) -> list[tuple[str, int]]:
    """Names for nodes: the states' new values, then the local variables, then those of inlined cells."""
    names = dict(outputs)
    values = {k: v for k, v in local.items() if isinstance(v, Proxy) and not isinstance(v, Input)}
    found = [(k, v._index) for k, v in values.items() if v._builder is builder]  # not what an enclosing scope kept
    for name, index in (*found, *builder.inlined):
        if builder.nodes[index].op not in ("state", "vector", "const", *MASKS):
            names.setdefault(name, index)
    return list(names.items())


def inline(graph: Graph, x: Any, states: Sequence[Any], vectors: dict[str, Any]) -> Any:
    """A traced cell's equations, written again into the cell that calls it; see `Graph.__call__`."""
    if not isinstance(x, Input):
        raise TypeError(
            f"{graph.name}: a cell is called inside another cell's equations, as {graph.name}(x, …); "
            f"to run it on tensors: gatewise.Recurrent({graph.name}, input_size, hidden_size)"
        )
    builder = x._builder
    assert isinstance(builder, CellBuilder)
    if len(states) != len(graph.states) or set(vectors) != set(graph.vectors):
        takes = ", ".join(["x", *graph.states, *(f"{v}={v}" for v in graph.vectors)])
        builder.fault(
            f"{graph.name} got {len(states)} states and vectors {sorted(vectors)}; expected {graph.name}({takes})"
        )
    given = dict(zip(graph.states, states, strict=True)) | vectors
    for label, value in given.items():
        if not isinstance(value, Proxy):
            builder.fault(f"{graph.name}: {label} is {value!r}, expected a value of the step")
    values: list[Any] = []
    taken = {node.key for node in builder.nodes if node.op in MASKS}
    for node in graph.nodes:
        args = [values[a] for a in node.args]
        if node.op in MASKS:  # of its own, each time that the cell is called
            key = next(k for k in fresh_names(node.key) if k not in taken)
            values.append(builder.add(node.op, key=key, params=dict(node.params)))
        elif node.op in ("state", "vector"):
            values.append(operand(builder, graph.name, given[node.key]))
        elif node.op == "input":
            values.append(builder.attribute(x, node.key))
        elif node.op == "project":
            values.append(builder.attribute(args[0], node.key))
        elif node.op == "output":
            values.append(builder.attribute(args[0], OUTPUT_PROJECTION))
        elif node.op == "const":
            values.append(builder.add("const", params=dict(node.params)))
        else:
            values.append(apply(builder, node.op, args, dict(node.params)))
    for name, i in graph.names:
        if not keyword.iskeyword(name) and isinstance(values[i], Proxy) and name not in graph.states:
            builder.inlined.append((name, values[i]._index))
    made = tuple(values[i] for _, i in graph.outputs)
    return made if len(made) > 1 else made[0]
