"""What a torch module reads, as inputs of Keras: its `specs` tell, or an example, or its first layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from gatewise.convert.keras.rows import MODULES, as_module
from gatewise.convert.network import Spec
from gatewise.errors import InputError
from gatewise.layer import Layer


@dataclass(frozen=True)
class Reads:
    """What the first layer that tells reads. rank: axes. features: which of them has that size."""

    rank: int
    features: int
    size: int | None
    dtype: torch.dtype


class Inputs:
    """The inputs of a traced module, those that are initial states left out.

    Args: specs: its inputs in order, if it has them. example: a tensor, or one for each input, if given.
    """

    def __init__(
        self,
        graph: fx.Graph,
        modules: dict[str, nn.Module],
        specs: Sequence[Spec] | None,
        example: Tensor | Sequence[Tensor] | None,
    ) -> None:
        self.modules = modules
        self.recurrent = [m for m in modules.values() if isinstance(m, (Layer, nn.RNNBase))]
        firsts = {bool(m.batch_first) for m in self.recurrent}
        self.mixed = len(firsts) > 1
        self.time_major = firsts == {False}
        nodes = [node for node in graph.nodes if node.op == "placeholder"]
        self.specs = dict(zip(nodes, specs, strict=False)) if specs is not None else {}
        examples = [example] if isinstance(example, Tensor) else list(example or [])
        if len(examples) > len(nodes) or not all(isinstance(e, Tensor) for e in examples):
            raise InputError(f"example has {len(examples)} parts, expected tensors, one for each of the module's "
                             f"{len(nodes)} inputs")  # fmt: skip
        self.examples = dict(zip(nodes, examples, strict=False))

    def of(self, node: fx.Node) -> tuple[tuple[int | None, ...], tuple[int, ...], str]:
        """The shape of Keras's input, without the batch; where the module's axes lie in it; its dtype.

        Raises: InputError: nothing tells.
        """
        if node in self.specs:
            spec = self.specs[node]
            batch = spec.shape.index("B") if "B" in spec.shape else 0
            sizes = [None if isinstance(size, str) else size for size in spec.shape]
            return *self._batch_to_front(sizes, batch), _name(spec.dtype)
        found = self._first_reader(node)
        if node in self.examples:
            example = self.examples[node]
            fixed = found.features if found else -1
            whole = example.dim() > 3 or (example.dim() == 2 and example.is_floating_point())
            sizes = [n if whole or k == fixed % example.dim() else None for k, n in enumerate(example.shape)]
            if not example.is_floating_point() and example.dim() < 3:
                sizes = [None] * example.dim()
            rank, dtype = example.dim(), example.dtype
        elif found:
            sizes = [found.size if k == found.features % found.rank else None for k in range(found.rank)]
            rank, dtype = found.rank, found.dtype
        else:
            raise InputError(f"the shape of the input {node.name} cannot be told from the module; give "
                             "example=, a tensor of it, or a tuple of them")  # fmt: skip
        if self.mixed:
            raise InputError("some recurrent layers of the module are batch_first and others are not, so where the "
                             "batch lies in its input cannot be told; make them alike")  # fmt: skip
        sequence = rank == 3 or (rank == 2 and not dtype.is_floating_point)
        return *self._batch_to_front(sizes, 1 if self.time_major and sequence else 0), _name(dtype)

    def _batch_to_front(self, sizes: list[int | None], batch: int) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
        order = [batch, *(k for k in range(len(sizes)) if k != batch)]
        return tuple(sizes[k] for k in order[1:]), tuple(order.index(k) for k in range(len(sizes)))

    def _first_reader(self, node: fx.Node) -> Reads | None:
        """What the first layer tells that reads this value, or what is computed from it number by number."""
        passed: Reads | None = None
        queue = list(node.users)
        while queue:
            user = queue.pop(0)
            module: Any = self.modules[str(user.target)] if user.op == "call_module" else None
            if user.op == "call_function":
                module = as_module(user.target, user.args[1:], {k: v for k, v in user.kwargs.items() if k != "input"})
            if isinstance(module, (Layer, nn.RNNBase)):
                size = passed.size if passed else module.input_size
                return Reads(3, 2, size, next(module.parameters()).dtype)
            if isinstance(module, nn.Embedding):
                return Reads(2, 1, None, torch.int64) if self.recurrent else None
            if isinstance(module, nn.Conv1d):
                return passed or Reads(3, 1, module.in_channels, module.weight.dtype)
            if isinstance(module, nn.Linear):
                passed = passed or Reads(2, -1, module.in_features, module.weight.dtype)
            elif isinstance(module, nn.LayerNorm):
                passed = passed or Reads(2, -1, module.normalized_shape[-1], module.weight.dtype)
            elif type(module) not in MODULES:
                continue
            queue += list(user.users)
        return passed


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
