"""Numbers that say what a recurrent layer does: how far its gates open, how long its units remember, what becomes of
gradients through time, how its recurrent weights stretch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.graph.graph import Graph
from gatewise.inspect.recording import Recording, key_of, layers_of
from gatewise.layer import Layer

GATES = ("sigmoid", "hardsigmoid")  # what makes values between 0 and 1
SIGNED = ("tanh", "softsign")  # and between -1 and 1


def saturation(values: Tensor, low: float = 0.1, high: float = 0.9) -> tuple[Tensor, Tensor]:
    """How often each unit is near either end.

    Args:
        values: a recorded gate, (T, B, H); NaN beyond the lengths is left out.
        low, high: below and above which it counts as saturated; for a tanh, say -0.9 and 0.9.

    Returns: the shares of steps and samples, in [0, 1], (H,) each: of those below `low`, and above `high`.

    Source: Karpathy, Johnson and Fei-Fei 2015, arXiv 1506.02078, section 4.2.
    """
    count = (~values.isnan()).sum((0, 1))
    return (values < low).sum((0, 1)) / count, (values > high).sum((0, 1)) / count


def time_constants(values: Tensor) -> Tensor:
    """How many steps a unit remembers: after so many its state has decayed to 1/e, if all it does is forget.

        τ = -1 / log(mean of the gate)

    Args:
        values: a recorded gate that multiplies the old state, (T, B, H): an LSTM's f, a GRU's z; see `keepers`.

    Returns: (H,), in steps; infinite where the gate is always 1, 0 where it is always 0.

    Source: Tallec and Ollivier 2018, arXiv 1804.11188.
    """
    return 1 / values.to(torch.promote_types(values.dtype, torch.float32)).nanmean((0, 1)).log().abs()


def keepers(cell: Graph) -> dict[str, tuple[str, bool]]:
    """Of each state that is partly kept from step to step, the value by which it is multiplied.

    Read from the equations: a new state that is a sum with a term g ⊙ s, of its old value s.

    Returns: state -> (name of the gate, whether 1 - gate multiplies the state). A state without is left out.
    """
    names = {i: name for name, i in cell.names}
    found: dict[str, tuple[str, bool]] = {}
    for state, new in cell.outputs:
        terms, pending = [], [new]
        while pending:
            i = pending.pop()
            node = cell.nodes[i]
            if node.op in ("add", "clip_grad"):
                pending += node.args
            terms.append(node)
        for term in terms:
            factors = [cell.nodes[_resolved(cell, a)] for a in term.args] if term.op == "mul" else []
            olds = [k for k, f in enumerate(factors) if f.op == "state" and f.key == state]
            if len(olds) != 1:
                continue
            gate = term.args[1 - olds[0]]
            node = cell.nodes[gate]
            if gate in names:
                found[state] = names[gate], False
            elif node.op == "sub" and cell.nodes[node.args[0]].params == (("value", 1.0),) and node.args[1] in names:
                found[state] = names[node.args[1]], True
    return found


def _resolved(cell: Graph, i: int) -> int:
    """The node that is passed on by what changes gradients alone."""
    while cell.nodes[i].op == "clip_grad":
        i = cell.nodes[i].args[0]
    return i


def singular_values(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The singular values of the recurrent weights: how much a step stretches the state, direction by direction.

    Args:
        model: a layer of gatewise's, or a module that has some.

    Returns: of each layer, keyed as `gatewise.record` does, and of each gate g the singular values of W_hg, from large
        to small, (min(H, P),).
    """
    made = {}
    for name, layer in layers_of(model, "singular_values").items():
        for suffix in (s for k in range(layer.num_layers) for s in layer._suffixes(k)):
            weight = getattr(layer, f"weight_hh{suffix}", None)
            if weight is None:
                continue
            blocks = weight.detach().float().split(layer.hidden_size)
            gates = zip(layer.cell.hidden_gates, blocks, strict=True)
            made[key_of(name, suffix)] = {gate: torch.linalg.svdvals(block) for gate, block in gates}
    return made


def gradient_norms(
    layer: Layer, x: Tensor, loss: Callable[[Tensor], Tensor], hx: Tensor | tuple[Tensor, ...] | None = None
) -> dict[str, Tensor]:
    """The gradient's norm through time: how much a loss depends on each state at each step.

    Args:
        layer: a layer of gatewise's, in one direction, time-major. It is run step by step here.
        x: (T, B, I), or integers (T, B). hx: as the layer takes it.
        loss: of the output, (T, B, size), a number: `lambda output: output[-1].sum()` shows how far back the last
            step's gradient reaches.

    Returns: of each state, |∂loss/∂state| before the first step and after each, its norm over the units and the mean
        over the batch, (T + 1, num_layers): row t is the state after t steps.

    Raises: ValueError: the layer has two directions.

    Source: Bengio, Simard and Frasconi 1994; Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"gradient_norms: layer is a {type(layer).__name__}, expected a layer of gatewise's")
    if layer.bidirectional or layer.one_step or layer.batch_first:
        raise ValueError("gradient_norms: expected a layer of one direction with time first, bidirectional=False")
    state = layer.initial_state(x.shape[1]) if hx is None else hx
    passed: list[tuple[Tensor, ...]] = []
    with torch.enable_grad():
        passed.append(tuple(s.detach().requires_grad_() for s in _states(state)))
        for x_t in x:
            _, state = layer.step(x_t, passed[-1] if len(passed[-1]) > 1 else passed[-1][0])
            passed.append(_states(state))
        flat = [s for states in passed for s in states]
        output = torch.stack([states[0][-1] for states in passed[1:]])  # so that it is made of the states
        found = torch.autograd.grad(loss(output), flat, allow_unused=True)
    gradients = iter(torch.zeros_like(s) if g is None else g for s, g in zip(flat, found, strict=True))
    norms = [[next(gradients).norm(dim=2).mean(1) for _ in states] for states in passed]
    return {name: torch.stack(rows) for name, *rows in zip(layer.cell.states, *norms, strict=True)}


def _states(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


# --- the table --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A recorded value in a few numbers.

    layer, name: which. mean, std: over steps, samples and units.
    low, high: the mean shares of steps in which a unit is near the lower and the upper end, of values with such ends.
    time: quartiles of the units' time constants in steps, of a gate that keeps a state.
    """

    layer: str
    name: str
    mean: float
    std: float
    low: float | None
    high: float | None
    time: tuple[float, float, float] | None


class Summary(Sequence[Line]):
    """The lines, which print as a table."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = tuple(lines)

    def __getitem__(self, k: Any) -> Any:
        return self.lines[k]

    def __len__(self) -> int:
        return len(self.lines)

    def __repr__(self) -> str:
        head = ("layer", "value", "mean", "std", "near low", "near high", "remembers, steps (quartiles)")
        rows: list[tuple[str, ...]] = [head]
        for line in self.lines:
            shares = ["" if share is None else f"{share:.0%}" for share in (line.low, line.high)]
            time = "" if line.time is None else "  ".join(f"{t:.3g}" for t in line.time)
            rows.append((line.layer, line.name, f"{line.mean:.3f}", f"{line.std:.3f}", *shares, time))
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        texts = []
        for row in rows:
            left, numbers, right = row[:2], row[2:6], row[6:]
            words = [word.ljust(width) for word, width in zip(left, widths, strict=False)]
            words += [word.rjust(width) for word, width in zip(numbers, widths[2:], strict=False)]
            texts.append("  ".join((*words, *right)))
        return "\n".join(text.rstrip() for text in texts)


def summary(seen: Recording) -> Summary:
    """What was recorded, in a table: a line each layer and value.

        print(gatewise.inspect.summary(seen))

    Near low and near high are the mean shares of steps in which a unit's gate is below 0.1 and above 0.9 (of what a
    tanh makes, below -0.9 and above 0.9), and the last columns the quartiles over the units of `time_constants`, of a
    gate that keeps a state.

    Args:
        seen: what `gatewise.record` yields, after the model has run.
    """
    if not isinstance(seen, Recording):
        raise TypeError(f"summary: got a {type(seen).__name__}, expected what `gatewise.record` yields, of all layers")
    lines = []
    for key, named in seen.items():
        cell = seen.cells[key]
        kept = dict(keepers(cell).values())
        for name, recorded in named.items():
            values = recorded.detach().float()
            op = cell.nodes[cell.named[name]].op if name in cell.named else ""
            ends = (0.1, 0.9) if op in GATES else (-0.9, 0.9) if op in SIGNED else None
            low, high = (share.mean().item() for share in saturation(values, *ends)) if ends else (None, None)
            time = None
            if name in kept and op in GATES:
                constants = time_constants(1 - values if kept[name] else values)
                quartiles = constants.quantile(torch.tensor([0.25, 0.5, 0.75], device=constants.device))
                low_quartile, median, high_quartile = quartiles.tolist()
                time = low_quartile, median, high_quartile
            there = values[~values.isnan()]
            lines.append(Line(key, name, there.mean().item(), there.std().item(), low, high, time))
    return Summary(lines)
