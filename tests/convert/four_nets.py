"""The four nets in torch and gatewise, trained as Keras trains them; nets_in_keras.py has Keras's side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from helpers import randomize
from nets_in_keras import BETAS, CLASSES, EPSILON, NETS, RATE, H
from torch import Tensor, nn

import gatewise
from gatewise import cells
from gatewise.convert import to_arrays

I, T, B, STEPS = 3, 5, 6, 5
Make = Callable[..., nn.Module]
Optimize = Callable[..., torch.optim.Optimizer]

# Keras's order of the gates, and its biases a gate.
ORDER = {"SimpleRNN": ("n", 1), "GRU": ("z r n", 2), "GRU before": ("z r n", 1), "LSTM": ("i f g o", 1)}
TORCH: dict[str, Make] = {"SimpleRNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}
# With as many biases as Keras has.
GATEWISE: dict[str, Make] = {
    "SimpleRNN": partial(gatewise.Recurrent, cells.rnn, bias="input"),
    "GRU": gatewise.GRU,
    "GRU before": partial(gatewise.Recurrent, cells.gru_reset_before, bias="input"),
    "LSTM": partial(gatewise.Recurrent, cells.lstm, bias="input"),
}


class Net(nn.Module):
    def __init__(self, layer: Make, net: str) -> None:
        super().__init__()
        size = NETS[net]
        self.layer = layer(I, H, num_layers=size.layers, bidirectional=size.both, batch_first=True)
        self.classify = nn.Linear(H * (2 if size.both else 1), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.layer(x)
        last = output[:, -1, :H]
        if self.layer.bidirectional:
            last = torch.cat([last, output[:, 0, H:]], 1)
        scores: Tensor = self.classify(last)
        return scores


class KerasAdam(torch.optim.Adam):
    """Adam with epsilon where Keras has it: beside sqrt(v), and not beside sqrt(v / (1 - beta_2^t))."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        for group in self.param_groups:
            group["eps"] = EPSILON / (1 - group["betas"][1] ** self.steps) ** 0.5
        return super().step(closure)


OPTIMIZERS: dict[str, Optimize] = {
    "SGD": partial(torch.optim.SGD, lr=RATE),
    "Adam": partial(KerasAdam, lr=RATE, betas=BETAS),
}
TORCHS_ADAM = partial(torch.optim.Adam, lr=RATE, betas=BETAS, eps=EPSILON)


def gatewise_net(cell: str, net: str) -> Net:
    """Weights and biases random, in float64: these are the numbers that all libraries begin with."""
    made = randomize(Net(GATEWISE[cell], net).double())
    assert isinstance(made, Net)
    return made


def torch_net(cell: str, net: str, source: Net) -> Net:
    """In torch.nn, with the weights of gatewise's; where gatewise has one bias a gate, the second is zero and rests."""
    made = Net(TORCH[cell], net).double()
    state = source.state_dict()
    for name, parameter in made.named_parameters():
        if name not in state:
            state[name] = torch.zeros_like(parameter)
            parameter.requires_grad_(False)
    made.load_state_dict(state)
    return made


def keras_weights(net: Net, cell: str) -> list[np.ndarray[Any, Any]]:
    """In the order in which Keras takes them."""
    gates, biases = ORDER[cell]
    layer, arrays = net.layer, []
    for k in range(layer.num_layers):
        for reverse in (False, True)[: 1 + layer.bidirectional]:
            one = to_arrays(layer, gates=gates, layout="i (g h)", biases=biases, k=k, reverse=reverse)
            arrays += [one.input, one.recurrent, one.bias]
    return [a.detach().numpy() for a in [*arrays, net.classify.weight.t(), net.classify.bias]]


def batches() -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(1)
    return {"x": random.normal(0, 1, (STEPS, B, T, I)), "y": random.integers(0, CLASSES, (STEPS, B))}


def train(
    net: Net, optimizer: Callable[..., torch.optim.Optimizer], batches: Mapping[str, np.ndarray[Any, Any]]
) -> list[float]:
    """The loss at each batch, before the step that follows from it."""
    steps, losses = optimizer(net.parameters()), []
    for x, y in zip(batches["x"], batches["y"], strict=True):
        loss = nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    return losses
