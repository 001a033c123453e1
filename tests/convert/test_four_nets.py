"""The textbooks' four nets of each cell, trained from the same weights in torch, gatewise and Keras."""

from __future__ import annotations

import copy
import os
from typing import Any

import nets_in_keras as theirs
import pytest
import torch
from four_nets import (
    GATEWISE,
    OPTIMIZERS,
    TORCH,
    TORCHS_ADAM,
    I,
    Net,
    batches,
    gatewise_net,
    keras_weights,
    torch_net,
    train,
)
from helpers import assert_close, randomize
from tolerances import FLOAT32, FLOAT64


@pytest.fixture
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    found = pytest.importorskip("keras")
    if found.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend here")
    return found


def in_keras(keras: Any, cell: str, name: str, net: Net) -> Any:
    model = theirs.build(keras, cell, name, I)
    model.set_weights(keras_weights(net, cell))
    return model


def in_float32() -> dict[str, Any]:
    return {"x": batches()["x"].astype("float32"), "y": batches()["y"]}


def numbers(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def apart(one: list[float], two: list[float]) -> float:
    return (numbers(one) - numbers(two)).abs().max().item()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", theirs.NETS)
@pytest.mark.parametrize("cell", theirs.CELLS)
def test_all_libraries_train_to_the_same_losses_and_weights(keras: Any, cell: str, name: str, optimizer: str) -> None:
    ours = gatewise_net(cell, name)
    model = in_keras(keras, cell, name, ours)
    in_torch = torch_net(cell, name, ours) if cell in TORCH else None
    losses = train(ours, OPTIMIZERS[optimizer], batches())
    of_keras = theirs.train(keras, model, optimizer, in_float32())
    assert_close(numbers(of_keras), numbers(losses), FLOAT32, "Keras's losses")
    for k, (one, two) in enumerate(zip(model.get_weights(), keras_weights(ours, cell), strict=True)):
        assert_close(numbers(one), numbers(two), FLOAT32, f"weight {k} of Keras's")
    if in_torch is not None:
        assert_close(numbers(train(in_torch, OPTIMIZERS[optimizer], batches())), numbers(losses), FLOAT64, "torch's")


@pytest.mark.parametrize("cell", ["SimpleRNN", "LSTM"])
def test_the_sum_of_two_biases_moves_twice_as_far_as_one(keras: Any, cell: str) -> None:
    two, one = randomize(Net(TORCH[cell], "simple").double()), Net(GATEWISE[cell], "simple").double()
    assert isinstance(two, Net)
    state = two.state_dict()
    state["layer.bias_ih_l0"] = state["layer.bias_ih_l0"] + state.pop("layer.bias_hh_l0")
    one.load_state_dict(state)
    before = one.layer.bias_ih_l0.detach().clone()
    model, drifting = in_keras(keras, cell, "simple", two), copy.deepcopy(two)

    first = {name: values[:1] for name, values in batches().items()}
    for net in (two, one):
        train(net, OPTIMIZERS["SGD"], first)
    moved = (two.layer.bias_ih_l0 + two.layer.bias_hh_l0 - before).detach()
    assert_close(moved, 2 * (one.layer.bias_ih_l0 - before).detach(), FLOAT64)
    assert moved.abs().min() > 1e-6

    # So the losses drift apart, by more than any rounding.
    losses = theirs.train(keras, model, "SGD", in_float32())
    assert apart(train(drifting, OPTIMIZERS["SGD"], batches()), losses) > 100 * FLOAT32


def test_a_gru_trains_both_biases_in_keras_too(keras: Any) -> None:
    net = gatewise_net("GRU", "simple")
    model = in_keras(keras, "GRU", "simple", net)
    net.layer.bias_hh_l0.requires_grad_(False)
    losses = theirs.train(keras, model, "SGD", in_float32())
    assert apart(train(net, OPTIMIZERS["SGD"], batches()), losses) > 100 * FLOAT32


@pytest.mark.parametrize("cell", theirs.CELLS)
def test_epsilon_enters_elsewhere_in_torch_s_adam(keras: Any, cell: str) -> None:
    net = gatewise_net(cell, "simple")
    model = in_keras(keras, cell, "simple", net)
    losses = theirs.train(keras, model, "Adam", in_float32())
    assert apart(train(net, TORCHS_ADAM, batches()), losses) > 100 * FLOAT32
