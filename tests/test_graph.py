"""The canonical text, its parser, and the backward graph."""

from __future__ import annotations

import pytest
from helpers import Recipe, recipes
from hypothesis import given, settings

from gatewise import CellError, Graph, cells
from gatewise.graph import backward
from gatewise.graph.text import parse

BUILT_IN = [c for c in vars(cells).values() if isinstance(c, Graph)]


@pytest.mark.parametrize("cell", BUILT_IN, ids=lambda c: c.name)
def test_text_parses_back(cell: Graph) -> None:
    assert Graph.parse(cell.text) == cell
    assert parse(backward(cell).text) == backward(cell)


@settings(max_examples=50, deadline=None)
@given(recipes)
def test_text_of_random_cells_parses_back(recipe: Recipe) -> None:
    cell = recipe.cell()
    assert Graph.parse(cell.text) == cell
    assert parse(backward(cell).text) == backward(cell)


GRU = cells.gru.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with 'cell NAME'"),
        ("hello\n", "line 1: 'hello' is no line"),
        (GRU.replace("sigmoid %3", "sigmoid %30"), "reads earlier nodes only"),
        (GRU.replace("sigmoid %3", "os.system %3"), "unknown op 'os.system'"),
        (GRU.replace("sigmoid %3", "sigmoid %3 %2"), "reads 2 values, expected 1"),
        (GRU.replace("sigmoid %3", "sigmoid %3 beta=2.0"), "unknown parameter 'beta'"),
        (GRU.replace("sigmoid %3", "sigmoid three"), "takes no name"),
        (GRU.replace("input r", "input q"), "unknown 'q', expected one of: r z n"),
        (GRU.replace("const value=1.0", "const value=one"), "line 18"),
        (GRU.replace("const value=1.0", "const"), "the parameter 'value' is missing"),
        (GRU.replace("%5 = input z", "%6 = input z"), "line 9: .* expected %5"),
        (GRU.replace("new h %18", "new h %99"), "h is node %99"),
        (GRU.replace("new h %18", "new h %14"), "the new h is a constant"),
        (GRU.replace("new h %18\n", ""), "makes nothing, expected new values of: h"),
        (GRU.replace("gates r z n", "gates r z n q"), "gate 'q' is never used"),
        (GRU.replace("%13 = tanh %12", "%13 = saved %12"), "'saved' belongs to a backward graph"),
        (GRU.replace("name r %4", "name r four"), "'four' is no node"),
        (GRU.replace("sigmoid %3", "sigmoid %-3"), "'%-3' is no node"),
        (GRU.replace("tanh %12", "where %12 %11 %9"), "value 1 must be a comparison"),
        (GRU.replace("tanh %12", "where %9 %11 %9"), "value 1 must be a comparison"),
        (GRU.replace("add %9 %11", "lt %9 %11"), "value 1 must not be a comparison"),
        (GRU.replace("%18 = add %16 %17", "%18 = lt %16 %17"), "the new h is a comparison"),
        (GRU.replace("tanh %12", "elu %12"), "the parameter 'alpha' is missing"),
        (GRU.replace("tanh %12", "clamp %12"), "needs one of: min max"),
        (GRU.replace("tanh %12", "clamp %12 min=0.0 min=1.0"), "given twice"),
        (GRU.replace("sub %14 %8", "neg %14"), "reads numbers only"),
        (GRU.replace("sub %14 %8", "project r %14"), "reads numbers only"),
        (GRU.replace("const value=1.0", "const value=1"), "line 18: .* is not canonical"),
        (GRU.replace("gates r z n", "gates q\ngates r z n"), "line 2: .* is not canonical"),
        (GRU.replace("name r %4", "name h %4"), "must be plain and different"),
        (GRU.replace("name r %4", "name r\u200b %4"), "must be plain and different"),
        (GRU.replace("sigmoid %3", "sigmoid %\u0663"), "is no node"),
        (GRU.encode(), "is a str, got bytes"),
        (GRU.replace("states h", "states x"), "'x' is the input and a state as well"),
        (GRU.replace("states h\n", "states h\nvectors h\n"), "'h' is a state and a vector as well"),
    ],
)
def test_a_damaged_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(CellError, match=message):
        Graph.parse(text)


def test_graphs_are_equal_if_their_texts_are() -> None:
    nan = Graph.parse(GRU.replace("value=1.0", "value=nan"))
    assert nan == Graph.parse(nan.text)
    zero, minus = (Graph.parse(GRU.replace("value=1.0", f"value={v}")) for v in ("0.0", "-0.0"))
    assert zero != minus
    assert len({zero, minus, cells.gru, Graph.parse(GRU)}) == 3


def test_the_backward_graph_of_a_tanh_rnn_is_the_textbooks() -> None:
    # d = (g_t + W_hn^T d_{t+1}) (1 - h_t^2), and h_t itself is all that is kept.
    assert backward(cells.rnn).text == (
        "cell rnn_backward\ngates n\nstates h\n"
        "%0 = grad h\n%1 = grad %4\n%2 = add %0 %1\n%3 = saved %4\n%4 = mul %3 %3\n"
        "%5 = const value=1.0\n%6 = sub %5 %4\n%7 = mul %2 %6\n%8 = unproject n %7\n%9 = state h\n"
        "new input n %7\nnew operand %0 %9\nnew project %2 %7\nnew state h %8\n"
    )


def test_projections_of_one_value_go_back_in_one_product() -> None:
    assert [n.key for n in backward(cells.gru).nodes if n.op == "unproject"] == ["r z n"]
    assert [n.key for n in backward(cells.gru_reset_before).nodes if n.op == "unproject"] == ["n", "r z"]


def test_backward_keeps_no_more_than_it_needs() -> None:
    def saved(cell: Graph) -> set[str]:
        names = {i: name for name, i in cell.names}
        return {names.get(int(n.key[1:]), n.key) for n in backward(cell).nodes if n.op == "saved"}

    assert saved(cells.gru) == {"r", "z", "n", "%10"}  # %10 is h.n; 1 - z is made again
    assert saved(cells.lstm) == {"i", "f", "g", "o", "%21"}  # %21 is tanh(c)
