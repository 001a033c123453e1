"""Equations to Graph: what is traced, the names, and the errors that name the cell's line."""

from __future__ import annotations

import copy
import cProfile
import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import gatewise
from gatewise import CellError, Graph, cell, cells

BUILT_IN = {name: c for name, c in vars(cells).items() if isinstance(c, Graph)}


def test_the_gru_is_traced_as_written() -> None:
    assert cells.gru.text == (
        "cell gru\ngates r z n\nstates h\n"
        "%0 = state h\n%1 = input r\n%2 = project r %0\n%3 = add %1 %2\n%4 = sigmoid %3\n"
        "%5 = input z\n%6 = project z %0\n%7 = add %5 %6\n%8 = sigmoid %7\n"
        "%9 = input n\n%10 = project n %0\n%11 = mul %4 %10\n%12 = add %9 %11\n%13 = tanh %12\n"
        "%14 = const value=1.0\n%15 = sub %14 %8\n%16 = mul %15 %13\n%17 = mul %8 %0\n%18 = add %16 %17\n"
        "name h %18\nname r %4\nname z %8\nname n %13\nnew h %18\n"
    )


def test_the_place_of_the_reset_gate_is_a_different_graph() -> None:
    assert cells.gru != cells.gru_reset_before
    assert "project n %0" in cells.gru.text
    assert "project n %0" not in cells.gru_reset_before.text


def test_local_variables_name_nodes_and_a_state_means_its_new_value() -> None:
    names = dict(cells.lstm.names)
    assert set(names) == {"h", "c", "i", "f", "g", "o"}
    assert dict(cells.lstm.outputs) == {"h": names["h"], "c": names["c"]}
    assert cells.lstm.nodes[names["o"]].op == "sigmoid"
    assert cells.lstm.nodes[names["g"]].op == "tanh"


def test_a_state_that_is_not_rebound_is_named_by_what_is_returned() -> None:
    @cell(gates="n")
    def kept_names(x, h):
        h_new = torch.tanh(x.n + h.n)
        return h_new

    names = dict(kept_names.names)
    assert names["h"] == names["h_new"] == kept_names.outputs[0][1]


def test_a_named_value_that_reaches_no_state_is_kept_for_watching() -> None:
    @cell(gates="n")
    def watched(x, h):
        n = torch.tanh(x.n + h.n)
        distance = abs(n - h)  # noqa: F841 -- watched, not used
        return n

    assert watched.nodes[dict(watched.names)["distance"]].op == "abs"


def test_gates_are_stacked_as_declared_where_they_are_read_and_projected() -> None:
    @cell(gates="a b c")
    def partial(x, h):
        return torch.tanh(x.c + x.a + h.b + (x.a * h).c)

    assert partial.input_gates == ("a", "c")
    assert partial.hidden_gates == ("b", "c")


def test_equal_values_are_one_node() -> None:
    @cell(gates="n")
    def repeated(x, h):
        return torch.tanh(x.n + h.n) * torch.tanh(x.n + h.n)

    assert sum(node.op == "tanh" for node in repeated.nodes) == 1


def test_function_and_operator_and_alias_are_the_same_op() -> None:
    @cell(gates="n")
    def one(x, h):
        return torch.clip(abs(x.n), max=0.5) * h.n - 2

    @cell(gates="n", name="one")
    def other(x, h):
        return torch.sub(torch.multiply(torch.clamp(torch.abs(x.n), max=0.5), h.n), 2)

    assert one == other
    assert hash(one) == hash(other)


def test_numbers_come_from_anywhere() -> None:
    scale, shift = 3, torch.tensor(0.5)

    @cell(gates="n")
    def scaled(x, h):
        return scale * torch.tanh(x.n + h.n) + shift

    assert [n.params[0][1] for n in scaled.nodes if n.op == "const"] == [3.0, 0.5]


def test_a_cell_is_inlined_in_another() -> None:
    assert dict(cells.lstm_projected.names).keys() == {"h", "c", "i", "f", "g", "o"}
    assert cells.lstm_projected.projects_output
    assert cells.lstm_projected.state_sizes == ("P", "H")
    text = cells.lstm_projected.text
    assert text.count("sigmoid") == 3
    assert text.count("output") == 1


def test_an_inlined_cell_with_vectors_takes_them_by_name() -> None:
    @cell(gates="i f g o")
    def scaled_peephole(x, h, c, *, p_i, p_f, p_o, s):
        h, c = cells.lstm_peephole(x, h, c, p_i=p_i, p_f=p_f, p_o=p_o)
        return s * h, c

    assert scaled_peephole.vectors == ("p_i", "p_f", "p_o", "s")


def test_source_and_docstring_stay() -> None:
    assert "the reset gate acts on the product" in inspect.getsource(cells.gru)
    assert inspect.unwrap(cells.gru).__doc__.startswith("torch.nn.GRU")


@pytest.mark.parametrize("name", BUILT_IN)
def test_pickle(name: str) -> None:
    assert pickle.loads(pickle.dumps(BUILT_IN[name])) == BUILT_IN[name]


def test_tracing_leaves_a_profiler_alone() -> None:
    def one(x, h):
        n = torch.tanh(x.n + h.n)
        return n

    profile = cProfile.Profile()
    before = profile.runcall(lambda: (sys.getprofile(), cell(gates="n")(one), sys.getprofile()))
    assert before[0] is before[2]
    assert dict(before[1].names).keys() == {"h", "n"}


def test_a_cell_is_no_function_of_tensors() -> None:
    with pytest.raises(TypeError, match=r"gatewise\.Recurrent\(gru, input_size, hidden_size\)"):
        cells.gru(torch.randn(2, 3), torch.randn(2, 3))


def test_any_plain_word_can_be_a_gate() -> None:
    @cell(gates="index builder n")
    def odd_gates(x, h):
        return torch.tanh(x.index + h.builder + x.n)

    assert odd_gates.input_gates == ("index", "n")


def test_torchs_names_of_arguments() -> None:
    @cell(gates="n")
    def by_name(x, h):
        return torch.where(condition=x.n > h, input=torch.sigmoid(input=x.n), other=torch.minimum(h.n, other=h))

    @cell(gates="n", name="by_name")
    def by_place(x, h):
        return torch.where(x.n > h, torch.sigmoid(x.n), torch.minimum(h.n, h))

    assert by_name == by_place


def test_a_wrapped_function_keeps_its_lines_and_names() -> None:
    @cell(gates="n")
    @torch.no_grad()
    def wrapped(x, h):
        n = torch.tanh(x.n + h.n)
        return n

    assert dict(wrapped.names).keys() == {"h", "n"}


def test_a_graph_is_its_own_copy() -> None:
    assert copy.deepcopy(cells.gru) is cells.gru
    assert copy.copy(cells.gru) is cells.gru


# --- errors: each fault, the message's essence, and the line that it names ------------------------------


def control_flow(x, h):
    if x.n > 0:  # HERE
        return h
    return x.n + h.n


def equality(x, h):
    return torch.where(x.n == h.n, x.n, h)  # HERE


def chained(x, h):
    return torch.where(0 < x.n < 1, x.n, h.n)  # HERE


def unknown_op(x, h):
    return torch.sinh(x.n) + h.n  # HERE


def method(x, h):
    return x.n.tanh() + h.n  # HERE


def undeclared(x, h):
    q = x.q  # HERE
    return x.n + q


def whole_input(x, h):
    return torch.tanh(x + h.n)  # HERE


def index(x, h):
    return x.n + h[0]  # HERE


def matrix(x, h):
    return x.n + h @ h  # HERE


def listed(x, h):
    return torch.cat([x.n, h])  # HERE


def python_math(x, h):
    import math

    return x.n + math.exp(h)  # HERE


def numpy_function(x, h):
    return np.tanh(x.n) + h.n  # HERE


def tensor_constant(x, h):
    return x.n + torch.ones(3) * h.n  # HERE


def number_for_tensor(x, h):
    return torch.maximum(x.n, 0.5) + h.n  # HERE


def logical(x, h):
    return torch.where((x.n > 0) & (h > 0), x.n, h)  # HERE


def comparison_as_number(x, h):
    return (x.n > 0) * h.n  # HERE


def number_as_condition(x, h):
    return torch.where(x.n, h, x.n)  # HERE


def wrong_params(x, h):
    return torch.add(x.n, h.n, alpha=2)  # HERE


def too_many(x, h):
    n = torch.tanh(x.n + h.n)
    return n, n  # HERE


def nothing(x, h):
    torch.tanh(x.n + h.n)  # HERE


def plain_number(x, h):
    return 0.5  # HERE


def raises(x, h):
    return x.n + undefined_name  # noqa: F821  # HERE


def sizes_meet(x, h):
    n = torch.tanh(x.n + h.n)
    n = n * h  # HERE
    return n.hr


def no_state(x):  # HERE
    return x.n


def starred(x, *h):  # HERE
    return x.n


def defaulted(x, h=1):  # HERE
    return x.n


def reads_nothing(x, h):  # HERE
    return torch.tanh(h.n)


def unused_vector(x, h, *, p):  # HERE
    return torch.tanh(x.n + h.n)


SCALE = torch.nn.Parameter(torch.tensor(0.5))


def learned_scalar(x, h):
    return SCALE * x.n + h.n  # HERE


def swallowed(x, h):
    try:
        if x.n > 0:  # HERE
            return h
    except ValueError:
        pass
    return x.n + h.n


def bound_by_a_value(x, h):
    return torch.clamp(x.n, min=h)  # HERE


def inlined_with_a_number(x, h):
    return cells.rnn(x, 0.0) + h  # HERE


def second_state_projected(x, h, c):  # HERE
    n = torch.tanh(x.n + c.n)
    return n, n.hr


def vector_of_a_parameters_name(x, h, *, weight_hh):  # HERE
    return torch.tanh(x.n + h.n) * weight_hh


def clamp_without_bounds(x, h):  # HERE
    return torch.clamp(x.n + h.n)


FAULTS: dict[Callable[..., Any], str] = {
    control_flow: "write torch.where",
    equality: "== and !=",
    chained: "write torch.where",
    unknown_op: "sinh is no op of a cell; expected one of: abs add",
    method: r"write torch\.tanh",
    undeclared: r"'q' is no gate of this cell, expected one of: n.*gates='… q'",
    whole_input: "read a gate of it, such as x.n",
    index: "no indexing",
    matrix: r"gate's projection",
    listed: "cat is no op",
    python_math: "write torch's function",
    numpy_function: "numpy's tanh: a cell is written in torch's functions",
    tensor_constant: "keyword-only argument",
    number_for_tensor: r"torch\.clamp",
    logical: "nest torch.where",
    comparison_as_number: "mul of a comparison",
    number_as_condition: "must be a comparison, such as h > 0",
    wrong_params: r"expected add\(a, b\)",
    too_many: "returns 2 values, expected 1: the new h",
    nothing: "the new h is None",
    plain_number: "the new h is 0.5",
    raises: "NameError: name 'undefined_name' is not defined",
    sizes_meet: r"H \(hidden_size\) and P \(proj_size, made by \.hr\) meet in mul",
    no_state: "at least one state",
    starred: "name each state",
    defaulted: "has no default",
    reads_nothing: "reads nothing from x",
    unused_vector: "vector 'p' is never used",
    learned_scalar: "learned; make it a keyword-only argument",
    swallowed: "write torch.where",
    bound_by_a_value: r"write torch\.minimum or torch\.maximum",
    inlined_with_a_number: "rnn: h is 0.0, expected a value of the step",
    second_state_projected: "return what it made as the first state",
    vector_of_a_parameters_name: "a parameter 'weight_hh' already",
    clamp_without_bounds: "needs one of: min max",
}


@pytest.mark.parametrize("function", FAULTS, ids=lambda f: f.__name__)
def test_a_fault_names_its_line_and_the_fix(function: Callable[..., Any]) -> None:
    with pytest.raises(CellError, match=FAULTS[function]) as caught:
        cell(gates="n")(function)
    lines, first = inspect.getsourcelines(function)
    here = next(first + k for k, line in enumerate(lines) if "# HERE" in line)
    assert f"{function.__name__} (test_trace.py, line {here}: `" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gate_that_is_never_used() -> None:
    with pytest.raises(CellError, match=r"gate 'r' is never used; read x\.r or project h\.r, or drop it"):
        cell(gates="n r")(lambda x, h: torch.tanh(x.n + h.n))


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ("n n", "named twice"),
        ("hr", "hide torch's output projection"),
        ("1a", "not a plain name"),
        ("_a", "plain name"),
    ],
)
def test_names_of_gates(gates: str, message: str) -> None:
    with pytest.raises(CellError, match=message):
        cell(gates=gates)(lambda x, h: h)


def test_gates_are_one_string_and_a_cell_is_a_function() -> None:
    with pytest.raises(CellError, match="in one string"):
        cell(gates=["r", "z"])
    with pytest.raises(CellError, match="a cell is a Python function, got GRU"):
        cell(gates="n")(gatewise.GRU(2, 3))


def test_a_value_of_another_cell() -> None:
    kept: list[Any] = []

    @cell(gates="n")
    def leaking(x, h):
        kept.append(x.n)
        return x.n + h

    with pytest.raises(CellError, match="another cell's equations"):
        cell(gates="n")(lambda x, h: x.n + kept[0])


def test_the_innermost_line_of_the_cell_is_named_when_a_helper_fails() -> None:
    def helper(a: Any) -> Any:
        return torch.erf(a)

    def uses_helper(x, h):
        return helper(x.n) + h  # HERE

    with pytest.raises(CellError, match=r"return helper\(x\.n\) \+ h"):
        cell(gates="n")(uses_helper)
