"""Cells that differ in names, and in z and 1 - z, are found to be one function, and no others are.

A correspondence is checked by what it is for: weights of one cell are loaded into a layer of the other, gate by gate,
by the names and signs of the comparison, and the outputs are compared.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import UNARY, assert_close, randomize, recipes
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT64, RANDOM_CELL
from torch import Tensor

import gatewise
from gatewise import Graph, cells
from gatewise.graph.proxy import Builder
from gatewise.inspect import Comparison, compare, matching
from gatewise.inspect.comparison import Match

BUILT_IN = {name: cell for name, cell in vars(cells).items() if isinstance(cell, Graph)}
CHANGED = {
    "gru_zoned": gatewise.zoneout(cells.gru, 0.3),
    "lstm_zoned": gatewise.zoneout(cells.lstm, {"h": 0.1, "c": 0.4}),
    "lstm_dropped": gatewise.recurrent_dropout(cells.lstm, 0.25),
    "gru_normalised": gatewise.layer_norm(cells.gru),
    "lstm_clipped": gatewise.clip_state_grad(cells.lstm, 1.0),
}


# --- the same cell with other names ----------------------------------------------------------------


def with_names(cell: Graph, names: Mapping[tuple[str, str], str], order: random.Random) -> Graph:
    """The cell in other names, its gates, vectors and states but the first in another order."""
    kinds = {"input": "gate", "project": "gate", "state": "state", "vector": "vector"}
    states = {state: names["state", state] for state in cell.states}
    labels = [(states.get(name) or f"value_{k}", i) for k, (name, i) in enumerate(cell.names)]
    later = cell.outputs[1:]
    outputs = [(states[s], i) for s, i in (cell.outputs[0], *order.sample(later, len(later)))]
    return replace(
        cell,
        name=f"{cell.name}_renamed",
        gates=tuple(order.sample([names["gate", gate] for gate in cell.gates], len(cell.gates))),
        states=tuple(state for state, _ in outputs),
        vectors=tuple(order.sample([names["vector", v] for v in cell.vectors], len(cell.vectors))),
        nodes=tuple(
            replace(n, key=names[kinds[n.op], n.key] if n.op in kinds else f"{n.key}_2" if n.key else "")
            for n in cell.nodes
        ),
        outputs=tuple(outputs),
        names=tuple(labels),
    )


def new_names(cell: Graph, order: random.Random, fresh: bool) -> dict[tuple[str, str], str]:
    """Other words, or the cell's own ones, exchanged among each other."""
    made = {}
    for kind, words in (("gate", cell.gates), ("state", cell.states), ("vector", cell.vectors)):
        others = [f"{kind[0].upper()}{k}" for k in range(len(words))] if fresh else list(words)
        made |= {(kind, word): other for word, other in zip(words, order.sample(others, len(others)), strict=True)}
    return made


def with_gates_turned(cell: Graph, gates: set[str]) -> Graph:
    """The cell that is written with 1 - σ(a) wherever the sum a of these gates was in a σ."""
    sums: dict[int, str] = {}
    for i, node in enumerate(cell.nodes):
        if node.op in ("input", "project"):
            sums[i] = node.key
        elif node.op == "add" and sums.keys() & set(node.args):
            sums[i] = next(sums[a] for a in node.args if a in sums)
    builder = Builder()
    proxies: list[Any] = []
    for node in cell.nodes:
        made = builder.add(node.op, [proxies[a] for a in node.args], node.key, dict(node.params))
        turn = node.op == "sigmoid" and sums.get(node.args[0]) in gates
        proxies.append(1 - made if turn else made)
    new = [(label, proxies[i]._index) for label, i in (*cell.outputs, *cell.names)]
    nodes, labels = builder.prune(new)
    n = len(cell.outputs)
    return replace(cell, name=f"{cell.name}_turned", nodes=nodes, outputs=labels[:n], names=labels[n:])


def sigmoids(cell: Graph) -> list[str]:
    """The gates whose sum, in a cell as it is built in, is all in one σ."""
    return [gate for gate in cell.gates if gate in "rzifo"]


# --- what the correspondence is for ---------------------------------------------------------------------


def layers_that_correspond(made: Comparison, seed: int = 0) -> tuple[gatewise.Recurrent, gatewise.Recurrent]:
    """A layer of a with random weights, and one of b with these weights, by the comparison's names and signs."""
    size = {"proj_size": 3} if made.a.projects_output else {}
    one, other = (gatewise.Recurrent(cell, 4, 5, dtype=torch.float64, **size) for cell in (made.a, made.b))
    randomize(one, seed)
    theirs = dict(other.named_parameters())
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            kind, side = name.removesuffix("_l0").partition("_")[::2]
            if name == "weight_hr_l0":
                theirs[name].copy_(parameter)
            elif kind in ("weight", "bias") and side in ("ih", "hh"):
                of = "input_gates" if side == "ih" else "hidden_gates"
                for k, gate in enumerate(getattr(made.a, of)):
                    at = getattr(made.b, of).index(made.gates[gate])
                    sign = -1 if gate in made.negated else 1
                    theirs[name][at * 5 : at * 5 + 5] = sign * parameter[k * 5 : k * 5 + 5]
            else:
                vector = name.removesuffix("_l0")
                sign = -1 if vector in made.negated_vectors else 1
                theirs[f"{made.vectors[vector]}_l0"].copy_(sign * parameter)
    return one, other


def assert_corresponds(made: Comparison, tolerance: float = FLOAT64) -> None:
    one, other = layers_that_correspond(made)
    one.eval(), other.eval()
    x = torch.randn(6, 2, 4, dtype=torch.float64)
    first = [torch.randn(shape, dtype=torch.float64) for shape in one.state_shapes(2)]
    begin = dict(zip(made.a.states, first, strict=True))
    of_b = {theirs: begin[ours] for ours, theirs in made.states.items()}

    def states(cell: Graph, values: Mapping[str, Tensor]) -> Any:
        listed = tuple(values[state] for state in cell.states)
        return listed if len(listed) > 1 else listed[0]

    output, last = one(x, states(made.a, begin))
    their_output, their_last = other(x, states(made.b, of_b))
    assert_close(their_output, output, tolerance)
    ours = dict(zip(made.a.states, last if isinstance(last, tuple) else (last,), strict=True))
    theirs = dict(zip(made.b.states, their_last if isinstance(their_last, tuple) else (their_last,), strict=True))
    for state, value in ours.items():
        assert_close(theirs[made.states[state]], value, tolerance, state)


def assert_readable(made: Comparison) -> None:
    """Every equation of both cells is a row, and the verdict is one or two lines."""
    for cell in (made.a, made.b):
        shown = [equation for whose, equation, _ in made.rows if whose == cell.name or whose == "both"]
        assert sorted(shown) == sorted(line.text for line in gatewise.inspect.lines(cell))
    assert str(made).endswith(made.verdict)
    assert made.verdict.count("\n") <= 1


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("fresh", [True, False], ids=["other words", "exchanged"])
@pytest.mark.parametrize("name", [*BUILT_IN, *CHANGED])
def test_a_renamed_cell_is_found(name: str, fresh: bool, seed: int) -> None:
    cell, order = {**BUILT_IN, **CHANGED}[name], random.Random(seed)
    names = new_names(cell, order, fresh)
    other = with_names(cell, names, order)
    for made in (compare(cell, other), compare(other, cell)):
        assert made.same is True
        assert made.negated == made.negated_vectors == ()
        assert set(made.gates) == set(made.a.gates)
        assert set(made.gates.values()) == set(made.b.gates)
        assert made.states[made.a.states[0]] == made.b.states[0]
        assert_corresponds(made)
        assert_readable(made)
        assert "training" not in made.verdict
        assert "clipped" not in made.verdict
        if fresh:  # else bias_x_z and bias_h_z, which are added, may be found to be each other
            assert not any(spans for _, _, spans in made.rows)  # nothing but names differs


@pytest.mark.parametrize("name", BUILT_IN)
def test_which_is_which_is_said(name: str) -> None:
    cell, order = BUILT_IN[name], random.Random(1)
    names = new_names(cell, order, fresh=True)
    made = compare(cell, with_names(cell, names, order))
    assert made.gates == {gate: names["gate", gate] for gate in cell.gates}
    assert made.states == {state: names["state", state] for state in cell.states}
    assert made.vectors == {vector: names["vector", vector] for vector in cell.vectors}
    for (kind, word), other in names.items():
        assert f"{kind} {word} is {other}" in made.verdict


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("renamed", [True, False])
@pytest.mark.parametrize("name", [name for name in BUILT_IN if sigmoids(BUILT_IN[name])])
def test_gates_that_are_1_minus_the_other_are_found(name: str, renamed: bool, seed: int) -> None:
    cell, order = BUILT_IN[name], random.Random(seed)
    turned = set(order.sample(sigmoids(cell), 1 + seed % len(sigmoids(cell))))
    other = with_gates_turned(cell, turned)
    names = {("gate", g): g for g in cell.gates} | {("state", s): s for s in cell.states}
    names |= {("vector", v): v for v in cell.vectors}
    if renamed:
        names = new_names(cell, order, fresh=bool(seed % 2))
        other = with_names(other, names, order)
    for made in (compare(cell, other), compare(other, cell)):
        assert made.same is False
        ours = turned if made.a is cell else {names["gate", gate] for gate in turned}
        assert set(made.negated) == ours
        assert_corresponds(made)
        assert_readable(made)
        assert "negate the weights and biases of gate" in made.verdict
        assert all(gate in made.verdict for gate in ours)


def test_a_peephole_is_negated_with_its_gate() -> None:
    made = compare(cells.lstm_peephole, with_gates_turned(cells.lstm_peephole, {"i", "f"}))
    assert (made.negated, made.negated_vectors) == (("i", "f"), ("p_i", "p_f"))
    assert made.verdict.endswith(
        "The same function if i is replaced by 1 - i and f by 1 - f: "
        "negate the weights and biases of gates i and f, and the vectors p_i and p_f."
    )


# --- as the textbooks write them ---------------------------------------------------------------------------


@gatewise.cell(gates="R Z H", name="mine")
def textbook(X, H):
    Z = torch.sigmoid(X.Z + H.Z)
    R = torch.sigmoid(X.R + H.R)
    H_tilda = torch.tanh(X.H + (R * H).H)
    H = Z * H + (1 - Z) * H_tilda
    return H


def test_the_textbooks_letters() -> None:
    made = compare(textbook, cells.gru_reset_before)
    assert made.same is True
    assert str(made) == (
        "mine              R_t = σ(W_iR x_t + b_iR + W_hR H_{t-1} + b_hR)\n"
        "gru_reset_before  r_t = σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)\n"
        "mine              Z_t = σ(W_iZ x_t + b_iZ + W_hZ H_{t-1} + b_hZ)\n"
        "gru_reset_before  z_t = σ(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)\n"
        "mine              H_tilda_t = tanh(W_iH x_t + b_iH + W_hH (R_t ⊙ H_{t-1}) + b_hH)\n"
        "gru_reset_before  n_t = tanh(W_in x_t + b_in + W_hn (r_t ⊙ h_{t-1}) + b_hn)\n"
        "mine              H_t = Z_t ⊙ H_{t-1} + (1 - Z_t) ⊙ H_tilda_t\n"
        "                        ~~~~~~~~~~~~~~~\n"
        "gru_reset_before  h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}\n"
        "                                        ~~~~~~~~~~~~~~~\n"
        "\n"
        "The same function to rounding, with other names: gate R is r, gate Z is z, gate H is n, state H is h; "
        "after 5 steps with the same random weights the states are equal."
    )


def test_exchanged_roles() -> None:
    @gatewise.cell(gates="r z n")
    def exchanged(x, h):
        z = torch.sigmoid(x.z + h.z)
        r = torch.sigmoid(x.r + h.r)
        n = torch.tanh(x.n + z * h.n)
        return (1 - r) * n + r * h

    made = compare(exchanged, cells.gru)
    assert made.same is True
    assert made.gates == {"r": "z", "z": "r", "n": "n"}
    assert "with other names: gates r and z are exchanged; after" in made.verdict


def test_other_names_and_1_minus_z() -> None:
    @gatewise.cell(gates="Z R H")
    def chung(X, H):
        Z = torch.sigmoid(X.Z + H.Z)
        R = torch.sigmoid(X.R + H.R)
        H_tilde = torch.tanh(X.H + R * H.H)
        return (1 - Z) * H + Z * H_tilde

    made = compare(chung, cells.gru)
    assert made.verdict.endswith(
        "\nThe same function with other names, gate Z is 1 - z, gate R is r, gate H is n, state H is h: "
        "negate the weights and biases of gate Z."
    )


def test_written_otherwise_as_well() -> None:
    @gatewise.cell(gates="C U E")
    def rewritten(x, s):
        reset = torch.sigmoid(s.E + x.E)
        update = 1 / (1 + torch.exp(-x.U - s.U))
        candidate = torch.tanh(reset * s.C + x.C)
        return candidate + update * (s - candidate)

    made = compare(rewritten, cells.gru)
    assert made.same is True
    assert made.gates == {"C": "n", "U": "z", "E": "r"}
    rows = [equation.partition(" = ")[0] for _, equation, _ in made.rows]
    assert rows == ["reset_t", "r_t", "update_t", "z_t", "candidate_t", "n_t", "s_t", "h_t"]


def test_local_names_alone() -> None:
    @gatewise.cell(gates="r z n")
    def locals_alone(x, h):
        reset = torch.sigmoid(x.r + h.r)
        update = torch.sigmoid(x.z + h.z)
        new = torch.tanh(x.n + reset * h.n)
        return (1 - update) * new + update * h

    made = compare(locals_alone, cells.gru)
    assert made.verdict.startswith("The same function to rounding: after 5 steps")
    assert [spans for _, _, spans in made.rows] == [[]] * 8


def test_the_state_that_is_given_out_stays_first() -> None:
    @gatewise.cell(gates="i f g o")
    def cell_out(x, c, h):
        c = torch.sigmoid(x.f + h.f) * c + torch.sigmoid(x.i + h.i) * torch.tanh(x.g + h.g)
        return c, torch.sigmoid(x.o + h.o) * torch.tanh(c)

    assert compare(cell_out, cells.lstm).same is False


@pytest.mark.parametrize("product", [False, True])
def test_gates_of_one_role_are_found_in_some_order(product: bool) -> None:
    def body(gates: list[tuple[Any, Any]]) -> Any:
        sums = [torch.tanh(a + b) for a, b in gates]
        total = sums[0]
        for term in sums[1:]:
            total = total * term if product else total + term
        return torch.tanh(total)

    one = gatewise.cell(gates="a b c")(lambda x, h: body([(x.a, h.a), (x.b, h.b), (x.c, h.c)]))
    other = gatewise.cell(gates="p q s", name="other")(lambda x, h: body([(x.q, h.q), (x.s, h.s), (x.p, h.p)]))
    made = compare(one, other)
    assert made.same is True
    assert sorted(made.gates.values()) == ["p", "q", "s"]
    assert_corresponds(made)


# --- different functions are never called the same ---------------------------------------------------------


@gatewise.cell(gates="i f g o")
def lstm_with_halves_exchanged(x, h, c):
    i = torch.sigmoid(x.i + h.f)
    f = torch.sigmoid(x.f + h.i)
    g = torch.tanh(x.g + h.g)
    c = f * c + i * g
    return torch.sigmoid(x.o + h.o) * torch.tanh(c), c


@gatewise.cell(gates="i f g o")
def lstm_with_one_i_for_f(x, h, c):
    i = torch.sigmoid(x.i + h.i)
    f = torch.sigmoid(x.f + h.f)
    g = torch.tanh(x.g + h.g)
    c = f * c + i * g
    return torch.sigmoid(x.o + h.o) * torch.tanh(c) + 0.01 * f, c


@gatewise.cell(gates="i f g o")
def lstm_with_f_alone(x, h, c):
    f = torch.sigmoid(x.f + h.f)
    c = f * c + torch.sigmoid(x.i) * torch.tanh(x.g + h.g) + 0 * h.i
    return torch.sigmoid(x.o + h.o) * torch.tanh(c), c


def scaled(factor: float) -> Graph:
    @gatewise.cell(gates="r z n")
    def scaled_gru(x, h):
        r = torch.sigmoid(x.r + h.r)
        z = torch.sigmoid(x.z + h.z)
        n = torch.tanh(x.n + r * (factor * h.n))
        return (1 - z) * n + z * h

    return scaled_gru


DIFFERENT = {
    "where r acts": (cells.gru, cells.gru_reset_before),
    "peepholes": (cells.lstm, cells.lstm_peephole),
    "projected": (cells.lstm, cells.lstm_projected),
    "the halves of i and f": (cells.lstm, lstm_with_halves_exchanged),
    "a term more": (cells.lstm, lstm_with_one_i_for_f),
    "a term less": (cells.lstm, lstm_with_f_alone),
    "a factor": (cells.gru, scaled(0.999)),
    "a factor near 1": (cells.gru, scaled(1 - 1e-6)),
    "a factor next to 1": (cells.gru, scaled(1 - 3e-8)),
    "tanh and relu": (cells.rnn, cells.rnn_relu),
    "another rate": (gatewise.zoneout(cells.lstm, {"h": 0.1, "c": 0.4}), gatewise.zoneout(cells.lstm, 0.1)),
    "rates exchanged": (
        gatewise.zoneout(cells.lstm, {"h": 0.1, "c": 0.4}), gatewise.zoneout(cells.lstm, {"h": 0.4, "c": 0.1}),
    ),
    "normalised together": (gatewise.layer_norm(cells.gru), gatewise.layer_norm(with_gates_turned(cells.gru, {"z"}))),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("pair", DIFFERENT)
def test_different_functions_are_never_the_same(pair: str, seed: int) -> None:
    one, other = DIFFERENT[pair]
    order = random.Random(seed)
    renamed = with_names(other, new_names(other, order, fresh=bool(seed)), order)
    for made in (compare(one, other), compare(one, renamed), compare(renamed, one)):
        assert made.same is not True
        assert made.negated == ()
        assert "The same function" not in made.verdict
        assert_readable(made)


def test_different_functions_are_shown_beside_each_other() -> None:
    made = compare(textbook, cells.gru)
    assert made.gates == {"R": "r", "Z": "z", "H": "n"}
    assert made.verdict.startswith(
        "Not the same function under any names: with gate R as r, gate Z as z, gate H as n, state H as h, after 5 steps"
    )
    marked = [equation for _, equation, spans in made.rows if spans]
    assert [equation.partition(" = ")[0] for equation in marked] == ["H_tilda_t", "n_t", "H_t", "h_t"]


# --- random cells -------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(recipe=recipes, seed=st.integers(0, 99), fresh=st.booleans())
def test_random_cells_are_found(recipe: Any, seed: int, fresh: bool) -> None:
    cell, order = recipe.cell(), random.Random(seed)
    made = compare(cell, with_names(cell, new_names(cell, order, fresh), order))
    assert made.same is True
    assert_corresponds(made, RANDOM_CELL)
    assert_readable(made)


# --- time -------------------------------------------------------------------------------------------------------


def large(turned: bool, last: Callable[[Any], Any]) -> Graph:
    """8 gates, of which four are in the same place of four states, which are alike too."""

    @gatewise.cell(gates="a b c d e f g o")
    def wide(x, h, p, q, s):
        gates = [torch.sigmoid(u + v) for u, v in ((x.a, h.a), (x.b, h.b), (x.c, h.c), (x.d, h.d))]
        new = [torch.tanh(u + v) for u, v in ((x.e, h.e), (x.f, h.f), (x.g, h.g))]
        gates = [1 - gate for gate in gates] if turned else gates
        p, q, s = (k * old + (1 - k) * n for k, old, n in zip(gates, (p, q, s), new, strict=False))
        return gates[3] * torch.tanh(p + q + s) + last(torch.sigmoid(x.o + h.o)) * h, p, q, s

    return wide


@pytest.mark.parametrize(
    ("turned", "last", "same", "negated"),
    [
        (False, lambda a: a, True, 0),
        (True, lambda a: a, False, 4),
        (False, lambda a: 0.999 * a, False, 0),
        (True, UNARY["tanh"], False, 0),
    ],
    ids=["renamed", "turned", "factor", "tanh"],
)
def test_eight_gates_and_four_states_take_about_a_second(
    turned: bool, last: Callable[[Any], Any], same: bool, negated: int
) -> None:
    order = random.Random(5)
    other = large(turned, last)
    other = with_names(other, new_names(other, order, fresh=True), order)
    began = time.process_time()
    made = compare(large(False, lambda a: a), other)
    assert time.process_time() - began < 4  # about 1 on one core
    assert made.same is same
    assert len(made.negated) == negated
    if same or negated:
        assert_corresponds(made)


@pytest.mark.parametrize(("factor", "negated"), [(1.0, 0), (-1.0, 1), (0.999, 0)])
def test_gates_of_one_product(factor: float, negated: int) -> None:
    """Where one is zero nothing is seen of the others, so that all signs have to be summed over."""

    def product(factor: float) -> Graph:
        def body(x: Any, h: Any) -> Any:
            value = factor * torch.tanh(x.a + h.a)
            for gate in "bcdefgo":
                value = value * (2 * torch.tanh(getattr(x, gate) + getattr(h, gate)))
            return torch.tanh(value)

        return gatewise.cell(gates="a b c d e f g o", name="product")(lambda x, h: body(x, h))

    order = random.Random(2)
    other = product(factor)
    other = with_names(other, new_names(other, order, fresh=True), order)
    made = compare(product(1.0), other)
    assert made.same is (factor == 1.0)
    assert len(made.negated) == negated
    if abs(factor) == 1:
        assert_corresponds(made)


def test_a_search_that_is_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "TRIES", 1)
    order = random.Random(0)
    made = compare(cells.lstm, with_names(cells.lstm, new_names(cells.lstm, order, fresh=True), order))
    assert made.same is None
    assert "not known: too many of their names look alike" in made.verdict


def test_tensors_are_made_on_the_cpu_whatever_the_default_is() -> None:
    with torch.device("meta"), torch.inference_mode():
        assert compare(textbook, cells.gru_reset_before).same is True
    assert compare(cells.gru_reset_before, textbook).same is True


def test_a_match_is_of_every_name() -> None:
    match = matching.by_order(cells.lstm_peephole, cells.lstm_peephole)
    assert isinstance(match, Match)
    assert len(match.names) == 4 + 2 + 3
