"""How a matrix of all gates lies in an array: "(g h) i" of torch, "i (g h)" of Keras, after einops' notation.

g are the gates, h the units that are computed, i what is read. Parentheses join axes that lie in one, the first of
them slowest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor


class Layout:
    """The axes of a matrix of all gates.

    Args: text: g, h and i, each once, g and h perhaps joined, in either order: "(g h) i", "i (h g)", "i g h" …

    Raises: ValueError: it is something else.
    """

    def __init__(self, text: str) -> None:
        groups = [a or b for a, b in re.findall(r"\(([^()]*)\)|(\w+)", text)]
        self.text = text
        self.groups = [group.split() for group in groups]
        self.axes = [axis for group in self.groups for axis in group]
        known = sorted(self.axes) in (["g", "h", "i"], ["h", "i"])
        if (
            not known
            or ["i"] not in self.groups
            or re.sub(r"[\s()ghi]", "", text)
            or text.count("(") != text.count(")")
        ):
            raise ValueError(f'layout is {text!r}, expected g, h and i, each once, such as "(g h) i" or "i (g h)"')

    def without_gates(self) -> Layout:
        """The layout of one gate's matrix."""
        return Layout(" ".join(axis for axis in self.axes if axis != "g"))

    def split(self, array: Tensor, gates: int, what: str) -> list[Tensor]:
        """The matrix of each gate, (H, I), in the order in which they are stacked."""
        if "g" not in self.axes and gates > 1:
            raise ValueError(f"layout is {self.text!r}, which has no gates, and {what} is one array of {gates} gates")
        sizes: list[int] = []
        if array.dim() != len(self.groups):
            raise ValueError(f"{what} has shape {tuple(array.shape)}, expected {len(self.groups)} axes, {self.text}")
        for group, size in zip(self.groups, array.shape, strict=True):
            if "g" in group and size % gates:
                raise ValueError(f"{what} has shape {tuple(array.shape)} in {self.text}, expected {gates} gates: "
                                 f"{size} is no multiple of {gates}")  # fmt: skip
            if group == ["g"] and size != gates:
                raise ValueError(
                    f"{what} has shape {tuple(array.shape)} in {self.text}: {size} gates, expected {gates}"
                )
            sizes += [size] if len(group) == 1 else [gates if axis == "g" else size // gates for axis in group]
        whole = array.reshape(sizes)
        order = [self.axes.index(axis) for axis in "ghi" if axis in self.axes]
        parts = whole.permute(order)
        return [part.contiguous() for part in (parts if "g" in self.axes else parts.unsqueeze(0))]

    def split_bias(self, row: Tensor, gates: int) -> list[Tensor]:
        """The bias of each gate, (H,), of one row of them all, which lies as the matrix does without i."""
        if "g" in self.axes and self.axes.index("h") < self.axes.index("g"):
            return list(row.reshape(-1, gates).t().contiguous())
        return list(row.reshape(gates, -1))

    def join(self, matrices: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`; of biases, (H,) each, what is left of the layout without i."""
        whole = torch.stack(list(matrices))
        has = "ghi" if whole.dim() == 3 else "gh"
        groups = [[axis for axis in group if axis in has] for group in self.groups]
        axes = [axis for group in groups for axis in group]
        shape = [
            int(torch.tensor([whole.shape["ghi".index(axis)] for axis in group]).prod()) for group in groups if group
        ]
        return whole.permute(["ghi".index(axis) for axis in axes]).reshape(shape).contiguous()
