from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import OWN, randomize, recipes
from hypothesis import given, settings
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gatewise
from gatewise import cells
from gatewise.convert.keras import conventions as keras
from gatewise.inspect import Shapes, shapes
from gatewise.inspect.shape_rows import Relation, value
from gatewise.scan import cpu, reference
from gatewise.scan.plan import Inputs
from gatewise.scan.stages import draw_masks, project

I, H, P, T, B = 3, 5, 2, 4, 6  # all different, so that no axis can stand for another
CELLS = [cells.rnn, cells.rnn_relu, cells.gru, cells.gru_reset_before, cells.lstm, cells.lstm_peephole]
CHANGED = [
    gatewise.zoneout(gatewise.recurrent_dropout(cells.gru, 0.3), 0.2),
    gatewise.layer_norm(cells.lstm_projected),
    gatewise.clip_state_grad(cells.gru_reset_before, 1.0),
]


@gatewise.cell(gates="a b c")
def uneven(x, h):
    """Reads one gate from x alone, projects one alone."""
    return torch.tanh(x.a + h.b) * torch.sigmoid(x.c + (h.c * h).c)


@gatewise.cell(gates="n")
def unprojected(x, h):
    return torch.tanh(x.n + 0.5 * h)


@gatewise.cell(gates="f n")
def four_kinds(x, h, *, p):
    """A value of every step, one of a unit, and one that is a number."""
    half = 0.5
    q = p * half
    f = torch.sigmoid(x.f + h.f + q)
    return f * h + (1 - f) * torch.tanh(x.n)


ALL = [*CELLS, cells.lstm_projected, *CHANGED, uneven, unprojected, four_kinds]
STACKS = list(itertools.product((1, 3), (False, True)))


def made(cell: gatewise.Graph, **options) -> gatewise.Recurrent:
    options["proj_size"] = P if cell.projects_output else 0
    return randomize(gatewise.Recurrent(cell, I, H, dtype=torch.float64, **options))


def found(layer: nn.Module) -> Shapes:
    return shapes(layer, batch=B, steps=T)


def rows_of(layer: nn.Module) -> dict[str, tuple[int, ...]]:
    return {row.name: row.shape for rows in found(layer).parameters for row in rows}


def check_parameters(layer: nn.Module) -> None:
    """Every parameter has its row, and letters and formulas are what the numbers are."""
    real = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    seen = found(layer)
    assert rows_of(layer) == real
    assert seen.count == sum(p.numel() for p in layer.parameters())
    assert seen.bytes == sum(p.nbytes for p in layer.parameters())
    for row in (row for rows in seen.parameters for row in rows):
        assert tuple(value(s, seen.sizes) for s in row.symbols) == row.shape
    assert sum(value(seen.formula(k), seen.sizes) for k in range(layer.num_layers)) == seen.count


@pytest.mark.parametrize(("layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "LSTM projected"])
def test_parameters_are_those_of_torchs_layers(kind, bias, layers, bidirectional):
    name, *projected = kind.split()
    options = {"num_layers": layers, "bias": bias, "bidirectional": bidirectional}
    options |= {"proj_size": P} if projected else {}
    theirs = getattr(nn, name)(I, H, **options)
    check_parameters(theirs)
    check_parameters(getattr(gatewise, name)(I, H, **options))
    cell = getattr(cells, f"{name.lower()}_projected" if projected else name.lower())
    of_cell = shapes(cell, I, H, batch=B, steps=T, **options)
    assert of_cell == found(theirs) == found(getattr(gatewise, name)(I, H, **options))
    assert type(theirs) is getattr(nn, name)


@pytest.mark.parametrize(("layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("bias", [True, "input", False])
@pytest.mark.parametrize("cell", ALL, ids=lambda c: c.name)
def test_parameters_are_those_of_any_cells_layer(cell, bias, layers, bidirectional):
    options = {"num_layers": layers, "bidirectional": bidirectional}
    check_parameters(made(cell, bias=bias, learn_state=True, **options))
    layer = made(cell, bias=bias, **options)
    for other in (True, "input", False):
        parameters = made(cell, bias=other, **options).parameters()
        assert found(layer).with_bias(other) == sum(p.numel() for p in parameters)


@settings(max_examples=30, deadline=None)
@given(recipe=recipes)
def test_parameters_and_products_of_random_cells(recipe):
    layer = made(recipe.cell(), num_layers=2, bidirectional=True)
    check_parameters(layer)
    check_products(layer)
    assert len(str(found(layer))) > 0


def test_the_rows_are_those_of_the_gates():
    layer = made(cells.gru)
    assert "Rows of each: 0:5 r, 5:10 z, 10:15 n." in str(found(layer))
    with torch.no_grad():  # with z at 1 the state stays as it was
        layer.bias_ih_l0[5:10] += 1e3
    h = torch.randn(1, B, H, dtype=torch.float64)
    assert torch.equal(layer(torch.randn(T, B, I, dtype=torch.float64), h)[1], h)


# --- what comes back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", ALL, ids=lambda c: c.name)
def test_results_have_their_shapes_and_every_relation_holds(cell, batch_first, layers, bidirectional):
    layer = made(cell, num_layers=layers, bidirectional=bidirectional, batch_first=batch_first)
    seen = found(layer)
    x_row, output_row, *final_rows = seen.returned
    assert layer.state_shapes(B) == [row.shape for row in final_rows]
    lengths = torch.tensor([4, 1, 2, 3, 4, 1])
    equal: dict[Relation, list[bool]] = {relation: [] for relation in seen.relations}
    for seed, given_lengths in itertools.product(range(4), (None, lengths)):  # a ReLU's output may be 0 by chance
        randomize(layer, seed)
        x = torch.randn(x_row.shape, dtype=torch.float64)
        output, state = layer(x, lengths=given_lengths)
        finals = state if isinstance(state, tuple) else (state,)
        assert output.shape == output_row.shape
        assert output.nbytes == output_row.bytes
        assert [f.shape for f in finals] == [row.shape for row in final_rows]
        names = dict(zip([row.name for row in final_rows], finals, strict=True))
        scope = {"output": output, "lengths": lengths, "arange": torch.arange, **seen.sizes, **names}
        for relation, results in equal.items():
            if relation.lengths == (given_lengths is not None):
                results.append(torch.equal(eval(relation.left, scope), eval(relation.right, scope)))
        if given_lengths is not None:
            padded = output if batch_first else output.transpose(0, 1)
            assert not any(padded[b, n:].any() for b, n in enumerate(lengths.tolist()))
    assert all(len(results) == 4 and all(results) == relation.equal for relation, results in equal.items())
    assert {relation.lengths for relation in equal} == {False, True}
    x_row, output_row, *final_rows = seen.unbatched
    output, state = layer(torch.randn(x_row.shape, dtype=torch.float64))
    finals = state if isinstance(state, tuple) else (state,)
    assert [output.shape, *(f.shape for f in finals)] == [row.shape for row in (output_row, *final_rows)]


def test_at_one_step_no_relation_is_claimed_that_does_not_hold():
    seen = shapes(cells.gru, I, H, bidirectional=True, batch=B, steps=1)
    assert all(r.equal for r in seen.relations)
    output, h_n = made(cells.gru, bidirectional=True)(torch.randn(1, B, I, dtype=torch.float64))
    assert torch.equal(output[-1, :, H:], h_n[-1])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_final_state_is_of_the_layer_and_direction_that_is_said(bidirectional):
    layer = made(cells.lstm, num_layers=3, bidirectional=bidirectional)
    line = "h_n[k] and c_n[k]: layer k // 2, direction k % 2 (0 forward, 1 reverse)."
    assert (line if bidirectional else "h_n[k] and c_n[k]: layer k.") in str(found(layer))
    _, (h_n, c_n) = layer(torch.randn(T, B, I, dtype=torch.float64))
    for k, (h, c) in enumerate(zip(h_n, c_n, strict=True)):
        number, reverse = divmod(k, 2) if bidirectional else (k, 0)
        own = layer._suffixes(number)[reverse]
        for final in (h, c):
            layer.zero_grad()
            final.sum().backward(retain_graph=True)
            weights = {n: p.grad for n, p in layer.named_parameters() if n.startswith("weight_hh")}
            read = {n.removeprefix("weight_hh") for n, g in weights.items() if g is not None and g.any()}
            assert read == {own, *(s for j in range(number) for s in layer._suffixes(j))}


# --- the tensors on the way --------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ALL, ids=lambda c: c.name)
def test_tensors_on_the_way_are_those_that_are_made(cell):
    layer = made(cell)
    weight_hh, bias_hh, weight_hr, vectors = layer._recurrent_weights("_l0")
    x = torch.randn(T, B, I, dtype=torch.float64)
    projected = project(x, layer.weight_ih_l0, layer.bias_ih_l0)
    masks = draw_masks(cell, T, B, {"H": H, "P": P}, x)
    none, flags = x.new_zeros(0), torch.zeros(0, 0, dtype=torch.bool)
    states = tuple(x.new_zeros(shape[1:]) for shape in layer.state_shapes(B))
    inputs = Inputs(projected, weight_hh, bias_hh, weight_hr, vectors, none, states, flags, flags, masks)
    seen = {row.name: row for row in found(layer).tensors}
    real = {f"x.{g}": part for g, part in zip(cell.input_gates, projected.split(H, 2), strict=True)}
    real |= dict(zip((cell.nodes[i].key for i in cell.masks), masks, strict=True))
    named = [(name, i) for name, i in cell.names if cell.sizes[i] != "1" and name != "q"]
    wanted = [*named, *((None, i) for i, node in enumerate(cell.nodes) if node.op == "project")]
    _, columns = reference.forward(cell, inputs, [i for _, i in wanted], True)
    columns = columns[len(states) :]
    real |= {name: c for (name, _), c in zip(wanted, columns, strict=True) if name}
    assert seen.keys() >= real.keys()
    for name, tensor in real.items():
        assert (seen[name].shape, seen[name].bytes) == (tensor.shape, tensor.nbytes), name
    steps = [row for name, row in seen.items() if name not in real and name != "q"]
    assert len(steps) == len(wanted) - len(named)
    assert all(row.shape == (T, B, H) for row in steps)
    if cell is four_kinds:
        assert seen["q"].shape == (H,)
        assert "half" not in seen


# --- work and memory ---------------------------------------------------------------------------------


def check_products(layer: gatewise.Recurrent) -> None:
    """The multiply-adds are half of the operations that torch counts in the reference executor."""
    layer.executor = "reference"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.randn(T, B, I, dtype=torch.float64))
    assert found(layer).multiply_adds * 2 == counter.get_total_flops()


@pytest.mark.parametrize(("layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("cell", ALL, ids=lambda c: c.name)
def test_multiply_adds_are_those_that_torch_counts(cell, layers, bidirectional):
    check_products(made(cell, num_layers=layers, bidirectional=bidirectional))


@pytest.mark.parametrize(("layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_multiply_adds_are_those_of_torchs_layers(kind, layers, bidirectional):
    layer = kind(I, H, layers, bidirectional=bidirectional, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(T, B, I, dtype=torch.float64))
    assert found(layer).multiply_adds * 2 == counter.get_total_flops() > 0


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", [cells.rnn, cells.gru, cells.gru_reset_before, cells.lstm, cells.lstm_projected])
def test_multiply_adds_of_training_are_those_that_torch_counts(cell, bidirectional):
    layer = made(cell, num_layers=2, bidirectional=bidirectional)
    layer.executor = "reference"
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(T, B, I, dtype=torch.float64))[0].sum().backward()
    assert found(layer).multiply_adds_training * 2 == counter.get_total_flops()


def test_elementwise_operations_by_hand():
    # h = tanh(x.n + h.n): two for each unit and step, layer and direction
    assert found(made(cells.rnn, num_layers=3, bidirectional=True)).elementwise == 2 * T * B * H * 3 * 2


@pytest.mark.skipif(not cpu.instruction_set(), reason="gatewise was installed without a C++ compiler")
@pytest.mark.parametrize(("layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("cell", ALL, ids=lambda c: c.name)
def test_what_is_kept_for_backward_is_what_autograd_saves(cell, layers, bidirectional):
    layer = made(cell, num_layers=layers, bidirectional=bidirectional)
    x = torch.randn(T, B, I, dtype=torch.float64)
    saved: dict[int, torch.Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.setdefault(t.data_ptr(), t), lambda t: t):
        layer(x)
    known = {x.data_ptr(), *(p.data_ptr() for p in layer.parameters())}
    first = {shape[1:] for shape in layer.state_shapes(B)}  # the state before the first step: zeros
    stacked = (len(cell.vectors), H)
    others = [t for k, t in saved.items() if k not in known and t.shape != stacked]
    kept = [t for t in others if t.any() or t.shape not in first]
    assert sum(t.nbytes for t in kept) == found(layer).kept_bytes


@pytest.mark.skipif(not cpu.instruction_set(), reason="gatewise was installed without a C++ compiler")
def test_what_is_kept_of_bfloat16_is_float32():
    layer = gatewise.LSTM(I, H, dtype=torch.bfloat16)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(T, B, I, dtype=torch.bfloat16))
    seen = found(layer)
    h, *others = seen.kept
    assert {t.shape: t.nbytes for t in saved}[h.shape] == h.bytes
    assert {t.shape: t.nbytes for t in saved}[sum(r.count for r in others),] == sum(r.bytes for r in others)
    assert "kept in float32, of each layer and direction:" in str(seen)


# --- biases and Keras --------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [*CELLS, cells.lstm_projected, uneven], ids=lambda c: c.name)
def test_where_the_sum_of_two_biases_alone_counts(cell):
    layer, x = made(cell), torch.randn(T, B, I, dtype=torch.float64)
    summed = set()
    before, _ = layer(x)
    for gate in cell.gates:
        if gate not in cell.input_gates or gate not in cell.hidden_gates:
            continue
        k_i, k_h = cell.input_gates.index(gate) * H, cell.hidden_gates.index(gate) * H
        moved = made(cell)
        with torch.no_grad():
            moved.bias_ih_l0[k_i : k_i + H] += 0.3
            moved.bias_hh_l0[k_h : k_h + H] -= 0.3
        if torch.allclose(moved(x)[0], before, rtol=0, atol=1e-12):
            summed.add(gate)
    assert set(found(layer).summed_biases) == summed
    expected = {cells.gru: {"r", "z"}, cells.lstm: set("ifgo"), cells.gru_reset_before: set("rzn"), uneven: set()}
    assert summed == expected.get(cell, summed)


# Keras 3, `build` of keras/src/layers/rnn/simple_rnn.py, gru.py and lstm.py: kernel (I, G H) and recurrent_kernel
# (H, G H); bias (H,), (4 H,), and of a GRU (2, 3 H) with reset_after=True, which is its default, else (3 H,).
# Their gates: `x_z, x_r, x_h = ops.split(matrix_x, 3)`, and i, f, c, o of the LSTM.
KERAS = {
    "SimpleRNN(H)": (cells.rnn, 256 * (28 + 256 + 1), (256,), "h"),
    "GRU(H)": (cells.gru, 3 * 256 * (28 + 256 + 2), (2, 768), "z r h"),
    "GRU(H, reset_after=False)": (cells.gru_reset_before, 3 * 256 * (28 + 256 + 1), (768,), "z r h"),
    "LSTM(H)": (cells.lstm, 4 * 256 * (28 + 256 + 1), (1024,), "i f c o"),
}


@pytest.mark.parametrize("call", KERAS)
def test_keras_counts_and_layouts(call):
    cell, count, bias, gates = KERAS[call]
    seen = shapes(cell, 28, 256)
    layer, (kernel, recurrent, bias_row) = seen.keras
    assert (layer.call, bias_row.shape) == (call, bias)
    assert " ".join(theirs for _, theirs in layer.gates) == gates
    assert {ours for ours, _ in layer.gates} == set(cell.gates)
    assert kernel.shape == seen.parameters[0][0].shape[::-1]
    assert recurrent.shape == seen.parameters[0][1].shape[::-1]
    assert seen.keras_count == kernel.count + recurrent.count + bias_row.count == count
    text = str(seen)
    assert f"One Keras layer for each layer and direction: {count:,} parameters." in text
    assert f"In Keras: {call.replace('(H', '(256')} for layer 0" in text
    without = shapes(cell, 28, 256, bias=False)
    assert [row.name for row in without.keras[1]] == ["kernel", "recurrent_kernel"]
    assert without.keras_count == without.count
    assert "use_bias=False) for layer 0" in str(without)


def test_keras_has_no_layer_of_a_cell_that_only_shares_a_name():
    @gatewise.cell(gates="r z n")
    def gru(x, h):
        return torch.tanh(x.n + h.n) * torch.sigmoid(x.r + h.r + x.z + h.z)

    assert shapes(gru, I, H).keras is None
    assert "Keras" not in str(shapes(gru, I, H))
    assert all(isinstance(cell, gatewise.Graph) for cell in keras.LAYERS)


# --- the text ----------------------------------------------------------------------------------------

TEXT = """\
gru: 1,622,016 parameters, 6.2 MiB in float32
  T 35 steps · B 32 samples · I 28 inputs · H 256 units · G 3 gates ·
  D 2 directions · L 2 layers

In and out: output, h_n = layer(x)
  x       (T, B, I)    (35, 32, 28)    31,360  the input
  output  (T, B, D·H)  (35, 32, 512)  573,440  h, last layer, every step
  h_n     (L·D, B, H)  (4, 32, 256)    32,768  h, every layer, last step
  h_n[k]: layer k // 2, direction k % 2 (0 forward, 1 reverse).
  output[-1, :, :H] == h_n[-2]                   forward ends at the last step
  output[0, :, H:] == h_n[-1]                    reverse ends at the first step
  output[-1, :, H:] != h_n[-1]                   there reverse has read one step
  With lengths, where a sample's output is 0 beyond its own length:
  output[lengths - 1, arange(B), :H] == h_n[-2]  each sample's own last step
  output[0, :, H:] == h_n[-1]                    reverse ends at the first step
  Unbatched: x (T, I), output (T, D·H), h_n (L·D, H).
  hx, the state before the first step, is shaped like h_n.

Parameters
  layer 0, forward; the same again with _reverse
  weight_ih_l0  (G·H, I)    (768, 28)    21,504  W_ir W_iz W_in
  weight_hh_l0  (G·H, H)    (768, 256)  196,608  W_hr W_hz W_hn
  bias_ih_l0    (G·H,)      (768,)          768  b_ir b_iz b_in
  bias_hh_l0    (G·H,)      (768,)          768  b_hr b_hz b_hn
    D·G·H·(I + H + 2) = 2·3·256·(28 + 256 + 2) = 439,296
  layer 1, forward; the same again with _reverse
  weight_ih_l1  (G·H, D·H)  (768, 512)  393,216  W_ir W_iz W_in
  weight_hh_l1  (G·H, H)    (768, 256)  196,608  W_hr W_hz W_hn
  bias_ih_l1    (G·H,)      (768,)          768  b_ir b_iz b_in
  bias_hh_l1    (G·H,)      (768,)          768  b_hr b_hz b_hn
    D·G·H·(D·H + H + 2) = 2·3·256·(2·256 + 256 + 2) = 1,182,720
  Rows of each: 0:256 r, 256:512 z, 512:768 n.

How many parameters with which biases
  two a gate  as here       1,622,016  torch, cuDNN, Keras GRU
  one a gate  bias="input"  1,618,944  textbooks
  none        bias=False    1,615,872
  Of the two biases of r, z the sum alone counts, of n not.

In Keras: GRU(256) for layer 0
  kernel            (I, G·H)  (28, 768)    21,504
  recurrent_kernel  (H, G·H)  (256, 768)  196,608
  bias              (2, G·H)  (2, 768)      1,536
  Columns: 0:256 z, 256:512 r, 512:768 h; h is n here.
  One Keras layer for each layer and direction: 1,622,016 parameters.

On the way, in each layer and direction
  x.r x.z x.n  (T, B, H)  (35, 32, 256)  3 × 286,720  from x
  h.r h.z h.n  (T, B, H)  (35, 32, 256)  3 × 286,720  recurrent
  r z n        (T, B, H)  (35, 32, 256)  3 × 286,720
  h            (T, B, H)  (35, 32, 256)      286,720  new state
  x.r = W_ir x + b_ir, all steps at once; h.r = W_hr h + b_hr, step by step.
  Layer 0 reads x, I = 28; layer 1 reads both outputs below, D·H = 512.

Multiply-adds of the matrix products
  layer 0   D·G·H·(I + H)          436,224  a step, a sample
  layer 1   D·G·H·(D·H + H)      1,179,648  a step, a sample
  forward   T·B times all    1,809,776,640  the whole batch
  training  about 3 times    5,381,160,960  with backward
  besides   element-wise        12,615,680  operations

Memory
  parameters     6.2 MiB  gradients take as much again, Adam twice as much
  output         2.2 MiB
  for backward  24.1 MiB  kept, of each layer and direction:
    h, n, z, h.n, r; and between layers both outputs side by side
"""


def test_the_text_line_by_line_and_in_the_docs():
    text = str(shapes(cells.gru, 28, 256, num_layers=2, bidirectional=True))
    assert text.splitlines() == TEXT.splitlines()
    page = Path(__file__).parents[1] / "docs" / "shapes.md"
    assert f"```\n{TEXT}```\n" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("cell", [*CELLS, cells.lstm_projected, *CHANGED, uneven], ids=lambda c: c.name)
def test_the_text_has_80_columns_and_no_line_is_cut(cell):
    for layers, bidirectional, bias in itertools.product((1, 2, 6), (False, True), (True, "input", False)):
        p = 128 if cell.projects_output else 0
        seen = shapes(
            cell, 1024, 1024, num_layers=layers, bidirectional=bidirectional, bias=bias, proj_size=p, learn_state=True,
            batch=256, steps=1000, dtype=torch.bfloat16,
        )  # fmt: skip
        for line in str(seen).splitlines():
            assert len(line) <= 80, line
            assert line == line.rstrip()
        assert str(seen).count("\n") <= 80


def test_equal_layers_are_one_block():
    two, six = (str(shapes(cells.lstm, I, H, num_layers=n)) for n in (2, 6))
    assert "layer 1\n  weight_ih_l1  (G·H, H)" in two
    assert "layers k = 1 to 5\n  weight_ih_lk  (G·H, H)" in six
    assert len(six.splitlines()) == len(two.splitlines())


# --- arguments, and the command ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((cells.gru,), {}, TypeError, "give input_size and hidden_size"),
        ((nn.GRU(I, H), I, H), {}, TypeError, "GRU has its sizes and options already"),
        ((nn.GRU(I, H),), {"bias": False}, TypeError, "GRU has its sizes and options already"),
        ((nn.Linear(I, H),), {}, TypeError, "got Linear, expected a cell, or a layer"),
        ((gatewise.GRUCell(I, H),), {}, TypeError, "got GRUCell, expected a cell, or a layer"),
        ((cells.gru, I, H), {"steps": 0}, ValueError, "steps is 0, expected an integer of at least 1"),
        ((cells.gru, I, H), {"batch": 2.0}, ValueError, "batch is 2.0, expected an integer"),
        ((cells.gru, I, 0), {}, ValueError, "hidden_size is 0"),
        ((cells.gru, I, H), {"proj_size": 2}, ValueError, "gru has no .hr"),
    ],
)
def test_wrong_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        shapes(*arguments, **options)


def test_no_memory_is_taken_and_no_random_number_drawn():
    state = torch.get_rng_state()
    assert shapes(cells.gru, 28, 1_000_000).bytes > 10**13
    assert torch.equal(state, torch.get_rng_state())


def test_the_command_prints_the_text(run):
    arguments = "gru --input 28 --hidden 256 --layers 2 --bidirectional --batch 32 --steps 35"
    assert run("shapes", *arguments.split()) == (0, TEXT, "")
    options = "--layers 3 --hidden 9 --input 4 --batch 2 --steps 7 --no-bias --batch-first --dtype float64 --proj 5"
    expected = shapes(
        cells.lstm_projected, 4, 9, num_layers=3, bias=False, batch_first=True, dtype=torch.float64, proj_size=5,
        batch=2, steps=7,
    )  # fmt: skip
    for cell in ("lstm", "lstm_projected"):
        assert run("shapes", cell, *options.split()) == (0, f"{expected}\n", "")


def test_the_command_takes_a_cell_of_a_file(run, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    name = f"{tmp_path / 'own.py'}:light"
    code, out, err = run("shapes", "--cell", name)
    assert (code, err) == (0, "")
    assert out.startswith("light: 146,432 parameters")  # 2 * 256 * (28 + 256 + 2)
    assert run("shapes", name) == (code, out, err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "name one cell"),
        ("gru --cell lstm", "name one cell"),
        ("nope", "there is no cell 'nope'"),
        ("gru --input 0", "--input must be above 0; got 0"),
        ("gru --hidden -3", "--hidden must be above 0; got -3"),
        ("gru --layers 0", "--layers must be above 0; got 0"),
        ("gru --batch 0", "--batch must be above 0; got 0"),
        ("gru --steps 0", "--steps must be above 0; got 0"),
        ("gru --dtype int8", "--dtype is one of float64, float32, bfloat16, float16; got 'int8'"),
        ("gru --proj 4", "gru has no output projection, .hr: leave --proj out, or take lstm"),
        ("lstm_projected", "lstm_projected projects its output with .hr: give its size, --proj P"),
        ("lstm --proj 256", "--proj must be from 0 (none) to less than --hidden 256; got 256"),
    ],
)
def test_wrong_options_are_one_line(run, arguments, message):
    code, out, err = run("shapes", *arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("gatewise: ")
    assert err.count("\n") == 1
    assert message in err


def test_help_is_quick_and_colours_are_for_terminals():
    code = "import sys; from gatewise import cli\ntry: cli.main()\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, "shapes", "--help"], capture_output=True, text=True)
    assert "--bidirectional" in done.stdout
    assert "'gatewise'" in done.stdout
    assert "'torch'" not in done.stdout
