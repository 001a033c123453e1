"""Parameters of flax's cells, both ways, against flax itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT32
from torch import nn

import gatewise
from gatewise import cells
from gatewise.convert import flax as convert
from gatewise.errors import InputError

jax = pytest.importorskip("jax")
flax = pytest.importorskip("flax")
linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")

NAMES = ["LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"]
SHAPE = ("name", "steps", "batch", "inputs", "size")
SIZES = [*((name, 5, 3, 4, 6) for name in NAMES), ("GRUCell", 1, 1, 1, 1)]


def random_tree(tree: Any, seed: int = 0) -> Any:
    """The same tree with normal numbers, biases too."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jax.numpy.asarray(random.normal(size=a.shape), a.dtype), tree)


def random_cell(name: str, inputs: int, size: int, seed: int = 0, **options: Any) -> Any:
    """One of nnx's cells, of normal numbers; what it draws itself, which is slow, is never computed."""
    cell = nnx.eval_shape(lambda: getattr(nnx, name)(inputs, size, rngs=nnx.Rngs(0), **options))
    nnx.update(cell, random_tree(nnx.state(cell, nnx.Param), seed))
    return cell


@nnx.jit
def run(module: Any, x: Any) -> Any:
    return module(x)


def states(carry: Any) -> list[torch.Tensor]:
    """flax's carry in the order here: its LSTM has (c, h)."""
    parts = carry[::-1] if isinstance(carry, (tuple, list)) else [carry]
    return [torch.tensor(np.asarray(part)) for part in parts]


def compare(layer: Any, x: np.ndarray, carry: Any, output: Any) -> None:
    """A layer's output and final state for x (B, T, I), beside flax's."""
    made, state = layer(torch.tensor(x))
    assert_close(made, torch.tensor(np.asarray(output)), FLOAT32, "output")
    for one, other in zip(state if isinstance(state, tuple) else (state,), states(carry), strict=True):
        assert_close(one[0], other, FLOAT32, "state")


def inputs_of(steps: int, batch: int, inputs: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(batch, steps, inputs)).astype(np.float32)


@pytest.mark.parametrize(SHAPE, SIZES)
def test_linen(name: str, steps: int, batch: int, inputs: int, size: int) -> None:
    x = inputs_of(steps, batch, inputs)
    rnn = linen.RNN(getattr(linen, name)(size), return_carry=True)
    variables = random_tree(jax.eval_shape(rnn.init, jax.random.key(0), x))
    apply = jax.jit(rnn.apply)
    carry, output = apply(variables, x)
    for tree in (
        variables,
        variables["params"]["cell"],
        flax.core.freeze(variables),
        jax.tree.map(np.asarray, variables),
    ):
        compare(convert.from_params(tree), x, carry, output)
    layer = convert.from_params(variables)
    assert type(layer).__name__ == {"G": "GRU", "S": "RNN"}.get(name[0], "LSTM")
    back = convert.to_params(layer, f"linen.{name}")
    wanted = variables["params"]["cell"]
    assert jax.tree.structure(back) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b)), back, wanted)

    own = randomize(getattr(gatewise, type(layer).__name__)(inputs, size, batch_first=True))
    carry, output = apply({"params": {"cell": convert.to_params(own, f"linen.{name}")}}, x)
    compare(own, x, carry, output)


@pytest.mark.parametrize(SHAPE, SIZES)
def test_nnx(name: str, steps: int, batch: int, inputs: int, size: int) -> None:
    x = inputs_of(steps, batch, inputs)
    rnn = nnx.RNN(random_cell(name, inputs, size), return_carry=True)
    carry, output = run(rnn, x)
    state = nnx.state(rnn.cell, nnx.Param)
    for given in (rnn, rnn.cell, nnx.state(rnn), state, nnx.to_pure_dict(state), nnx.to_pure_dict(nnx.state(rnn))):
        compare(convert.from_params(given), x, carry, output)
    layer = convert.from_params(rnn)
    back = convert.to_params(layer, f"nnx.{name}")
    wanted = nnx.to_pure_dict(state)
    assert jax.tree.structure(back) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b)), back, wanted)

    own = randomize(getattr(gatewise, type(layer).__name__)(inputs, size, batch_first=True))
    if name == "GRUCell":
        with torch.no_grad():
            own.bias_hh_l0[2 * size :] = 0.0
    tree = nnx.state(rnn.cell, nnx.Param)
    nnx.replace_by_pure_dict(tree, jax.tree.map(jax.numpy.asarray, convert.to_params(own, f"nnx.{name}")))
    nnx.update(rnn.cell, tree)
    carry, output = run(rnn, x)
    compare(own, x, carry, output)


def test_a_gru_with_two_biases_does_not_fit_nnx() -> None:
    layer = randomize(nn.GRU(3, 4))
    with pytest.raises(
        InputError, match=r"nnx.GRUCell has no bias beside the state's product for gate n, and this laye"
    ):
        convert.to_params(layer, "nnx.GRUCell")
    tree = convert.to_params(layer, "linen.GRUCell")
    assert np.array_equal(tree["hn"]["bias"], layer.bias_hh_l0[8:].detach().numpy())
    assert_close(torch.tensor(tree["ir"]["bias"]), (layer.bias_ih_l0 + layer.bias_hh_l0)[:4].detach(), FLOAT32)
    assert "bias" not in tree["hr"]


@pytest.mark.parametrize("name", ["OptimizedLSTMCell", "GRUCell"])
def test_two_directions(name: str) -> None:
    x = inputs_of(5, 3, 2)
    net = linen.Bidirectional(linen.RNN(getattr(linen, name)(4)), linen.RNN(getattr(linen, name)(4)), return_carry=True)
    variables = random_tree(jax.eval_shape(net.init, jax.random.key(0), x))
    carries, output = jax.jit(net.apply)(variables, x)
    layer = convert.from_params(variables)
    made, state = layer(torch.tensor(x))
    assert_close(made, torch.tensor(np.asarray(output)), FLOAT32)
    for k, carry in enumerate(carries):
        for one, other in zip(state if isinstance(state, tuple) else (state,), states(carry), strict=True):
            assert_close(one[k], other, FLOAT32)
    back = convert.to_params(layer, f"linen.{name}")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b)), {"params": back}, variables)

    rnns = [nnx.RNN(random_cell(name, 2, 4, k)) for k in (1, 2)]
    live = nnx.Bidirectional(*rnns)
    assert_close(convert.from_params(live)(torch.tensor(x))[0], torch.tensor(np.asarray(run(live, x))), FLOAT32)
    summed = nnx.Bidirectional(*rnns, merge_fn=lambda a, b: a + b)
    with pytest.raises(InputError, match="outputs side by side"):
        convert.from_params(summed)


def test_other_functions() -> None:
    x = inputs_of(5, 3, 2)
    for name in NAMES:
        functions = {"activation_fn": jax.nn.relu}
        if name != "SimpleCell":
            functions["gate_fn"] = jax.nn.hard_sigmoid
        live = nnx.RNN(random_cell(name, 2, 4, **functions), return_carry=True)
        carry, output = run(live, x)
        compare(convert.from_params(live), x, carry, output)
        tree = nnx.to_pure_dict(nnx.state(live.cell, nnx.Param))
        here = {"gate_fn": torch.nn.functional.hardsigmoid, "activation_fn": "relu"}
        layer = convert.from_params(tree, **here)
        compare(layer, x, carry, output)
        back = convert.to_params(layer, f"nnx.{name}", **here)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b)), back, tree)
        with pytest.raises(InputError, match=f"nnx.{name} computes"):
            convert.to_params(layer, f"nnx.{name}")
    relu = convert.to_params(randomize(nn.RNN(2, 4, nonlinearity="relu")), "linen.SimpleCell", activation_fn="relu")
    assert set(relu) == {"i", "h"}
    odd = random_cell("GRUCell", 2, 4, activation_fn=jax.nn.mish)
    with pytest.raises(InputError, match=r"is no function that is known here; load nnx.state\(module, nnx.Param\)"):
        convert.from_params(odd)


def test_other_dtypes() -> None:
    plain = jax.nn.initializers.normal()  # jax has no orthogonal numbers in bfloat16
    options = {"param_dtype": jax.numpy.bfloat16, "recurrent_kernel_init": plain}
    cell = random_cell("OptimizedLSTMCell", 2, 4, **options)
    layer = convert.from_params(cell)
    assert layer.weight_ih_l0.dtype == torch.bfloat16
    back = convert.to_params(layer, "nnx.OptimizedLSTMCell")
    kernel = nnx.to_pure_dict(nnx.state(cell, nnx.Param))["dense_i"]["kernel"]
    assert np.array_equal(back["dense_i"]["kernel"], np.asarray(kernel, np.float32))


def test_layers_of_several() -> None:
    layer = randomize(gatewise.GRU(3, 4, 2, batch_first=True))
    with pytest.raises(InputError, match="has 2 layers, a cell of flax is one: say which by k=0, k=1"):
        convert.to_params(layer, "linen.GRUCell")
    layers = [convert.from_params(convert.to_params(layer, "linen.GRUCell", k=k)) for k in (0, 1)]
    x = torch.randn(2, 5, 3)
    assert_close(gatewise.convert.stacked(layers)(x)[0], layer(x)[0], FLOAT32)


def test_what_is_refused() -> None:
    tree = convert.to_params(gatewise.GRU(3, 4), "linen.GRUCell")
    one = convert.to_params(gatewise.RNN(3, 4), "linen.SimpleCell")
    residual = random_cell("SimpleCell", 3, 4, residual=True)
    reverse = nnx.RNN(random_cell("GRUCell", 3, 4), reverse=True)
    mgu = random_tree(jax.eval_shape(linen.MGUCell(4).init, jax.random.key(0), np.ones((1, 4)), np.ones((1, 3))))
    for given, words in (
        (mgu, "params have .*, expected those of one cell of flax"),
        ({"GRUCell_0": tree, "Dense_0": {"kernel": 1}}, "params have GRUCell_0, Dense_0, expected those of one cell"),
        ({}, "params have nothing, expected those"),
        (3, "params are a int, expected a tree"),
        ({**tree, "in": {"weight": np.ones((3, 4))}}, "in has weight, expected kernel, and perhaps bias"),
        ({**tree, "hr": {"kernel": np.ones((4, 5))}}, r"gates' matrices differ in size.* r \(5, 4\)"),
        (
            {"i": one["i"], "h": {"kernel": np.ones((5, 5))}},
            "recurrent has 5 units that read 5 .*, expected 4 that read 4",
        ),
        (
            {"dense_i": {"kernel": np.ones((3, 8))}, "dense_h": {"kernel": np.ones((4, 8))}},
            "params have dense_i, dense_h",
        ),
        (residual, r"SimpleCell\(residual=True\) adds the state within tanh"),
        (reverse, r"RNN\(reverse=True\) reads from the end"),
        (nnx.Linear(3, 4, rngs=nnx.Rngs(0)), "Linear is none of flax's LSTMCell"),
    ):
        with pytest.raises(InputError, match=words):
            convert.from_params(given)
    for layer, words in (
        (gatewise.GRU(3, 4, reset_after=False), "computes gru_reset_before, linen.GRUCell computes gru"),
        (gatewise.LSTM(3, 4), "computes lstm, linen.GRUCell computes gru"),
        (gatewise.GRU(3, 4, learn_state=True), "learns the states"),
        (nn.Linear(3, 4), "is no recurrent layer"),
    ):
        with pytest.raises(InputError, match=words):
            convert.to_params(layer, "linen.GRUCell")
    with pytest.raises(InputError, match=r"cell is 'GRUCell', expected one of: linen.LSTMCell, linen.Opt"):
        convert.to_params(gatewise.GRU(3, 4), "GRUCell")
    assert convert.from_params(tree).cell == cells.gru
