"""The border of a layer: below it shapes, dtypes and devices are right, tensors are time-major and batched."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.jit._trace import is_tracing

if TYPE_CHECKING:
    from gatewise.layer import Layer


class NoTensorError(TypeError, AttributeError):
    """Something else was given where a tensor is expected.

    By Python's custom a TypeError; torch.nn's layers fail with an AttributeError, for which a program may look.
    """

    __module__ = "gatewise"


def check_options(
    name: str,
    input_size: Any,
    hidden_size: Any,
    num_layers: Any,
    batch_first: Any,
    dropout: Any,
    bidirectional: Any,
    proj_size: Any,
) -> None:
    """Raise TypeError or ValueError, as torch.nn's layers do, unless a layer can be made with these arguments."""
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers, "proj_size": proj_size}
    for argument, value in sizes.items():
        if type(value) is not int:
            raise TypeError(f"{name}: {argument} is {value!r}, expected an integer")
        if value < (argument != "proj_size"):
            raise ValueError(f"{name}: {argument} is {value}, expected at least {int(argument != 'proj_size')}")
    for argument, flag in {"batch_first": batch_first, "bidirectional": bidirectional}.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name}: {argument} is {flag!r}, expected True or False")
    if isinstance(dropout, bool) or not isinstance(dropout, Real) or not 0 <= float(dropout) <= 1:
        raise ValueError(f"{name}: dropout is {dropout!r}, expected a probability in [0, 1]")
    if proj_size >= hidden_size:
        raise ValueError(f"{name}: proj_size is {proj_size}, expected less than hidden_size = {hidden_size}")


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype to compute in: the weights', or autocast's where it is on (it leaves float64 alone)."""
    return torch.get_autocast_dtype(weight.device.type) if autocasts(weight) else weight.dtype


def autocasts(weight: Tensor) -> bool:
    """Whether autocast is on and concerns these weights."""
    device = weight.device.type
    available = weight.dtype != torch.float64 and torch.amp.is_autocast_available(device)
    return available and torch.is_autocast_enabled(device)


def is_features(input: Tensor) -> bool:
    """Whether the input has features, (…, I); else it is integers, which mean one-hot."""
    return input.is_floating_point() or input.is_complex() or input.dtype == torch.bool


def check_input(layer: Layer, input: Any, layout: str) -> bool:
    """Whether the input came batched.

    Args:
        layout: the axes of a batch before I: "TB", "BT" (batch first), "B" (one step) or "N" (the data of a packed
            sequence, all steps in a row). Unbatched input lacks B, integers lack I.

    Raises: see `Layer.forward`. Of torch.nn's cells a wrong dtype is a RuntimeError.
    """
    name, weight = type(layer).__name__, layer._weight
    if not isinstance(input, Tensor):
        or_packed = "" if layout == "B" else " or a PackedSequence"
        raise NoTensorError(f"{name}: input is a {type(input).__name__}, expected a tensor{or_packed}")
    if input.layout != torch.strided:
        raise RuntimeError(f"{name}: input is {input.layout}, expected a dense tensor; convert: input.to_dense()")
    features = is_features(input)
    wrong_dtype = RuntimeError if layer.one_step else ValueError
    axes = (*layout, "I") if features else tuple(layout)
    alone = tuple(axis for axis in axes if axis != "B")
    if input.dim() not in (len(axes), len(alone)):
        expected = axes_text(axes) + (f" or unbatched {axes_text(alone)}" if alone != axes else "")
        if features:
            raise (RuntimeError if layout == "N" else ValueError)(
                f"{name}: input has shape {tuple(input.shape)}, expected {expected}, or integers without I for one-hot"
            )
        raise wrong_dtype(
            f"{name}: integer input has shape {tuple(input.shape)}, expected {expected}: "
            "integers mean one-hot, without the axis I; numbers as features: input.float()"
        )
    if features and input.shape[-1] != layer.input_size:
        raise RuntimeError(
            f"{name}: input has shape {tuple(input.shape)}, expected {layer.input_size} = input_size at its end"
        )
    cast = autocasts(weight) and input.is_floating_point()  # they will be made the same
    if features and input.dtype != weight.dtype and not cast:
        other = f" or layer.to({input.dtype})" if input.is_floating_point() else ""
        raise wrong_dtype(
            f"{name}: input is {input.dtype}, the weights are {weight.dtype}; convert: input.to({weight.dtype}){other}"
        )
    if input.device != weight.device:
        raise RuntimeError(f"{name}: input is on {input.device}, the weights are on {weight.device}")
    batched = input.dim() == len(axes)
    if "T" in layout and input.shape[(axes if batched else alone).index("T")] == 0:
        raise RuntimeError(f"{name}: input has shape {tuple(input.shape)}: no steps, expected one or more")
    return batched


def axes_text(axes: tuple[str, ...]) -> str:
    """Axes as a shape is written: (T, B, I), (I,)."""
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"


def check_indices(layer: Layer, input: Tensor) -> None:
    """Raise IndexError unless integers lie in [0, I)."""
    if is_features(input) or not input.numel() or not _readable(input):
        return  # where values can't be read, gathering the rows of weight_ih checks them instead
    low, high = (int(v) for v in input.long().aminmax())
    if not 0 <= low <= high < layer.input_size:
        raise IndexError(
            f"{type(layer).__name__}: integer input lies in [{low}, {high}], expected [0, {layer.input_size - 1}], "
            f"which input_size = {layer.input_size} allows"
        )


def _readable(tensor: Tensor) -> bool:
    """Whether a tensor's values can be read here: it is not compiled, mapped or without data."""
    if torch.compiler.is_compiling() or is_tracing() or isinstance(tensor, FakeTensor):
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # vmap's may lie below grad's
        if torch._C._functorch.is_batchedtensor(tensor):
            return False
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return not tensor.is_meta


def check_lengths(layer: Layer, lengths: Any, steps: int, batch: int, batched: bool) -> Tensor:
    """Which steps are within their sequences, (T, B) bool; (0, 0) where lengths is None.

    T is the longest length, where that can be read, and else all the input's steps.

    Raises: see `Layer.forward`.
    """
    name, device = type(layer).__name__, layer._weight.device
    if lengths is None:
        return torch.zeros(0, 0, dtype=torch.bool, device=device)
    if not isinstance(lengths, Tensor):
        raise TypeError(f"{name}: lengths is a {type(lengths).__name__}, expected a tensor of integers, (B,)")
    if not batched:
        raise ValueError(f"{name}: lengths with unbatched input, which is one sequence; cut it: input[:length]")
    if lengths.dtype.is_floating_point or lengths.dtype.is_complex or lengths.dtype == torch.bool:
        raise ValueError(f"{name}: lengths is {lengths.dtype}, expected integers; convert: lengths.long()")
    if tuple(lengths.shape) != (batch,):
        raise ValueError(f"{name}: lengths has shape {tuple(lengths.shape)}, expected {(batch,)} = (batch,)")
    if batch and _readable(lengths):
        low, high = (int(v) for v in lengths.long().aminmax())
        if not 1 <= low <= high <= steps:
            raise ValueError(f"{name}: lengths lies in [{low}, {high}], expected [1, {steps}], the input's steps")
        steps = high
    if lengths.is_meta and device.type != "meta":
        raise RuntimeError(f"{name}: lengths is on meta, which has no values; the weights are on {device}")
    return torch.arange(steps, device=device).unsqueeze(1) < lengths.long().to(device)


def check_resets(layer: Layer, resets: Any, layout: str, shape: tuple[int, ...]) -> Tensor:
    """Where sequences are cut, booleans laid out as they came; (0, 0) where resets is None.

    Args:
        layout: as in `check_input`, without B if the input is unbatched. shape: that of the input, without I.

    Raises: see `Layer.forward`.
    """
    name, device = type(layer).__name__, layer._weight.device
    if resets is None:
        return torch.zeros(0, 0, dtype=torch.bool, device=device)
    if not isinstance(resets, Tensor):
        raise TypeError(f"{name}: resets is a {type(resets).__name__}, expected a tensor of booleans, or of 0 and 1")
    if resets.dtype.is_complex:
        raise ValueError(f"{name}: resets is {resets.dtype}, expected booleans, or numbers that are 0 or 1")
    if tuple(resets.shape) != shape:
        axes = axes_text(tuple(layout))
        raise ValueError(f"{name}: resets has shape {tuple(resets.shape)}, expected {shape} = {axes}")
    if resets.layout != torch.strided:
        raise RuntimeError(f"{name}: resets is {resets.layout}, expected a dense tensor; convert: resets.to_dense()")
    if resets.device != device:
        raise RuntimeError(f"{name}: resets is on {resets.device}, the weights are on {device}")
    if resets.dtype == torch.bool:
        return resets
    if resets.requires_grad:
        raise ValueError(f"{name}: resets requires a gradient, and a cut has none; give resets.detach()")
    if resets.numel() and _readable(resets) and (wrong := resets[(resets != 0) & (resets != 1)]).numel():
        raise ValueError(
            f"{name}: resets has {wrong[0].item():.6g} in it, expected booleans, or numbers that are 0 or 1, "
            "such as episode_starts; of a probability or a discount: resets < threshold"
        )
    return resets != 0


def _which_question(layer: Layer) -> str:
    """What code is to ask of a layer that it gave one tensor: by torch's class it may have missed that it has more."""
    twin: Any = torch.nn.LSTMCell if layer.one_step else torch.nn.LSTM
    by_class = f"isinstance(layer, nn.{twin.__name__})"
    wrong, right = by_class, "len(layer.cell.states) > 1"
    if isinstance(layer, twin):
        wrong, right = f"type(layer) == nn.{twin.__name__}", by_class
    return f". Code that asks {wrong} to tell whether a state is a tuple must ask {right}"


def check_states(layer: Layer, hx: Any, batch: int, batched: bool) -> tuple[Tensor, ...]:
    """The states before the first step, each (L * D, B, size); the layer's initial ones for None.

    Raises: see `Layer.forward`.
    """
    if hx is None:
        return layer._initial_states(batch)
    name, names = type(layer).__name__, layer.cell.states
    several = len(names) > 1
    states = tuple(hx) if several and isinstance(hx, (tuple, list)) else (hx,)
    tensors = all(isinstance(s, Tensor) for s in states)
    if len(states) != len(names) or not tensors:
        states = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
        kinds = ", ".join("a tensor" if isinstance(s, Tensor) else type(s).__name__ for s in states)
        what = f"({kinds})" if isinstance(hx, (tuple, list)) else kinds
        wants = f"({', '.join(names)})" if several else f"one tensor, {names[0]}"
        wrong_count = TypeError if layer.one_step and isinstance(hx, Tensor) else RuntimeError
        raise (wrong_count if tensors else NoTensorError)(
            f"{name}: hx is {what}, expected {wants}; layer.initial_state(batch) makes one"
            + (_which_question(layer) if several and isinstance(hx, Tensor) else "")
        )
    weight = layer._weight
    checked = []
    for label, state, shape in zip(names, states, layer.state_shapes(batch), strict=True):
        of = "hx" if len(names) == 1 else f"hx's {label}"
        size = "hidden_size" if shape[2] == layer.hidden_size else "proj_size"
        axes = dict(zip(("num_layers * num_directions", "batch", size), shape, strict=True))
        if not batched:
            del axes["batch"]
        if layer.one_step:
            del axes["num_layers * num_directions"]
        expected = tuple(axes.values())
        if tuple(state.shape) != expected:
            error = ValueError if layer.one_step and state.dim() not in (1, 2) else RuntimeError
            raise error(f"{name}: {of} has shape {tuple(state.shape)}, expected {expected} = ({', '.join(axes)})")
        if state.layout != torch.strided:
            raise RuntimeError(f"{name}: {of} is {state.layout}, expected a dense tensor; convert: hx.to_dense()")
        if state.device != weight.device:
            raise RuntimeError(f"{name}: {of} is on {state.device}, the weights are on {weight.device}")
        cast = autocasts(weight) and state.is_floating_point()
        if state.dtype != weight.dtype and not cast:
            raise RuntimeError(
                f"{name}: {of} is {state.dtype}, the weights are {weight.dtype}; convert: hx.to({weight.dtype})"
            )
        state = state.unsqueeze(0) if layer.one_step else state
        checked.append(state if batched else state.unsqueeze(1))
    return tuple(checked)
