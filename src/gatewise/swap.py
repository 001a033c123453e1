"""Swapping the recurrent layers of a model: torch.nn's for gatewise's, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from gatewise.layer import Layer
from gatewise.layers import GRU, LSTM, RNN
from gatewise.single_step import GRUCell, LSTMCell, RNNCell
from gatewise.torch_compat import why_not_torchs

TORCHS: dict[type[nn.Module], type[nn.Module]] = {
    ours: ours.torch_class for ours in (RNN, GRU, LSTM, RNNCell, GRUCell, LSTMCell)
}
OURS = {theirs: ours for ours, theirs in TORCHS.items()}


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
        old = class_of(module)
        new = classes.get(old)
        if new is None:
            if isinstance(module, torch.jit.ScriptModule) and module.original_name in [c.__name__ for c in classes]:
                swaps.skipped[name] = f"{module.original_name} is compiled by TorchScript already"
            elif known := [cls for cls in classes if issubclass(old, cls)]:
                swaps.skipped[name] = f"{old.__name__} is a subclass of {_name(known[0])}, which may compute otherwise"
            elif classes is TORCHS and isinstance(module, Layer):
                swaps.skipped[name] = f"torch.nn has no layer of {module.cell.name}"
        elif isinstance(module, Layer) and (reason := why_not_torchs(module)):
            swaps.skipped[name] = reason
        else:
            _change_class(module, old, new)
            swaps.swapped[name] = f"{_name(old)} -> {_name(new)}"
    return swaps


def _name(cls: type) -> str:
    return f"{cls.__module__.split('.')[0]}{'.nn' if cls.__module__.startswith('torch') else ''}.{cls.__name__}"


def class_of(module: nn.Module) -> type[nn.Module]:
    """The class that says what a module computes: its own, of a parametrized one that class's base."""
    # Not torch's type_before_parametrizations, which asks for module.__class__: see torch_compat.py.
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


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
