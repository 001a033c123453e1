"""Diagrams: every node is drawn, every line is right, nothing covers anything, and as few lines cross as can be."""

from __future__ import annotations

import dataclasses
from importlib import util
from itertools import pairwise
from pathlib import Path

import networkx
import pytest
import torch
from helpers import Recipe, recipes
from hypothesis import Phase, given, settings
from typer.testing import CliRunner

import gatewise
from gatewise import Graph, cells
from gatewise.cli import app
from gatewise.errors import InputError, MissingPackageError
from gatewise.inspect import diagram
from gatewise.inspect.diagram import measures
from gatewise.inspect.diagram.blocks import Block, blocks_of
from gatewise.inspect.diagram.draw import draw, measure
from gatewise.inspect.diagram.layout import Layout, Line, lay_out
from gatewise.inspect.diagram.norms import find_norms

BUILT_IN = [c for c in vars(cells).values() if isinstance(c, Graph)]
CHANGED = [
    gatewise.layer_norm(cells.lstm),
    gatewise.zoneout(cells.gru, 0.1),
    gatewise.recurrent_dropout(cells.gru, 0.2),
    gatewise.clip_state_grad(cells.lstm, 1.0),
]


def sound(blocks: tuple[Block, ...], layout: Layout, labels: bool = True) -> None:
    """Raise AssertionError unless the layout draws these blocks and their lines, and nothing covers anything."""
    assert tuple(shape.block for shape in layout.shapes) == blocks
    assert sorted((line.source, line.target) for line in layout.lines) == sorted(
        (wire.source, v) for v, block in enumerate(blocks) for wire in block.inputs
    )
    for line in layout.lines:
        assert on_outline(layout, line.target, line.points[-1])
        own = [other for other in layout.lines if other.source == line.source and other is not line]
        assert (
            any(on_line(other, line.points[0]) for other in own)
            if line.branches
            else on_outline(layout, line.source, line.points[0])
        )
        assert all((a[0] == b[0]) != (a[1] == b[1]) for a, b in pairwise(line.points))
    assert measures.touches(layout) == 0
    assert measures.lines_through_shapes(layout) == 0
    assert not labels or measures.labels_in_the_way(layout) == 0


def on_outline(layout: Layout, shape: int, point: tuple[float, float]) -> bool:
    rect, (x, y) = layout.shapes[shape].rect, point
    upright = min(abs(x - rect.left), abs(x - rect.right)) < 0.01 and rect.bottom <= y <= rect.top
    return upright or (min(abs(y - rect.bottom), abs(y - rect.top)) < 0.01 and rect.left <= x <= rect.right)


def on_line(line: Line, point: tuple[float, float]) -> bool:
    return any(
        min(a[0], b[0]) - 0.01 <= point[0] <= max(a[0], b[0]) + 0.01
        and min(a[1], b[1]) - 0.01 <= point[1] <= max(a[1], b[1]) + 0.01
        for a, b in pairwise(line.points)
    )


def says_the_graph(graph: Graph, blocks: tuple[Block, ...]) -> None:
    """Raise AssertionError unless each node is in a block, and what it reads is there or comes in by a line."""
    assert {i for block in blocks for i in block.covers} == set(range(len(graph.nodes)))

    def incoming(v: int) -> set[int]:
        found: set[int] = set()
        for wire in blocks[v].inputs:
            source = blocks[wire.source]
            found |= incoming(wire.source) if source.kind == "join" else set(source.covers)
        return found

    for v, block in enumerate(blocks):
        for i in block.covers:
            assert set(graph.nodes[i].args) <= set(block.covers) | incoming(v), f"{block} does not get what %{i} reads"
    for state, i in graph.outputs:
        (result,) = [b for b in blocks if b.kind == "result" and b.state == state]
        assert i in blocks[result.inputs[0].source].covers


FEW = ("rnn", "gru", "lstm_peephole", "layer_norm(lstm)")  # the others take as long as these, and show less


@pytest.mark.parametrize(
    "cell",
    [c if c.name in FEW else pytest.param(c, marks=pytest.mark.slow) for c in (*BUILT_IN, *CHANGED)],
    ids=lambda c: c.name,
)
def test_a_cell_is_drawn_as_it_is(cell: Graph) -> None:
    blocks = blocks_of(cell)
    says_the_graph(cell, blocks)
    sound(blocks, diagram._layout(cell))


# A mark of the wildest of these may touch a line: they have dozens of blocks, and lines that no textbook would draw.
@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(recipes)
def test_random_cells_are_drawn_as_they_are(recipe: Recipe) -> None:
    cell = recipe.cell()
    blocks = blocks_of(cell)
    says_the_graph(cell, blocks)
    sound(blocks, lay_out(blocks, measure, effort=0.03), labels=False)


# --- crossings: the least number there can be -----------------------------------------------------------


def planar(cell: Graph) -> bool:
    """Whether the blocks can be drawn without crossings, with x_t and the states' two ends at the outside."""
    graph = networkx.Graph()
    for v, block in enumerate(blocks_of(cell)):
        graph.add_edges_from((wire.source, v) for wire in block.inputs)
        if block.state:
            graph.add_edge("outside", v)
    return bool(networkx.check_planarity(graph)[0])


@pytest.mark.parametrize(
    ("cell", "least"),
    [
        (cells.rnn, 0),
        (cells.lstm, 0),
        (cells.gru, 1),
        *(
            pytest.param(cell, n, marks=pytest.mark.slow)
            for cell, n in ((cells.lstm_projected, 0), (cells.gru_reset_before, 1))
        ),
    ],
    ids=lambda c: getattr(c, "name", str(c)),
)
def test_no_crossing_could_be_avoided(cell: Graph, least: int) -> None:
    assert measures.crossings(diagram._layout(cell)) == least
    assert least == 0 or not planar(cell)  # so that one crossing is the least


@pytest.mark.parametrize("cell", [cells.lstm, cells.gru], ids=lambda c: c.name)
def test_the_line_of_a_carried_state_is_straight_and_on_top(cell: Graph) -> None:
    layout = diagram._layout(cell)
    state = cell.states[-1]
    ends = [s for s in layout.shapes if s.block.state == state]
    assert ends[0].centre[1] == ends[1].centre[1] == max(s.centre[1] for s in layout.shapes)
    assert all(s.centre[0] < ends[1].centre[0] for s in layout.shapes if s.block.kind != "result")


# --- what the measures find ------------------------------------------------------------------------------


def with_points(layout: Layout, k: int, *points: tuple[float, float]) -> Layout:
    lines = list(layout.lines)
    lines[k] = dataclasses.replace(lines[k], points=points)
    return dataclasses.replace(layout, lines=tuple(lines))


def test_the_measures_see_what_is_wrong() -> None:
    layout = diagram._layout(cells.gru)
    first, other = next(
        (a, b) for a in layout.lines for b in layout.lines if a.source != b.source and len(a.points) == 2
    )
    k = layout.lines.index(other)
    assert measures.touches(with_points(layout, k, *first.points)) > 0
    box = next(
        i for i, s in enumerate(layout.shapes) if s.block.kind == "gate" and i not in (other.source, other.target)
    )
    x, y = layout.shapes[box].centre
    assert measures.lines_through_shapes(with_points(layout, k, (x - 40, y), (x + 40, y))) > 0
    label = dataclasses.replace(layout.labels[0], centre=(x, y))
    assert measures.labels_in_the_way(dataclasses.replace(layout, labels=(label, *layout.labels[1:]))) > 0
    rect = layout.frame
    many = with_points(layout, k, (rect.left, (y + 1)), (rect.right, y + 1))
    assert measures.crossings(many) > measures.crossings(layout)


# --- blocks ----------------------------------------------------------------------------------------------


def test_the_two_grus_differ_in_the_order_of_the_product_and_the_reset() -> None:
    def what_n_adds(cell: Graph) -> tuple[str, str]:
        blocks = blocks_of(cell)
        (n,) = [b for b in blocks if b.name == "$n_{t}$"]
        (added,) = [blocks[wire.source] for wire in n.inputs if wire.mark == "+"]
        return added.label, blocks[added.inputs[-1].source].label

    assert what_n_adds(cells.gru) == ("·", "$W_{hn}$")
    assert what_n_adds(cells.gru_reset_before)[0] == "$W_{hn}$"


def test_a_normalisation_is_found_by_its_structure_alone() -> None:
    assert [len(norm.inputs) for norm in find_norms(gatewise.layer_norm(cells.lstm))] == [4, 4, 1]

    @gatewise.cell(gates="n")
    def almost(x, h):  # type: ignore[no-untyped-def]  # the deviation is another value's
        a, b = x.n, h.n
        centred = a - torch.mean(a)
        return torch.tanh(centred / torch.sqrt(torch.mean(b * b) + 1e-5))

    assert find_norms(almost) == []


def test_numbers_and_vectors_stand_in_labels_and_sides_are_marked() -> None:
    @gatewise.cell(gates="n")
    def odd(x, h, *, p):  # type: ignore[no-untyped-def]
        a = torch.tanh(x.n + h.n)
        b = torch.clamp(2 * h, -0.5, 1)
        return torch.where(a < b, p * a, a - b)

    labels = {b.label: [w.mark for w in b.inputs] for b in blocks_of(odd)}
    assert {"$\\times\\,2$", "$[-0.5,\\,1]$", "$\\odot\\,p$"} <= set(labels)
    assert labels["$a < b$"] == ["a", "b"]
    assert labels["+"] == ["", "-"]
    assert labels["$\\mathrm{where}$"] == ["\\mathrm{if}", "\\mathrm{then}", "\\mathrm{else}"]


# --- files -----------------------------------------------------------------------------------------------


def test_the_same_cell_makes_the_same_bytes(tmp_path: Path) -> None:
    layout = lay_out(blocks_of(cells.rnn), measure)
    assert layout == diagram._layout(cells.rnn)
    for kind in diagram.KINDS:
        cells.rnn.diagram().save(tmp_path / f"a.{kind}")
        with (tmp_path / f"b.{kind}").open("wb") as file:
            draw(layout, file, kind, dark=False, dpi=200)
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_svg_has_text_and_a_dark_form() -> None:
    light, dark = cells.rnn.diagram(), cells.rnn.diagram(dark=True)
    assert light._repr_svg_() == light.svg() != dark.svg()
    assert light.svg().count("<text") == 4  # x_t, h_{t-1}, h_t and tanh, letter by letter
    assert "', serif;" in light.svg()
    assert "rnn" in repr(light)


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gru.bmp: a diagram is saved as .svg, .png or .pdf"):
        cells.gru.diagram().save(tmp_path / "gru.bmp")


def test_the_command_line_draws(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(app, ["diagram", "rnn", str(tmp_path / "rnn.svg")])
    assert made.exit_code == 0
    assert (tmp_path / "rnn.svg").read_text() == cells.rnn.diagram().svg()
    assert runner.invoke(app, ["diagram", "rnn", str(tmp_path / "rnn.bmp")]).exit_code == 2


def test_without_matplotlib_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="this needs matplotlib, which is not installed: pip install"):
        cells.gru.diagram()
