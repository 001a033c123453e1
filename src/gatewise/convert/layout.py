"""How a matrix of all gates lies in an array: "(g h) i" of torch, "i (g h)" of Keras, after einops' notation.

g are the gates, h the units that are computed, i what is read. Parentheses join axes that lie in one, the first of
them slowest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from gatewise.errors import InputError


class Layout:
    """The axes of a matrix of all gates.

    Args: text: g, h and i, each once, g and h perhaps joined, in either order: "(g h) i", "i (h g)", "i g h" …; or h
        and i, of one gate's.

    Raises: InputError: it is something else.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        groups = [a or b for a, b in re.findall(r"\(([^()]*)\)|(\w)", text)]
        self.groups = [group.split() for group in groups]
        self.axes = [axis for group in self.groups for axis in group]
        spelled = re.fullmatch(r"\s*((\(\s*\w(\s+\w)*\s*\)|\w)(\s+|$|(?=\()|(?<=\))))+", text)
        if not spelled or sorted(self.axes) not in (["g", "h", "i"], ["h", "i"]) or ["i"] not in self.groups:
            raise InputError(f'layout is {text!r}, expected g, h and i, each once, such as "(g h) i" or "i (g h)"')

    def without_gates(self) -> Layout:
        """The layout of one gate's matrix."""
        return Layout(" ".join(axis for axis in self.axes if axis != "g"))

    def split(self, array: Tensor, gates: int, what: str) -> list[Tensor]:
        """The matrix of each gate, (H, I), in the order in which they are stacked."""
        if "g" not in self.axes and gates > 1:
            raise InputError(f"layout is {self.text!r}, which has no gates, and {what} is one array of {gates} gates")
        shape = f"{what} has shape {tuple(array.shape)}"
        if array.dim() != len(self.groups):
            raise InputError(f"{shape}, expected {len(self.groups)} axes: {self.text}")
        sizes: list[int] = []
        for group, size in zip(self.groups, array.shape, strict=True):
            if group == ["g"] and size != gates:
                raise InputError(f"{shape} in {self.text}: {size} gates, expected {gates}")
            if "g" in group and size % gates:
                raise InputError(f"{shape} in {self.text}, expected {gates} gates: {size} is no multiple of {gates}")
            sizes += [size] if len(group) == 1 else [gates if axis == "g" else size // gates for axis in group]
        parts = array.reshape(sizes).permute([self.axes.index(axis) for axis in "ghi" if axis in self.axes])
        return [part.contiguous() for part in (parts if "g" in self.axes else parts.unsqueeze(0))]

    def shape(self, gates: int, units: int, read: int) -> tuple[int, ...]:
        """The shape of a matrix of all gates."""
        sizes = {"g": gates, "h": units, "i": read}
        return tuple(math.prod(sizes[axis] for axis in group) for group in self.groups)

    def bias_shape(self, gates: int, units: int) -> tuple[int, ...]:
        """The shape of a bias that lies as the matrix does, without i."""
        shape = self.shape(gates, units, 1)
        return tuple(size for group, size in zip(self.groups, shape, strict=True) if group != ["i"])

    def split_bias(self, row: Tensor, gates: int) -> list[Tensor]:
        """The bias of each gate, (H,), of one of them all, which lies as the matrix does without i."""
        if "g" in self.axes and self.axes.index("h") < self.axes.index("g"):
            return list(row.reshape(-1, gates).t().contiguous())
        return list(row.reshape(gates, -1))

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`, of matrices (H, I), and of `split_bias`, of biases (H,)."""
        whole = torch.stack(list(parts))
        axes = "ghi"[: whole.dim()]
        size = dict(zip(axes, whole.shape, strict=True))
        groups = [group for group in ([a for a in g if a in axes] for g in self.groups) if group]
        if "g" not in self.axes:
            groups = [["g"], *groups]
        whole = whole.permute([axes.index(axis) for group in groups for axis in group])
        shape = [math.prod(size[axis] for axis in group) for group in groups]
        return whole.reshape(shape if "g" in self.axes else shape[1:]).contiguous()
