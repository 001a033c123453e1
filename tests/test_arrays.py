"""Arrays of any toolkit: against one computation of that toolkit's own, gate by gate, in numpy; and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, randomize
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT32, FLOAT64
from torch import nn
from torch.utils._pytree import tree_leaves

import gatewise
from gatewise import cells
from gatewise.convert import both_directions, from_arrays, stacked, to_arrays
from gatewise.convert.arrays import one_bias_is_enough, tensor
from gatewise.convert.layout import Layout
from gatewise.errors import InputError

DOUBLE = torch.float64
Matrices = list[np.ndarray]


@gatewise.cell(gates="a b d")
def one_sided(x, h):
    """a has both sides, b only x's, d only the state's."""
    a = torch.sigmoid(x.a + h.a)
    b = torch.sigmoid(x.b)
    return a * h + (1 - a) * b * torch.tanh((b * h).d)


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


# One step of each cell, from what the gates' sides give; `one` is 1 - σ or σ, as a toolkit has it.
def _rnn(x, h, one, _, s):
    return (np.tanh(x["n"] + h["n"](s[0])),)


def _gru(x, h, one, _, s):
    r, z = (one[g](x[g] + h[g](s[0])) for g in "rz")
    return (z * s[0] + (1 - z) * np.tanh(x["n"] + r * h["n"](s[0])),)


def _gru_before(x, h, one, _, s):
    r, z = (one[g](x[g] + h[g](s[0])) for g in "rz")
    return (z * s[0] + (1 - z) * np.tanh(x["n"] + h["n"](r * s[0])),)


def _lstm(x, h, one, _, s):
    i, f, o = (one[g](x[g] + h[g](s[0])) for g in "ifo")
    c = f * s[1] + i * np.tanh(x["g"] + h["g"](s[0]))
    return o * np.tanh(c), c


def _projected(x, h, one, given, s):
    hidden, c = _lstm(x, h, one, given, s)
    return hidden @ given["output"].T, c


def _peephole(x, h, one, p, s):
    i, f = (sigmoid(x[g] + h[g](s[0]) + p[f"p_{g}"] * s[1]) for g in "if")
    c = f * s[1] + i * np.tanh(x["g"] + h["g"](s[0]))
    return sigmoid(x["o"] + h["o"](s[0]) + p["p_o"] * c) * np.tanh(c), c


def _one_sided(x, h, one, _, s):
    a, b = one["a"](x["a"] + h["a"](s[0])), one["b"](x["b"])
    return (a * s[0] + (1 - a) * b * np.tanh(h["d"](b * s[0])),)


STEPS = {
    cells.rnn: (_rnn, ""),
    cells.gru: (_gru, "rz"),
    cells.gru_reset_before: (_gru_before, "rz"),
    cells.lstm: (_lstm, "ifo"),
    cells.lstm_projected: (_projected, "ifo"),
    cells.lstm_peephole: (_peephole, ""),
    one_sided: (_one_sided, "ab"),
}

# How matrices (H, I) are put together, and biases (H,).
STACK: dict[str, tuple[Callable[[Matrices], np.ndarray], Callable[[Matrices], np.ndarray]]] = {
    "(g h) i": (np.concatenate, np.concatenate),
    "i (g h)": (lambda m: np.concatenate([a.T for a in m], 1), np.concatenate),
    "(h g) i": (lambda m: np.stack(m, 1).reshape(-1, m[0].shape[1]), lambda b: np.stack(b, 1).reshape(-1)),
    "i (h g)": (lambda m: np.stack([a.T for a in m], 2).reshape(m[0].shape[1], -1), lambda b: np.stack(b, 1).ravel()),
    "g h i": (np.stack, np.stack),
    "g i h": (lambda m: np.stack([a.T for a in m]), np.stack),
    "h g i": (lambda m: np.stack(m, 1), lambda b: np.stack(b, 1)),
    "i h g": (lambda m: np.stack([a.T for a in m], 2), lambda b: np.stack(b, 1)),
    "h i g": (lambda m: np.stack(m, 2), lambda b: np.stack(b, 1)),
}
FORMS = ["none", "one", "flat", "two", "pair", "by gate", "pair by gate", "x alone", "h alone", "lists"]


@st.composite
def conventions(draw: st.DrawFn) -> dict[str, Any]:
    cell = draw(st.sampled_from(list(STEPS)))
    return {
        "cell": cell,
        "order": draw(st.permutations(cell.gates)),
        "layout": draw(st.sampled_from([*STACK, "by gate"])),
        "form": draw(st.sampled_from(FORMS)),
        "flipped": draw(st.sets(st.sampled_from(STEPS[cell][1]))) if STEPS[cell][1] else set(),
        "added": draw(st.dictionaries(st.sampled_from(cell.gates), st.floats(-1, 1), max_size=2)),
        "scale": draw(st.sampled_from([1.0, 0.25, -0.1])),
        "sizes": (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        "seed": draw(st.integers(0, 99)),
    }


@settings(max_examples=250, deadline=None)
@given(conventions())
def test_a_layer_computes_what_the_arrays_say(c: dict[str, Any]) -> None:
    cell, order, form, (inputs, size) = c["cell"], c["order"], c["form"], c["sizes"]
    size += 2 * cell.projects_output  # which must project to less
    random = np.random.default_rng(c["seed"])
    sides = [[g for g in order if g in side] for side in (cell.input_gates, cell.hidden_gates)]
    out = 2 if cell.projects_output else size
    stored = [{g: random.normal(size=(size, n)) for g in side} for side, n in zip(sides, (inputs, out), strict=True)]
    biases = [{g: random.normal(size=size) for g in side} for side in sides]
    if form in ("one", "by gate"):
        biases[1] = {g: b for g, b in biases[1].items() if g not in sides[0]}
    if form in ("none", "x alone"):
        biases[1] = {}
    if form in ("none", "h alone"):
        biases[0] = {}
    extra = {name: random.normal(size=size) for name in cell.vectors}
    extra |= {"output": random.normal(size=(2, size))} if cell.projects_output else {}

    # What the toolkit computes.
    scale, zero = c["scale"], np.zeros(size)
    beside = [{g: b.get(g, zero) * scale for g in side} for b, side in zip(biases, sides, strict=True)]
    for gate, number in c["added"].items():
        where = beside[0] if gate in beside[0] else beside[1]
        where[gate] = where[gate] + number
    opens = {g: (lambda a: 1 - sigmoid(a)) if g in c["flipped"] else sigmoid for g in cell.gates}
    states = [np.zeros((3, out)), np.zeros((3, size))][: len(cell.states)]
    x, wanted = random.normal(size=(4, 3, inputs)), []
    h = {g: lambda a, w=w, b=beside[1][g]: a @ (w.T * scale) + b for g, w in stored[1].items()}
    for x_t in x:
        read = {g: x_t @ w.T * scale + beside[0][g] for g, w in stored[0].items()}
        states = STEPS[cell][0](read, h, opens, extra, states)
        wanted.append(states[0])

    # What the layer computes that is made of the toolkit's arrays.
    matrices, layout = stored, "h i"
    if c["layout"] != "by gate":
        layout, (stack, stack_bias) = c["layout"], STACK[c["layout"]]
        matrices = [stack([part[g] for g in side]) for part, side in zip(stored, sides, strict=True)]
    else:
        stack_bias = np.concatenate
    halves = [stack_bias([b[g] for g in s]) if set(b) == set(s) else None for b, s in zip(biases, sides, strict=True)]
    alike = len(sides[0]) == len(sides[1])
    every = {**biases[1], **biases[0]}
    given = {
        "none": lambda: None,
        "one": lambda: stack_bias([every[g] for g in order]),
        "flat": lambda: np.concatenate([half.ravel() for half in halves]),
        "two": lambda: np.stack(halves) if alike else tuple(halves),
        "pair": lambda: tuple(halves),
        "by gate": lambda: every,
        "pair by gate": lambda: biases,
        "x alone": lambda: (halves[0], None),
        "h alone": lambda: [None, halves[1]],
        "lists": lambda: [half.ravel().tolist() for half in halves],
    }[form]()
    how = {"gates": " ".join(order), "complement": " ".join(c["flipped"]), "scale": scale, "add": c["added"]}
    vectors = {name: extra[name] for name in cell.vectors}
    layer = from_arrays(
        cell, input=matrices[0], recurrent=matrices[1], bias=given, layout=layout, output=extra.get("output"),
        vectors=vectors, **how,
    )  # fmt: skip
    assert layer.bias == (form != "none" or bool(c["added"]))
    output, after = layer(torch.tensor(x))
    after = after if isinstance(after, tuple) else (after,)
    assert_close(output, torch.tensor(np.stack(wanted)), FLOAT64, "output")
    for one, other in zip(after, states, strict=True):
        assert_close(one[0], torch.tensor(other), FLOAT64, "state")

    # And back.
    if c["layout"] == "by gate":
        return
    back = to_arrays(layer, layout=layout, **how)
    assert_close(back.input, torch.tensor(matrices[0]), FLOAT64, "input")
    assert_close(back.recurrent, torch.tensor(matrices[1]), FLOAT64, "recurrent")
    for side, half in enumerate(halves):
        if half is not None and form not in ("one", "by gate"):
            assert_close(back.bias[side], torch.tensor(half), FLOAT64, "bias")
    if form in ("one", "by gate"):
        single = to_arrays(layer, layout=layout, biases=1, **how).bias
        assert_close(single, torch.tensor(stack_bias([every[g] for g in order])), FLOAT64, "one bias")
    for name, vector in vectors.items():
        assert torch.equal(back.vectors[name], torch.tensor(vector))
    again = from_arrays(
        cell, input=back.input, recurrent=back.recurrent, bias=back.bias, layout=layout, output=back.output,
        vectors=back.vectors, **how,
    )  # fmt: skip
    assert_close(again(torch.tensor(x))[0], output, FLOAT64, "again")


@gatewise.cell(gates="a b d")
def not_just_added(x, h, u):
    """Of no gate is x.g + h.g all that is made."""
    new = torch.tanh(x.a * h.a) + torch.sigmoid(x.b - h.b) + torch.tanh(x.d + h.d)
    return new, x.d


@pytest.mark.parametrize("cell", [*STEPS, not_just_added], ids=lambda c: c.name)
def test_one_bias_is_enough_where_the_sum_computes_the_same(cell: gatewise.Graph) -> None:
    enough = one_bias_is_enough(cell)
    two = set(cell.input_gates) & set(cell.hidden_gates)
    options = {"proj_size": 2} if cell.projects_output else {}
    layer = randomize(gatewise.Recurrent(cell, 2, 3, dtype=DOUBLE, **options))
    x = torch.randn(5, 2, 2, dtype=DOUBLE)
    for gate in cell.gates:
        arrays = to_arrays(layer)
        sides = [dict(zip(g, arrays.bias[k].split(3), strict=True)) for k, g in enumerate((cell.input_gates, cell.hidden_gates))]  # noqa: E501  # fmt: skip
        if gate in two:
            sides[0][gate], sides[1][gate] = sides[0][gate] + sides[1][gate], torch.zeros(3, dtype=DOUBLE)
        moved = from_arrays(cell, input=arrays.input, recurrent=arrays.recurrent, bias=sides, output=arrays.output, vectors=arrays.vectors)  # noqa: E501  # fmt: skip
        pairs = zip(tree_leaves(moved(x)), tree_leaves(layer(x)), strict=True)
        assert all(torch.allclose(a, b, atol=1e-12, rtol=0) for a, b in pairs) == (gate in enough), gate


def test_one_bias_of_a_gru_that_has_two_is_refused_and_not_lost() -> None:
    layer = randomize(gatewise.GRU(2, 3))
    with pytest.raises(InputError, match="gate n of gru has two biases that cannot be added into one"):
        to_arrays(layer, biases=1)
    with torch.no_grad():
        layer.bias_hh_l0[6:] = 0
    assert_close(to_arrays(layer, biases=1).bias, layer.bias_ih_l0 + layer.bias_hh_l0, FLOAT32)
    before = randomize(gatewise.GRU(2, 3, reset_after=False))
    assert_close(to_arrays(before, biases=1).bias, before.bias_ih_l0 + before.bias_hh_l0, FLOAT32)


@pytest.mark.parametrize("make", [nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_layers_and_cells_of_torch_nn(make: Any) -> None:
    theirs = randomize(make(3, 4))
    arrays = to_arrays(theirs, layout="i (g h)", gates=None)
    cell = gatewise.convert.arrays.ours(theirs).cell
    layer = from_arrays(cell, input=arrays.input, recurrent=arrays.recurrent, bias=arrays.bias, layout="i (g h)")
    assert type(theirs) is make  # it was not changed
    assert type(layer).__name__ == make.__name__.removesuffix("Cell")
    x = torch.randn(1, 2, 3)
    output, _ = layer(x)
    wanted = theirs(x[0]) if make.__name__.endswith("Cell") else theirs(x)[0]
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    assert_close(output.reshape(2, 4), wanted.reshape(2, 4), FLOAT32)


def test_parametrized_layers_of_torch_nn_give_the_weights_that_they_compute_with() -> None:
    theirs = nn.utils.parametrizations.weight_norm(randomize(nn.GRU(3, 4)), "weight_hh_l0")
    with torch.no_grad():
        theirs.parametrizations.weight_hh_l0.original0.mul_(3)
    arrays = to_arrays(theirs)
    layer = from_arrays(cells.gru, input=arrays.input, recurrent=arrays.recurrent, bias=arrays.bias)
    x = torch.randn(5, 2, 3)
    assert_close(layer(x)[0], theirs(x)[0], FLOAT32)


def test_layers_and_directions_apart_and_together_again() -> None:
    whole = randomize(gatewise.LSTM(3, 4, 2, bidirectional=True, proj_size=2, dtype=DOUBLE))
    parts = []
    for k in (0, 1):
        one, two = (to_arrays(whole, k=k, reverse=r, gates="o g f i", layout="i g h") for r in (False, True))
        parts.append(from_arrays(cells.lstm_projected, gates="o g f i", layout="i g h", **vars(one), reverse=vars(two)))
    x = torch.randn(5, 2, 3, dtype=DOUBLE)
    made = stacked(parts)
    assert type(made) is gatewise.LSTM
    for a, b in zip((made(x)[0], *made(x)[1]), (whole(x)[0], *whole(x)[1]), strict=True):
        assert_close(a, b, FLOAT64)
    assert stacked([whole]).state_dict().keys() == whole.state_dict().keys()
    assert made.weight_ih_l0.data_ptr() != parts[0].weight_ih_l0.data_ptr()


def test_directions_of_which_one_has_a_bias() -> None:
    one, two = randomize(gatewise.GRU(3, 4)), randomize(gatewise.GRU(3, 4, bias=False), 1)
    x = torch.randn(5, 2, 3)
    made = both_directions(one, two)
    assert_close(made(x)[0], torch.cat([one(x)[0], two(x.flip(0))[0].flip(0)], -1), FLOAT32)


def test_a_layer_with_one_bias_for_each_gate() -> None:
    layer = randomize(gatewise.Recurrent(one_sided, 2, 3, bias="input", dtype=DOUBLE))
    arrays = to_arrays(layer, biases=1)
    assert arrays.bias.shape == (9,)
    made = from_arrays(one_sided, input=arrays.input, recurrent=arrays.recurrent, bias=arrays.bias)
    x = torch.randn(5, 2, 2, dtype=DOUBLE)
    assert_close(made(x)[0], layer(x)[0], FLOAT64)
    pair = to_arrays(stacked([layer])).bias
    assert [tuple(half.shape) for half in pair] == [(6,), (6,)] or pair.shape == (2, 6)


def test_flat_arrays_of_c() -> None:
    layer = randomize(gatewise.LSTM(2, 3, proj_size=2))
    flat = {name: a.reshape(-1).tolist() for name, a in vars(to_arrays(layer, layout="i (h g)")).items() if name in ("input", "recurrent", "bias")}  # noqa: E501  # fmt: skip
    made = from_arrays(
        cells.lstm_projected, **flat, layout="i (h g)", output=layer.weight_hr_l0, input_size=2, hidden_size=3
    )
    assert all(map(torch.equal, made.parameters(), layer.parameters()))


# --- numbers ------------------------------------------------------------------------------------------------


def test_numbers_of_every_kind() -> None:
    plain = np.arange(6, dtype=np.float32).reshape(2, 3) / 8
    frozen = plain.copy()
    frozen.setflags(write=False)
    for value in (
        plain, plain.astype(">f4"), plain.T.copy().T, plain[::-1][::-1], frozen, plain.tolist(), list(plain),
        torch.tensor(plain).t().contiguous().t(), nn.Parameter(torch.tensor(plain)), tuple(map(tuple, plain.tolist())),
    ):  # fmt: skip
        made = tensor(value, "it")
        assert_close(made, torch.tensor(plain), 0.0)
        made.zero_()  # a copy
        assert np.array_equal(plain, np.arange(6, dtype=np.float32).reshape(2, 3) / 8)
    kinds = {np.float16: torch.float16, np.float64: torch.float64, np.int8: torch.float32, np.uint16: torch.float32}
    for kind, made in kinds.items():
        assert tensor(np.ones(2, kind), "it").dtype == made
    assert tensor(torch.ones(2, dtype=torch.bfloat16), "it").dtype == torch.bfloat16
    assert tensor(torch.ones(2, dtype=torch.int16), "it").dtype == torch.float32


def test_arrays_of_jax() -> None:
    jnp = pytest.importorskip("jax.numpy")
    assert torch.equal(tensor(jnp.arange(3.0), "it"), torch.arange(3.0))
    half = tensor(jnp.asarray([1.5, -2.25], dtype=jnp.bfloat16), "it")
    assert torch.equal(half, torch.tensor([1.5, -2.25], dtype=torch.bfloat16))


def test_integers_with_a_scale_are_rounded_once() -> None:
    random = np.random.default_rng(0)
    stored = [random.integers(-127, 128, shape, dtype=np.int8) for shape in ((8, 3), (8, 2), 8)]
    layer = from_arrays(cells.lstm, input=stored[0], recurrent=stored[1], bias=stored[2], scale=1 / 127)
    for made, ints in zip((layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0), stored, strict=True):
        assert torch.equal(made, torch.tensor(ints * np.float64(1 / 127)).float())


def test_the_widest_dtype_is_kept() -> None:
    single, double = np.ones((2, 3), np.float32), np.full((2, 2), 1 / 3)
    layer = from_arrays(cells.rnn, input=single, recurrent=double)
    assert layer.weight_ih_l0.dtype == DOUBLE
    assert torch.equal(layer.weight_hh_l0, torch.tensor(double))
    assert from_arrays(cells.rnn, input=single, recurrent=double.tolist()).weight_hh_l0.dtype == torch.float32


# --- refusals ----------------------------------------------------------------------------------------------------

W, U, B = np.ones((6, 2)), np.ones((6, 3)), np.ones(6)


@gatewise.cell(gates="a b")
def pair(x, h):
    a = torch.sigmoid(x.a + h.a)
    return a * h + torch.tanh(x.b + h.b) + 0.1 * (x.b + h.b)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"gates": "a c"}, "gates is 'a c', expected those of pair in some order: a b"),
        ({"gates": "a"}, "gates is 'a', expected those of pair"),
        ({"layout": "g h"}, "layout is 'g h', expected g, h and i, each once"),
        ({"layout": ")g h( i"}, "layout is"),
        ({"layout": "gh i"}, "layout is"),
        ({"layout": "(g h i)"}, "layout is"),
        ({"layout": "h i"}, "layout is 'h i', which has no gates, and input is one array of 2 gates"),
        ({"layout": "g h i"}, r"input has shape \(6, 2\), expected 3 axes: g h i"),
        ({"layout": "i (g h)"}, "recurrent has shape .6, 3. in i .g h., expected 2 gates: 3 is no multiple of 2"),
        ({"input": np.ones((7, 2))}, r"input has shape \(7, 2\) in \(g h\) i, expected 2 gates: 7 is no multiple"),
        ({"input": np.ones((3, 3, 2)), "layout": "g h i"}, "3 gates, expected 2"),
        ({"input": None}, "input is missing: pair has gates a b there"),
        ({"recurrent": None}, "recurrent is missing: pair has gates a b there"),
        ({"recurrent": np.ones((6, 4))}, "recurrent has 3 units that read 4 .*, expected 3 that read 3"),
        ({"input": {"a": W[:3]}}, "input has the gates a, expected a b"),
        ({"input": {"a": W[:3], "b": W[:2]}}, r"gates' matrices differ in size.* a \(3, 2\), b \(2, 2\)"),
        ({"bias": np.ones(5)}, r"bias has shape \(5,\), expected \(6,\) for one each of 2 gates of 3 units, or \(2, 6"),
        ({"bias": np.ones((6, 2))}, r"bias has shape \(6, 2\)"),
        ({"bias": np.ones((3, 2))}, r"bias has shape \(3, 2\), expected \(6,\)"),
        ({"bias": (B, np.ones(5))}, r"bias beside the states has shape \(5,\), expected \(6,\): 2 gates of 3 units"),
        ({"bias": {"c": B}}, "bias: gates c, expected of: a b"),
        ({"bias": {"a": B}}, r"bias, of gate a, has shape \(6,\), expected \(3,\)"),
        ({"bias": "ones"}, "bias is a str|bias is an array of"),
        ({"input": np.ones((6, 2), complex)}, "input is an array of complex128, expected an array of real numbers"),
        ({"input": torch.ones(6, 2, dtype=torch.bool)}, "input is an array of torch.bool, expected real numbers"),
        ({"input": [[1.0, 2.0], [1.0]]}, "input is no array: "),
        ({"input": [np.ones(2), np.ones(3)]}, "input is a list of arrays of several shapes"),
        ({"input": object()}, "input is a object, expected an array of real numbers"),
        ({"complement": "c"}, "complement is 'c': pair has no gate c, expected of: a b"),
        ({"complement": "a b"}, "complement is 'a b': b of pair is not just the sigmoid of its two sides' sum"),
        ({"hidden_size": 2}, r"hidden_size is 2, and input, in layout '\(g h\) i', says 3"),
        ({"input_size": 3}, "input_size is 3, and input, in layout .*, says 2"),
        ({"input": W.ravel()}, r"input has shape \(12,\), expected 2 axes"),
        (
            {"input": W.ravel(), "input_size": 2, "hidden_size": 4},
            r"input has 12 numbers, expected \(8, 2\) in \(g h\)",
        ),
        ({"scale": 0.0}, "scale is 0.0, expected a number that is not zero"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"add": {"f": 1.0}}, "add has f, expected gates of pair: a b"),
        ({"output": U}, "output, torch's weight_hr, is given: pair has no .hr"),
        ({"vectors": {"p": B}}, r"vectors are p \(6,\); pair has none"),
        ({"reverse": {"weights": W}}, "reverse has weights, expected some of: input, recurrent"),
        ({"reverse": {"input": W}}, "recurrent is missing"),
        ({"reverse": {"input": np.ones((6, 5)), "recurrent": U}}, "both_directions: input_size differ"),
    ],
)
def test_what_contradicts_itself_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_arrays(pair, **{"input": W, "recurrent": U, "bias": B, **changed})


def test_a_complement_that_would_be_wrong_is_refused() -> None:
    for cell, gate in ((cells.gru, "n"), (cells.lstm, "g"), (cells.lstm_peephole, "i"), (cells.rnn, "n")):
        with pytest.raises(InputError, match=f"{gate} of {cell.name} is not just the sigmoid"):
            to_arrays(gatewise.Recurrent(cell, 2, 3), complement=gate)
    normal = gatewise.Recurrent(gatewise.layer_norm(cells.gru), 2, 3)
    with pytest.raises(InputError, match="not just the sigmoid"):
        to_arrays(normal, complement="z")
    assert one_bias_is_enough(normal.cell) == ()


def test_vectors_and_projections_that_are_missing() -> None:
    w = np.ones((12, 2))
    with pytest.raises(InputError, match=r"vectors are none; lstm_peephole has p_i, p_f, p_o, \(3,\) each"):
        from_arrays(cells.lstm_peephole, input=w, recurrent=np.ones((12, 3)))
    with pytest.raises(InputError, match=r"output, torch's weight_hr, is missing: lstm_projected has .hr"):
        from_arrays(cells.lstm_projected, input=w, recurrent=np.ones((12, 2)))
    with pytest.raises(InputError, match=r"output has shape \(3, 2\), expected \(P, 3\), P less than 3"):
        from_arrays(cells.lstm_projected, input=w, recurrent=np.ones((12, 2)), output=np.ones((3, 2)))


def test_what_does_not_go_out() -> None:
    layer = gatewise.GRU(2, 3)
    with pytest.raises(InputError, match=r"layer 1 of GRU\(2, 3\), which has none"):
        to_arrays(layer, k=1)
    with pytest.raises(InputError, match=r"layer 0, reversed, of GRU\(2, 3\), which has none"):
        to_arrays(layer, reverse=True)
    with pytest.raises(InputError, match="biases is 3, expected 1 or 2"):
        to_arrays(layer, biases=3)
    learns = gatewise.GRU(2, 3, learn_state=True)
    for call in (lambda: to_arrays(learns), lambda: stacked([learns]), lambda: both_directions(learns, learns)):
        with pytest.raises(InputError, match="learns the states from which sequences begin, which would be lost"):
            call()
    with pytest.raises(InputError, match="Linear is no recurrent layer"):
        to_arrays(nn.Linear(2, 3))

    class Other(nn.GRU):
        pass

    with pytest.raises(InputError, match=r"Other is a subclass of torch.nn.GRU, which may compute something else"):
        to_arrays(Other(2, 3))


def test_layers_that_are_not_alike_are_not_stacked() -> None:
    gru = gatewise.GRU(2, 3)
    for other, words in (
        (gatewise.GRU(3, 4), "hidden_size differ"),
        (gatewise.GRU(2, 3), "layer 1 reads 2 numbers, expected 3 of the one below"),
        (gatewise.GRU(3, 3, reset_after=False), "cell differ"),
        (gatewise.GRU(3, 3, dtype=DOUBLE), "dtypes differ: torch.float32 and torch.float64"),
        (gatewise.GRU(3, 3, 2, dropout=0.5), "has dropout 0.5 between its layers, expected 0.0"),
        (gatewise.GRU(3, 3, batch_first=True), "batch_first differ"),
    ):
        with pytest.raises(InputError, match=words):
            stacked([gru, other])
    with pytest.raises(InputError, match="no layers"):
        stacked([])
    with pytest.raises(InputError, match="expected layers of one layer and one direction"):
        both_directions(gru, gatewise.GRU(2, 3, 2))


def test_layouts_spelled_otherwise() -> None:
    for text in ("( g h ) i", "i(g h)", "(g h)i", "(g) h i"):
        assert sorted(Layout(text).axes) == ["g", "h", "i"]
    for text in ("", "ghi", "(g h i", "((g h) i)", "g h i i", "(g h) j", "h g"):
        with pytest.raises(InputError, match="layout is"):
            Layout(text)


def test_what_is_no_cell_and_a_layout_without_gates_are_told() -> None:
    with pytest.raises(TypeError, match=r"expected one of gatewise\.cells"):
        from_arrays("lstm", input=[[1.0]], recurrent=[[1.0]])
    with pytest.raises(InputError, match='"g i h" gives each gate a matrix'):
        to_arrays(gatewise.GRU(3, 4), layout="i h")
    assert to_arrays(gatewise.GRU(3, 4), layout="g i h").input.shape == (3, 3, 4)
