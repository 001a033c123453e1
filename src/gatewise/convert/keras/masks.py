"""Whether two masks of a network are one.

Keras 3 writes a Functional model's masks into it as operations, beside the layers that make them: Masking is there with
NotEqual and Any. What a layer hands on is the same, and is to be the same node here.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from typing import Any

import torch
from torch import fx

from gatewise.convert.keras import modules as m
from gatewise.convert.keras.operations import any_of, ones_like, zeros_like

Key = tuple[Hashable, ...]


class Masks:
    """Numbers for the masks of a network: equal ones are one mask, whatever made it."""

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}
        self._known: dict[fx.Node, int] = {}

    def same(self, one: fx.Node, other: fx.Node) -> bool:
        return self._number(one) == self._number(other)

    def _number(self, node: fx.Node) -> int:
        if node not in self._known:
            self._known[node] = self._of(self._key(node))
        return self._known[node]

    def _of(self, key: Key) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _key(self, node: fx.Node) -> Key:
        """What makes a mask, of the tensors and the masks that it is made of."""
        args: Any = node.args
        if node.target is m.nonzero:
            return ("unlike", args[0], 0)
        if node.target is operator.ne and not isinstance(args[1], fx.Node):
            return ("unlike", *args)
        if node.target is m.masking:
            return ("any", self._of(("unlike", *args)))
        if node.target is m.ones:
            return ("ones", args[0])
        if node.target is torch.logical_or:
            return ("or", *map(self._number, args))
        if node.target is torch.cat:
            return ("one after the other", *map(self._number, args[0]))
        if node.target is any_of and node.kwargs == {"axis": -1, "keepdims": False}:
            return self._concatenated(args[0]) or ("any", self._number(args[0]))
        return ("node", node)

    def _concatenated(self, node: fx.Node) -> Key | None:
        """The mask that Keras makes behind a Concatenate of masks that are widened to their inputs' features."""
        if node.target is not torch.cat or node.kwargs.get("dim") not in (-1, 1, 2):
            return None
        parts: Any = node.args[0]
        keys = [self._widened(part) for part in parts]
        if any(key is None for key in keys):
            return None
        if node.kwargs["dim"] == 1:
            return ("one after the other", *(self._of(key) for key in keys if key is not None))
        made = next((key for key in keys if key and key[0] == "ones"), keys[0])
        for key in keys[1:]:
            if made is not None and made[0] != "ones" and key is not None:
                made = ("or", self._of(made), self._of(key))
        return made

    def _widened(self, node: fx.Node) -> Key | None:
        """The mask (B, T) that was widened to (B, T, features); None if none was."""
        args: Any = node.args
        if node.target is ones_like:
            return ("ones", args[0])
        if node.target is not torch.logical_or:
            return None
        mask, zeros = args
        if mask.target is torch.unsqueeze and mask.kwargs == {"dim": -1} and zeros.target is zeros_like:
            return self._key(mask.args[0])
        return None
