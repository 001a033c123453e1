"""Arrays of any library as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatewise.errors import InputError

Array = Any  # a torch tensor, a numpy or jax array, or nested lists of numbers

DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Numbers:
    """Reads arrays in float64, in which no number of theirs is rounded, and remembers the widest dtype they came in."""

    def __init__(self) -> None:
        self._dtype: torch.dtype | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype so far; torch's default, if there were only lists and integers, which have none to keep."""
        return self._dtype or torch.get_default_dtype()

    def __call__(self, value: Array, what: str) -> Tensor:
        numbers, dtype = _read(value, what)
        if dtype is not None:
            self._dtype = dtype if self._dtype is None else torch.promote_types(self._dtype, dtype)
        return numbers


def tensor(value: Array, what: str) -> Tensor:
    """A copy of an array as a tensor on the CPU; lists and integers become torch's default dtype.

    Raises: InputError, which names `what`: it is no array of real numbers.
    """
    numbers = Numbers()
    made = numbers(value, what)
    return made.to(numbers.dtype)


def _read(value: Array, what: str) -> tuple[Tensor, torch.dtype | None]:
    """A copy in float64, and the dtype of what has one of floating-point numbers."""
    if isinstance(value, Tensor):
        if value.dtype in DTYPES.values():
            return value.detach().cpu().to(torch.float64, copy=True).contiguous(), value.dtype
        if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool:
            raise InputError(f"{what} is an array of {value.dtype}, expected real numbers")
        return value.detach().cpu().to(torch.float64), None
    if isinstance(value, (list, tuple, int, float)):
        return _of_list(value, what)
    import numpy as np

    array = np.asarray(value)
    name = array.dtype.name
    if name not in DTYPES and array.dtype.kind not in "iu":
        kind = f"a {type(value).__name__}" if array.dtype.kind == "O" else f"an array of {name}"
        raise InputError(f"{what} is {kind}, expected an array of real numbers")
    return torch.from_numpy(array.astype(np.float64, order="C")), DTYPES.get(name)


def _of_list(value: Any, what: str) -> tuple[Tensor, torch.dtype | None]:
    if isinstance(value, (list, tuple)) and any(not isinstance(v, (list, tuple, int, float)) for v in value):
        numbers = Numbers()  # of arrays
        parts = [numbers(v, f"{what}[{k}]") for k, v in enumerate(value)]
        if len({part.shape for part in parts}) > 1:
            raise InputError(f"{what} is a list of arrays of several shapes: {[tuple(p.shape) for p in parts]}")
        return torch.stack(parts), numbers._dtype
    try:
        return torch.tensor(value, dtype=torch.float64), None
    except (ValueError, TypeError) as error:  # its rows differ in length, or something in them is no number
        raise InputError(f"{what} is no array: {error}") from None
