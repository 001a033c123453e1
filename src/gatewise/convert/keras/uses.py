"""What a traced module does with what its recurrent layers give: Keras's layers are told when they are made."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from gatewise.layer import Layer


@dataclass
class Uses:
    """Of one recurrent layer. sequence: more of its output than the last step is used. states: its states are."""

    sequence: bool = False
    states: bool = False


@dataclass
class Network:
    """layers: by name. states: the inputs that are initial states, each of one layer."""

    layers: dict[str, Uses] = field(default_factory=dict)
    states: set[fx.Node] = field(default_factory=set)


def uses_of(graph: fx.Graph, modules: dict[str, nn.Module], states: bool) -> Network:
    """What is used of each recurrent layer; with `states`, all of its states."""
    made = Network()
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(modules[str(node.target)], (Layer, nn.RNNBase)):
            module: Any = modules[str(node.target)]
            uses = made.layers.setdefault(str(node.target), Uses())
            uses.states |= states
            last = False
            for user in node.users:
                if user.op == "call_function" and user.target is operator.getitem and user.args[1] in (0, -2):
                    time = 1 if module.batch_first else 0
                    steps = [u.op == "call_function" and u.target is operator.getitem and is_last(u.args[1], time)
                             for u in user.users]  # fmt: skip
                    last |= any(steps)
                    uses.sequence |= module.bidirectional or not all(steps)
                elif user.op == "call_function" and user.target is operator.getitem and user.args[1] in (1, -1):
                    uses.states |= bool(user.users)
                else:
                    uses.sequence = uses.states = True
            uses.states |= last and uses.sequence and not module.bidirectional
            hx = node.kwargs.get("hx", node.args[1] if len(node.args) > 1 else None)
            if isinstance(hx, fx.Node) and hx.op == "placeholder":
                made.states.add(hx)
    return made


def is_last(index: Any, time: int) -> bool:
    """Whether an index takes the last step, of all else everything: x[:, -1], x[:, -1, :], x[-1] …"""
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (4 - len(index)), *index[at + 1 :])
    every = [*index, *[slice(None)] * (3 - len(index))]
    return len(every) == 3 and [i == (-1 if k == time else slice(None)) for k, i in enumerate(every)] == [True] * 3
