"""Foreign models as torch modules: a torch.fx.GraphModule, put together node by node, whose `.code` can be read."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Spec:
    """One input of a model.

    name: as the source has it. shape: a size, or a name such as "B" or "T" for one that may vary; equal names are equal
    sizes. dtype: of the tensor. high: of integers, the first that is too large; 0 if it is not known.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32
    high: int = 0


class Network:
    """A torch module in the making."""

    def __init__(self) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.specs: list[Spec] = []
        self.taken: set[str] = set()
        self.counts: Counter[str] = Counter()

    def input(self, spec: Spec) -> fx.Node:
        """The model's next input."""
        self.specs.append(spec)
        return self.graph.placeholder(self._plain(spec.name))

    def module(self, name: str, module: nn.Module, *args: Any, **kwargs: Any) -> fx.Node:
        """A call of a module, which becomes the model's child of this name, or of the nearest that Python allows."""
        name = self._plain(name)
        self.root.add_module(name, module)
        return self.graph.call_module(name, args, kwargs)

    def again(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        """Another call of a child that is there already, by its name in the model (`node.target` of the first call)."""
        return self.graph.call_module(name, args, kwargs)

    def constant(self, name: str, value: Tensor) -> fx.Node:
        """A tensor that the source holds as a constant; a buffer of the model."""
        name = self._plain(name)
        self.root.register_buffer(name, value)
        return self.graph.get_attr(name)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A call of a torch function."""
        return self.graph.call_function(function, args, kwargs)

    def finish(self, outputs: Sequence[fx.Node], name: str) -> fx.GraphModule:
        """The module, in evaluation mode: one output as it is, several as a tuple; its `specs` tell its inputs."""
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self.graph.lint()
        made = fx.GraphModule(self.root, self.graph, "".join(w.capitalize() for w in re.findall("[A-Za-z0-9]+", name)))
        object.__setattr__(made, "specs", tuple(self.specs))  # no parameter, module or buffer
        return made.eval()

    def _plain(self, name: str) -> str:
        """A free Python name like this one."""
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not plain or plain[0].isdigit() or plain == "self" or keyword.iskeyword(plain) or hasattr(nn.Module, plain):
            plain = f"_{plain}"
        name = plain
        while name in self.taken or hasattr(self.root, name):
            self.counts[plain] += 1
            name = f"{plain}_{self.counts[plain]}"
        self.taken.add(name)
        return name
