"""Swapping the recurrent layers of a model: torch.nn's for gatewise's, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from gatewise.layer import Layer
from gatewise.layers import GRU, LSTM, RNN
from gatewise.single_step import GRUCell, LSTMCell, RNNCell

OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: RNN,
    nn.GRU: GRU,
    nn.LSTM: LSTM,
    nn.RNNCell: RNNCell,
    nn.GRUCell: GRUCell,
    nn.LSTMCell: LSTMCell,
}
TORCHS = {ours: theirs for theirs, ours in OURS.items()}


@dataclass(frozen=True)
class Swaps:
    """What was swapped, by the module's name in the model ("" for the model itself), and what was not, and why."""

    swapped: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name or 'the model'}: {what}" for name, what in self.swapped.items()]
        lines += [f"{name or 'the model'}: left as it is: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines) or "no recurrent layer found"


def replace(model: nn.Module) -> Swaps:
    """Make every torch.nn.RNN, GRU, LSTM, RNNCell, GRUCell and LSTMCell in a model gatewise's, in place.

    The modules stay the same objects, and so do their parameters: an optimizer, a hook, a second reference or a
    tied weight does not notice. Only the class changes, and with it what computes.

    Initialise, then replace: `type(m) == nn.GRU` is false afterwards, and what initialises by it passes these layers by
    without a word. Asked like this, it is right before and after:

        for m in model.modules():
            if isinstance(m, nn.GRU):
                for name in m._flat_weights_names: …

    Args:
        model: any module; one that is itself such a layer is swapped too.

    Returns:
        What was swapped, `.swapped`, by name; and what was not, `.skipped`, with its reason: a subclass of a torch.nn
        layer may compute something else, and TorchScript's modules are compiled already.
    """
    return _swap(model, OURS)


def restore(model: nn.Module) -> Swaps:
    """The inverse of `replace`: make every gatewise layer that torch.nn knows torch.nn's, in place.

    For what works on torch.nn's classes alone, such as `quantize_dynamic`.

    Returns:
        What was swapped, and what was not: layers that torch.nn does not have are skipped with their reason.
    """
    return _swap(model, TORCHS)


def _swap(model: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> Swaps:
    swaps = Swaps()
    for name, module in model.named_modules():
        old = type_before_parametrizations(module)
        new = classes.get(old)
        if new is None:
            if isinstance(module, torch.jit.ScriptModule) and module.original_name in [c.__name__ for c in classes]:
                swaps.skipped[name] = f"{module.original_name} is compiled by TorchScript already"
            elif known := [cls for cls in classes if isinstance(module, cls)]:
                swaps.skipped[name] = f"{old.__name__} is a subclass of {_name(known[0])}, which may compute otherwise"
            elif classes is TORCHS and isinstance(module, Layer):
                swaps.skipped[name] = f"torch.nn has no layer of {module.cell.name}"
        elif reason := _unknown_to_torch(module):
            swaps.skipped[name] = reason
        else:
            _change_class(module, old, new)
            swaps.swapped[name] = f"{_name(old)} -> {_name(new)}"
    return swaps


def _name(cls: type) -> str:
    return f"{cls.__module__.split('.')[0]}{'.nn' if cls.__module__.startswith('torch') else ''}.{cls.__name__}"


def _unknown_to_torch(module: nn.Module) -> str:
    """Why a layer of ours is none of torch.nn's; empty if it is one."""
    if not getattr(module, "reset_after", True):
        return "torch.nn's GRU has no reset_after=False"
    return "torch.nn's layers learn no states" if getattr(module, "learn_state", False) else ""


def _change_class(module: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> None:
    """Give a module another class, as torch.nn.utils.parametrize does; of a parametrized one, that class's base."""
    if is_parametrized(module):
        cls = type(module)
        new = type(f"Parametrized{new.__name__}", (new,), dict(vars(cls)))
    module.__class__ = new
    module.__dict__.pop("_flat_weights", None)  # torch.nn's layers keep a list of their weights, ours read them by name
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def our_twin(layer: nn.Module) -> Layer:
    """gatewise's layer with the same parameters, not copies, of one of torch.nn's, which is not changed."""
    twin = type(layer).__new__(type(layer))
    twin.__dict__.update(layer.__dict__)
    replace(twin)
    assert isinstance(twin, Layer)
    return twin


def torchs_twin(layer: Layer) -> nn.Module:
    """torch.nn's layer with the same parameters, not copies; NotImplementedError if torch.nn has none."""
    new = TORCHS.get(type(layer))
    if new is None or (reason := _unknown_to_torch(layer)):
        why = f"torch.nn has no layer of {layer.cell.name}" if new is None else reason
        raise NotImplementedError(f"{type(layer).__name__}: TorchScript compiles torch.nn's layers only: {why}")
    twin = new.__new__(new)
    twin.__dict__.update(layer.__dict__)
    for ours in ("reset_after", "learn_state"):
        twin.__dict__.pop(ours, None)
    if isinstance(twin, nn.RNNBase):
        twin._init_flat_weights()
    return twin
