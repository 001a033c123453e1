"""The border of a layer: below it shapes, dtypes and devices are right, tensors are time-major and batched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gatewise.layers import Layer


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype to compute in: the weights', or autocast's where it is on (it leaves float64 alone)."""
    device = weight.device.type
    if weight.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return weight.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def check_input(layer: Layer, input: Any) -> tuple[Tensor, bool]:
    """The input as (T, B, I) or integers (T, B), and whether it came batched.

    Raises: see `Layer.forward`.
    """
    name = type(layer).__name__
    if not isinstance(input, Tensor):
        packed = " (packed sequences are not supported yet)" if "PackedSequence" in type(input).__name__ else ""
        raise TypeError(f"{name}: input is a {type(input).__name__}, expected a tensor{packed}")
    layout = "(B, T, I) with batch_first" if layer.batch_first else "(T, B, I)"
    if input.is_floating_point() or input.is_complex() or input.dtype == torch.bool:
        _check_features(layer, input, layout)
        batched = input.dim() == 3
    else:
        _check_indices(layer, input, layout.replace(", I", ""))
        batched = input.dim() == 2
    if input.device != layer.weight_ih_l0.device:
        raise RuntimeError(f"{name}: input is on {input.device}, the weights are on {layer.weight_ih_l0.device}")
    if not batched:
        input = input.unsqueeze(1)
    elif layer.batch_first:
        input = input.transpose(0, 1)
    if input.shape[0] == 0:
        raise RuntimeError(f"{name}: the sequence has no steps, expected at least one")
    return input, batched


def _check_features(layer: Layer, input: Tensor, layout: str) -> None:
    name, weight = type(layer).__name__, layer.weight_ih_l0
    if input.dim() not in (2, 3):
        raise ValueError(
            f"{name}: input has shape {tuple(input.shape)}, expected {layout} or unbatched (T, I), "
            "or integers without I for one-hot"
        )
    if input.shape[-1] != layer.input_size:
        raise RuntimeError(
            f"{name}: input has shape {tuple(input.shape)}, expected {layer.input_size} = input_size at its end"
        )
    cast = compute_dtype(weight) != weight.dtype and input.is_floating_point()  # autocast will make them the same
    if input.dtype != weight.dtype and not cast:
        other = f" or layer.to({input.dtype})" if input.is_floating_point() else ""
        raise ValueError(
            f"{name}: input is {input.dtype}, the weights are {weight.dtype}; convert: input.to({weight.dtype}){other}"
        )


def _check_indices(layer: Layer, input: Tensor, layout: str) -> None:
    name = type(layer).__name__
    if input.dim() not in (1, 2):
        raise ValueError(
            f"{name}: integer input has shape {tuple(input.shape)}, expected {layout} or unbatched (T,): integers "
            "mean one-hot, without the axis I; numbers as features: input.float()"
        )
    # Where values can't be read (compiled, mapped, meta), gathering the rows of weight_ih checks them instead.
    unread = torch.compiler.is_compiling() or torch._C._functorch.is_batchedtensor(input) or input.is_meta
    if input.numel() and not unread:
        low, high = (int(v) for v in input.long().aminmax())
        if not 0 <= low <= high < layer.input_size:
            raise IndexError(
                f"{name}: integer input lies in [{low}, {high}], expected [0, {layer.input_size - 1}], "
                f"which input_size = {layer.input_size} allows"
            )


def check_states(layer: Layer, hx: Any, batch: int, batched: bool) -> tuple[Tensor, ...]:
    """The states before the first step, each (L * D, B, size); zeros for None.

    Raises: see `Layer.forward`.
    """
    if hx is None:
        hx = layer.initial_state(batch)
        return hx if isinstance(hx, tuple) else (hx,)
    name, names = type(layer).__name__, layer.cell.states
    states = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
    if len(states) != len(names) or not all(isinstance(s, Tensor) for s in states):
        kinds = ", ".join("a tensor" if isinstance(s, Tensor) else type(s).__name__ for s in states)
        what = f"({kinds})" if isinstance(hx, (tuple, list)) else kinds
        wants = f"({', '.join(names)})" if len(names) > 1 else f"one tensor, {names[0]}"
        raise TypeError(f"{name}: hx is {what}, expected {wants}; layer.initial_state(batch) makes one")
    weight = layer.weight_ih_l0
    checked = []
    for label, state, shape in zip(names, states, layer.state_shapes(batch), strict=True):
        of = "hx" if len(names) == 1 else f"hx's {label}"
        expected = shape if batched else (shape[0], shape[2])
        if tuple(state.shape) != expected:
            size = "hidden_size" if shape[2] == layer.hidden_size else "proj_size"
            axes = f"num_layers * num_directions, {'batch, ' if batched else ''}{size}"
            raise RuntimeError(f"{name}: {of} has shape {tuple(state.shape)}, expected {expected} = ({axes})")
        if state.device != weight.device:
            raise RuntimeError(f"{name}: {of} is on {state.device}, the weights are on {weight.device}")
        cast = compute_dtype(weight) != weight.dtype and state.is_floating_point()
        if state.dtype != weight.dtype and not cast:
            raise RuntimeError(
                f"{name}: {of} is {state.dtype}, the weights are {weight.dtype}; convert: hx.to({weight.dtype})"
            )
        checked.append(state if batched else state.unsqueeze(1))
    return tuple(checked)
