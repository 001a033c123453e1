"""What several test files share: comparison, random numbers, series, and random cells with a plain loop beside them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import gatewise
from gatewise.tasks import checkpoint

# A user's file with a cell of their own, for `FILE.py:light`.
OWN = """
import gatewise, torch

@gatewise.cell(gates="z n")
def light(x, h):
    z = torch.sigmoid(x.z + h.z)
    n = torch.tanh(x.n + h.n)
    return (1 - z) * n + z * h
"""


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    """Same shape, dtype, no NaN, and the largest difference within tolerance of the largest magnitude (or of 1)."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype}, expected {expected.dtype}"
    if expected.numel():
        difference = (actual - expected).abs().masked_fill(actual == expected, 0.0)  # equal infinities too
        finite = expected[expected.isfinite()]
        error = difference.max().item() / max(1.0, finite.abs().max().item() if finite.numel() else 0.0)
        assert error <= tolerance, f"{what}: differs by {error:.2g} of the largest, allowed {tolerance:.2g}"


def randomize(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter normal, different and not zero: a swapped gate or a dropped bias then shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return module


def drawn(model: Any) -> Any:
    """A model of Keras's with normal weights, none of them zero; variances are positive."""
    generator = torch.Generator().manual_seed(0)
    for variable in model.weights:
        value = torch.randn(tuple(variable.shape), generator=generator) * 0.5
        variable.assign((value.abs() + 0.5 if "variance" in variable.name else value).numpy())
    return model


# --- random cells ------------------------------------------------------------------------------------

UNARY: dict[str, Callable[[Any], Any]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "exp": lambda a: torch.exp(torch.clamp(a, max=1.5)),
    "log": lambda a: torch.log(abs(a) + 0.5),
    "sqrt": lambda a: torch.sqrt(a * a + 0.25),
    "softplus": lambda a: torch.nn.functional.softplus(a, beta=1.5),
    "elu": lambda a: torch.nn.functional.elu(a, alpha=0.7),
    "leaky_relu": lambda a: torch.nn.functional.leaky_relu(a, 0.2),
    "softsign": torch.nn.functional.softsign,
    "hardsigmoid": torch.nn.functional.hardsigmoid,
    "clamp": lambda a: torch.clamp(a, -0.6, 0.9),
    "neg": lambda a: -a,
    "one_minus": lambda a: 1 - a,
    "cube": lambda a: a**3,
    "power_of_two": lambda a: 2 ** torch.tanh(a),
    "mean": lambda a: a.mean(-1, keepdim=True).expand_as(a) if isinstance(a, Tensor) else torch.mean(a),
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (1.5 + torch.tanh(b)),
    "pow": lambda a, b: (abs(a) + 0.5) ** torch.tanh(b),
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "where_lt": lambda a, b: torch.where(a < b, a * 2, b),
    "where_ge": lambda a, b: torch.where(a >= 0.1, b, 0.3),
}


@dataclass(frozen=True)
class Recipe:
    """A random cell, as a list of choices that can be carried out on proxies and on tensors alike."""

    gates: tuple[str, ...]
    states: int
    vectors: int
    project_output: bool
    steps: tuple[tuple[str, int, int], ...]

    def equations(
        self,
        read: Callable[[str], Any],
        project: Callable[[Any, str], Any],
        output: Callable[[Any], Any],
        states: Sequence[Any],
        vectors: Sequence[Any],
    ) -> tuple[Any, ...]:
        """The new states; `read`, `project` and `output` say what x.g, a.g and a.hr are."""
        values = [read(g) + project(states[0], g) for g in self.gates]
        values += [*states[1:], *vectors] if self.project_output else [*states, *vectors]
        for op, i, j in self.steps:
            a, b = values[i % len(values)], values[j % len(values)]
            if op == "project":
                # With an output projection only states of the projected size can be projected.
                operand = states[0] if self.project_output else a
                values.append(project(operand, self.gates[j % len(self.gates)]))
            else:
                values.append(UNARY[op](a) if op in UNARY else BINARY[op](a, b))
        made = [torch.tanh(values[-1 - k]) * 0.9 + torch.sigmoid(values[k]) * 0.1 for k in range(self.states)]
        for value in (*values[: len(self.gates)], *vectors):  # a cell must use every gate and vector
            made[0] = made[0] + 0.01 * torch.sigmoid(value)
        if self.project_output:
            made[0] = output(made[0])
        return tuple(made)

    def cell(self) -> gatewise.Graph:
        """The recipe as gatewise's cell; Python needs the arguments' names, so the function is made from text."""
        states = [f"s{k}" for k in range(self.states)]
        vectors = [f"p{k}" for k in range(self.vectors)]
        arguments = ", ".join(["x", *states, *(["*"] if vectors else []), *vectors])
        text = f"def random_cell({arguments}):\n    return body(x, [{', '.join(states)}], [{', '.join(vectors)}])\n"

        def body(x: Any, states: list[Any], vectors: list[Any]) -> Any:
            made = self.equations(lambda g: getattr(x, g), getattr, lambda a: a.hr, states, vectors)
            return made if len(made) > 1 else made[0]

        scope: dict[str, Any] = {"body": body}
        exec(text, scope)
        return gatewise.cell(gates=" ".join(self.gates))(scope["random_cell"])


# A cell in which all of them occur, with two states, a vector and two gates.
EVERY_OP = Recipe(("a", "b"), 2, 1, False, tuple((op, k, k + 3) for k, op in enumerate([*UNARY, *BINARY])))

OP_NAMES = sorted([*UNARY, *BINARY, "project"])

recipes = st.builds(
    Recipe,
    gates=st.sampled_from([("n",), ("a", "b"), ("r", "z", "n")]),
    states=st.integers(1, 3),
    vectors=st.integers(0, 2),
    project_output=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(OP_NAMES), st.integers(0, 20), st.integers(0, 20)), min_size=3, max_size=10
    ).map(tuple),
)


def plain_loop(recipe: Recipe, layer: gatewise.Recurrent, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The recipe, step by step in plain torch: (output, *final states). Knows nothing of graphs."""
    size = layer.hidden_size
    block = {g: slice(k * size, (k + 1) * size) for k, g in enumerate(recipe.gates)}
    p = dict(layer.named_parameters())
    vectors = [p[f"p{k}_l0"] for k in range(recipe.vectors)]

    def affine(a: Tensor, which: str, gate: str) -> Tensor:
        return a @ p[f"weight_{which}_l0"][block[gate]].t() + p[f"bias_{which}_l0"][block[gate]]

    outputs = []
    for x_t in x:
        states = recipe.equations(
            lambda g, x_t=x_t: affine(x_t, "ih", g),
            lambda a, g: affine(a, "hh", g),
            lambda a: a @ p["weight_hr_l0"].t(),
            states,
            vectors,
        )
        outputs.append(states[0])
    return (torch.stack(outputs), *states)


def state_of_run(folder):
    """All tensors of a run's last checkpoint that the training works on, and its history but for the clock."""
    kept = checkpoint.load(folder / "last.safetensors")
    tensors = dict(kept["state_dict"])
    for number, values in kept["optimizer_states"][0]["state"].items():
        tensors.update({f"{number}.{name}": value for name, value in values.items() if value is not None})
    (history,) = kept["callbacks"].values()
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history["rows"]]
    return tensors, rows


def assert_same_run(one, other):
    """Two runs ended with the same weights, optimizer and history."""
    (tensors, rows), (other_tensors, other_rows) = state_of_run(one), state_of_run(other)
    assert rows == other_rows
    assert tensors.keys() == other_tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, other_tensors[name]), name


def interrupt_at(monkeypatch, trainee, batches, times=1):
    """Ctrl-C, as often as told, while a trainee's batch with that number is learned."""
    counted = []
    loss = trainee.loss

    def counting(self, batch, state):
        if self.training:
            counted.append(1)
            if len(counted) == batches:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
        return loss(self, batch, state)

    monkeypatch.setattr(trainee, "loss", counting)


def waves(steps=120, groups=("north", "south")):
    """A table of two groups of two targets each, monthly."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    t = np.arange(steps)
    months = pd.date_range("2010-01-01", periods=steps, freq="MS").strftime("%Y-%m-%d")
    tables = []
    for k, name in enumerate(groups):
        wave = np.sin(2 * np.pi * t / 4)
        noise = random.normal(0, 0.2, (2, steps))
        columns = {"a": 10 * k + wave + noise[0], "b": 5 - wave + noise[1], "rain": random.random(steps)}
        tables.append(pd.DataFrame({"month": months, "place": name, **columns}))
    return pd.concat(tables, ignore_index=True)
