"""`Shapes` as a text of 80 columns, with or without colours."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from gatewise.inspect.layer_shapes import Shapes
from gatewise.inspect.shape_rows import Row, numbers, value

if TYPE_CHECKING:
    from rich.text import Text

WIDTH = 80
_NO_BREAK = "\xa0"
Line = list[tuple[str, str]]  # pieces of text, each with its style, as rich has it
_UNITS = {
    "T": "step~", "B": "sample~", "I": "input~", "H": "unit~", "P": "projected", "G": "gate~", "Gx": "gate~ of x",
    "Gh": "gate~ of states", "D": "direction~", "L": "layer~",
}  # fmt: skip


def plain(shapes: Shapes) -> str:
    """The text."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in _lines(shapes))


def rich_text(shapes: Shapes) -> Text:
    """The text in colours."""
    from rich.text import Text

    lines = [Text.assemble(*line) for line in _lines(shapes)]
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def _lines(shapes: Shapes) -> Iterator[Line]:
    for number, section in enumerate((_title, _results, _parameters, _biases, _keras, _tensors, _cost)):
        lines = list(section(shapes))
        if lines and number:
            yield []
        yield from lines


# --- sections ------------------------------------------------------------------------------------


def _title(shapes: Shapes) -> Iterator[Line]:
    dtype = str(shapes.dtype).removeprefix("torch.")
    yield from _note(f"{shapes.cell.name}: {shapes.count:,} parameters, {_bytes(shapes.bytes)} in {dtype}", 0, "bold")
    units = [
        f"{letter} {size} {_UNITS[letter].replace('~', '' if size == 1 else 's')}"
        for letter, size in shapes.sizes.items()
    ]
    yield from _note(f"{_NO_BREAK}· ".join(map(_whole, units)))


def _results(shapes: Shapes) -> Iterator[Line]:
    finals = [row.name for row in shapes.returned[2:]]
    state = finals[0] if len(finals) == 1 else f"({', '.join(finals)})"
    yield _heading(f"In and out: output, {state} = layer(x)")
    yield from _table([(r.name, *_shape(r), f"{r.count:,}", r.what) for r in shapes.returned])
    if shapes.sizes["L"] * shapes.sizes["D"] > 1:
        where = "layer k // 2, direction k % 2 (0 forward, 1 reverse)" if shapes.sizes["D"] == 2 else "layer k"
        yield from _note(f"{' and '.join(f'{f}[k]' for f in finals)}: {where}.")
    rows = [[(str(r), r.why) for r in shapes.relations if r.lengths == lengths] for lengths in (False, True)]
    widths = _widths(rows[0] + rows[1])
    yield from _table(rows[0], widths)
    yield from _note("With lengths, where a sample's output is 0 beyond its own length:")
    yield from _table(rows[1], widths)
    without = ", ".join(_whole(f"{r.name} {_tuple(r.symbols)}") for r in shapes.unbatched)
    yield from _note(f"Unbatched: {without}.")
    others = ", ".join(shapes.cell.states[1:])
    if others:
        yield from _note(f"The output holds {shapes.cell.states[0]}; of {others} the last step alone comes back.")
    yield from _note(f"hx, the state before the first step, is shaped like {state}.")


def _parameters(shapes: Shapes) -> Iterator[Line]:
    layers, directions = shapes.sizes["L"], shapes.sizes["D"]
    yield _heading("Parameters")
    blocks = [shapes.parameters[k * directions] for k in range(layers)]
    equal = groupby(range(layers), lambda k: [row.symbols for row in blocks[k]])
    groups = [list(ks) for _, ks in equal]
    rows = []
    for ks in groups:
        suffix = "_lk" if len(ks) > 1 else f"_l{ks[0]}"
        rows.append([(r.name.rpartition("_l")[0] + suffix, r) for r in blocks[ks[0]]])
    table = [list(_collapsed(block)) for block in rows]
    widths = _widths([cells for block in table for cells in block])
    for ks, cells in zip(groups, table, strict=True):
        which = f"layer {ks[0]}" if len(ks) == 1 else f"layers k = {ks[0]} to {ks[-1]}"
        which += ", forward; the same again with _reverse" if directions == 2 else ""
        yield [(f"  {which}", "italic")]
        yield from _table(cells, widths)
        formula = shapes.formula(ks[0])
        evaluated = numbers(formula, shapes.sizes)
        yield from _note(f"{_whole(formula)} = {_whole(evaluated)} = {value(formula, shapes.sizes):,}", 4)
    cell, size = shapes.cell, shapes.sizes["H"]
    if cell.input_gates == cell.hidden_gates or not cell.hidden_gates:
        yield from _note(f"Rows of each: {_blocks(cell.input_gates, size)}.")
    else:
        yield from _note(f"Rows of weight_ih: {_blocks(cell.input_gates, size)}.")
        yield from _note(f"Rows of weight_hh: {_blocks(cell.hidden_gates, size)}.")


def _biases(shapes: Shapes) -> Iterator[Line]:
    learned = any("_0_l" in row.name for row in shapes.parameters[0])
    yield _heading(f"How many parameters with which biases{', without learned states' if learned else ''}")
    who: dict[bool | str, str] = {True: "torch, cuDNN", "input": "textbooks", False: ""}
    if shapes.keras:
        layer = shapes.keras[0]
        call = layer.call.replace("(H)", "").replace("(H, ", "(")
        who |= {True: f"{who[True]}, Keras {call}"} if layer.biases == 2 else {"input": f"Keras {call}"}
    names: dict[bool | str, str] = {True: "two a gate", "input": "one a gate", False: "none"}
    rows = []
    for bias, name in names.items():
        argument = "as here" if shapes.bias == bias else f"bias={bias}" if isinstance(bias, bool) else f'bias="{bias}"'
        rows.append((name, argument, f"{shapes.with_bias(bias):,}", who[bias]))
    yield from _table(rows, right=(2,))
    summed, cell = shapes.summed_biases, shapes.cell
    if summed and shapes.bias is True:
        rest = [gate for gate in cell.input_gates if gate in cell.hidden_gates and gate not in summed]
        others = f", of {', '.join(rest)} not" if rest else ""
        yield from _note(f"Of the two biases of {', '.join(summed)} the sum alone counts{others}.")


def _keras(shapes: Shapes) -> Iterator[Line]:
    if shapes.keras is None:
        return
    layer, rows = shapes.keras
    call = layer.call.replace("(H", f"({shapes.sizes['H']}")
    call = call if shapes.bias else f"{call[:-1]}, use_bias=False)"
    yield _heading(f"In Keras: {call} for layer 0")
    yield from _table([(r.name, *_shape(r), f"{r.count:,}") for r in rows])
    renamed = [f"{theirs} is {ours} here" for ours, theirs in layer.gates if theirs != ours]
    columns = f"Columns: {_blocks([theirs for _, theirs in layer.gates], shapes.sizes['H'])}"
    yield from _note("; ".join([columns, *renamed]) + ".")
    yield from _note(f"One Keras layer for each layer and direction: {shapes.keras_count:,} parameters.")


def _tensors(shapes: Shapes) -> Iterator[Line]:
    sizes, out = shapes.sizes, "P" if shapes.cell.projects_output else "H"
    yield _heading("On the way, in each layer and direction")
    yield from _table(list(_collapsed([(row.name, row) for row in shapes.tensors])))
    gate = shapes.cell.input_gates[0]
    line = f"x.{gate} = W_i{gate} x{f' + b_i{gate}' if shapes.bias else ''}, all steps at once"
    if shapes.cell.hidden_gates:
        state, gate = shapes.cell.states[0], shapes.cell.hidden_gates[0]
        line += f"; {state}.{gate} = W_h{gate} {state}{f' + b_h{gate}' if shapes.bias is True else ''}, step by step"
    yield from _note(f"{line}.")
    if sizes["L"] > 1:
        reads = f"D·{out}" if sizes["D"] == 2 else out
        which = "layer 1 reads" if sizes["L"] == 2 else f"layers 1 to {sizes['L'] - 1} read"
        below = "both outputs" if sizes["D"] == 2 else "the output"
        yield from _note(f"Layer 0 reads x, I = {sizes['I']}; {which} {below} below, {reads} = {value(reads, sizes)}.")


def _cost(shapes: Shapes) -> Iterator[Line]:
    sizes = shapes.sizes
    yield _heading("Multiply-adds of the matrix products")
    rows = []
    for layer in range(min(sizes["L"], 2)):
        formula = shapes.products(layer)
        which = f"layer {layer}" if layer == 0 or sizes["L"] == 2 else f"each of 1 to {sizes['L'] - 1}"
        rows.append((which, formula, f"{value(formula, sizes):,}", "a step, a sample"))
    rows.append(("forward", "T·B times all", f"{shapes.multiply_adds:,}", "the whole batch"))
    rows.append(("training", "about 3 times", f"{shapes.multiply_adds_training:,}", "with backward"))
    rows.append(("besides", "element-wise", f"{shapes.elementwise:,}", "operations"))
    yield from _table(rows, right=(2,))
    yield []
    yield _heading("Memory")
    wider = " in float32" if shapes.dtype is torch.bfloat16 else ""
    memory = [
        ("parameters", _bytes(shapes.bytes), "gradients take as much again, Adam twice as much"),
        ("output", _bytes(shapes.returned[1].bytes), ""),
        ("for backward", _bytes(shapes.kept_bytes), f"kept{wider}, of each layer and direction:"),
    ]
    yield from _table(memory, right=(1,))
    names = [_whole(row.name) for row in shapes.kept]
    if len(names) > 10:
        names = [*[name for name in names if not name.startswith("%")][:8], _whole(f"… ({len(names)} in all)")]
    between = "; and between layers both outputs side by side" if sizes["D"] == 2 and sizes["L"] > 1 else ""
    yield from _note(", ".join(names) + between, 4)


# --- pieces --------------------------------------------------------------------------------------


def _heading(text: str) -> Line:
    return [(text, "bold")]


def _note(text: str, indent: int = 2, style: str = "") -> Iterator[Line]:
    """A line, or more of them where it is long."""
    blank = " " * indent
    for line in textwrap.wrap(text, WIDTH, initial_indent=blank, subsequent_indent=blank, break_on_hyphens=False):
        yield [(line.replace(_NO_BREAK, " "), style)]


def _whole(text: str) -> str:
    """A text that is not broken at its spaces."""
    return text.replace(" ", _NO_BREAK)


def _table(rows: Sequence[Sequence[str]], widths: Sequence[int] = (), right: Sequence[int] = (3,)) -> Iterator[Line]:
    """Aligned columns: names, shapes in letters, in numbers, counts (to the right) and what it is."""
    widths = widths or _widths(rows)
    for cells in rows:
        line: Line = [("  ", "")]
        for k, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            last = k == len(cells) - 1 and k not in right
            style = "cyan" if k == 0 else "dim" if last else ""
            padded = cell if last else cell.rjust(width) if k in right else cell.ljust(width)
            line.append((padded, style))
            line.append(("" if last else "  ", ""))
        yield line


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _collapsed(rows: Sequence[tuple[str, Row]]) -> Iterator[tuple[str, str, str, str, str]]:
    """The cells of a table; rows that follow each other and are alike, such as those of gates, are one line."""
    for _, group in groupby(rows, lambda pair: (pair[1].symbols, pair[1].what)):
        names, same = zip(*group, strict=True)
        row, name = same[0], " ".join(names)
        if len(name) > 20:
            name = f"{names[0]} … {names[-1]}"
        if len(name) > 20:
            name = names[0] + (" …" if len(names) > 1 else "")
        count = f"{len(names)} × {row.count:,}" if len(names) > 1 else f"{row.count:,}"
        yield name, *_shape(row), count, row.what


def _shape(row: Row) -> tuple[str, str]:
    return _tuple(row.symbols), str(row.shape)


def _tuple(words: Sequence[str]) -> str:
    return f"({words[0]},)" if len(words) == 1 else f"({', '.join(words)})"


def _blocks(gates: Sequence[str], size: int) -> str:
    return ", ".join(f"{k * size}:{(k + 1) * size} {gate}" for k, gate in enumerate(gates))


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
