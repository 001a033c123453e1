"""What torch's own machinery asks of a layer: its class, copies and pickles, TorchScript, quantisation, its weights.

A layer that is the very function of one of torch.nn's is an instance of that class too: programs ask
`isinstance(layer, torch.nn.LSTM)` to know that a state is a pair. It cannot be a subclass, since TorchDynamo breaks the
graph at instances of torch.nn's recurrent layers. So `type(layer)` is ours, and `layer.__class__`, where isinstance
looks next, is a view of ours that derives from torch's. Dynamo itself is shown `type(layer)`.
"""

from __future__ import annotations

import copyreg
import sys
from functools import cache
from types import FrameType
from typing import Any, Self

from torch import nn


class View(type):
    """A class as `layer.__class__` shows it: `own` in whatever is done with it, and a subclass of torch.nn's as well.

    Whoever calls it, derives from it, looks at its bases or sets its attributes has done so to `own`, as
    parametrizations do and FSDP, which give a module a class that derives from `module.__class__`.
    """

    own: type
    torchs: type

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        home = {"__module__": _module_of(sys._getframe(1))}
        return type(name, tuple(map(own_class, bases)), home | namespace, **options)

    def __call__(cls, *args: Any, **options: Any) -> Any:
        return cls.own(*args, **options)

    def __setattr__(cls, name: str, value: Any) -> None:
        setattr(cls.own, name, value)

    def __delattr__(cls, name: str) -> None:
        delattr(cls.own, name)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.own)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.own)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.own

    def __hash__(cls) -> int:
        return hash(cls.own)

    @property
    def __bases__(cls) -> tuple[type, ...]:  # type: ignore[override]
        return (*cls.own.__bases__, cls.torchs)


copyreg.pickle(View, lambda view: (own_class, (view.own,)))  # type: ignore[arg-type, return-value]


class _Unregistered:
    """First among a view's bases: what its class does to every subclass is not done to a view."""

    def __init_subclass__(cls, **options: Any) -> None:
        pass


def own_class(cls: type) -> type:
    """The class of which this is a view, or else the class itself."""
    return cls.own if isinstance(cls, View) else cls


def _view(own: type, torchs: type) -> type:
    """The view of a class of ours that derives from torch's, made once."""
    view = vars(own).get("_view")
    if view is None or view.own is not own:  # parametrizations copy what a class has
        metaclass = View if type(own) is type else type("View", (View, type(own)), {})
        names = {
            "own": own,
            "torchs": torchs,
            "__module__": own.__module__,
            "__qualname__": own.__qualname__,
            "__doc__": own.__doc__,
        }
        view = type.__new__(metaclass, own.__name__, (_Unregistered, own, torchs), names)
        own._view = view  # type: ignore[attr-defined]
    return view  # type: ignore[no-any-return]


def _module_of(frame: FrameType | None) -> str:
    """The name of the module whose code runs in a frame."""
    return str(frame.f_globals.get("__name__", "")) if frame is not None else ""


def _shown_class(layer: Any) -> type:
    own = type(layer)
    if "hidden_size" not in layer.__dict__ or why_not_torchs(layer):
        return own
    if _module_of(sys._getframe(1)).startswith("torch._dynamo.") and _teach_dynamo():
        return own
    return _view(own, layer.torch_class)


def _set_class(layer: Any, cls: type) -> None:
    object.__dict__["__class__"].__set__(layer, own_class(cls))


def why_not_torchs(layer: Any) -> str:
    """Why a layer is not the very function of one of torch.nn's layers with the same parameters; "" where it is."""
    if layer.torch_class is None:
        return f"torch.nn has no layer of {layer.cell.name}"
    if not getattr(layer, "reset_after", True):
        return f"torch.nn's {layer.torch_class.__name__} has no reset_after=False"
    if layer.learn_state:
        return "torch.nn's layers learn no states"
    theirs = next(cls for cls in type(layer).__mro__ if "torch_class" in vars(cls))
    if layer.cell is not theirs.cell.fget(layer):  # type: ignore[attr-defined]
        return f"its cell is {layer.cell.name}, which torch.nn's {layer.torch_class.__name__} does not compute"
    return ""


@cache
def _teach_dynamo() -> bool:
    """Make Dynamo answer `isinstance(layer, …)` in compiled code as Python does; whether that could be done.

    Dynamo looks at a value's type alone, and so would take the wrong branch without a word. Where its insides are not
    those known here, it is shown the view, and breaks the graph at our layers as it does at torch's.
    """
    try:
        from torch._dynamo.variables import ConstantVariable, NNModuleVariable, UnspecializedNNModuleVariable
        from torch._dynamo.variables.builtin import BuiltinVariable

        by_type, handlers = BuiltinVariable.call_isinstance, BuiltinVariable.call_function_handler_cache
    except (ImportError, AttributeError):
        return False

    def call_isinstance(self: Any, tx: Any, arg: Any, classes: Any) -> Any:
        layer = arg.value if isinstance(arg, (NNModuleVariable, UnspecializedNNModuleVariable)) else None
        if isinstance(layer, TorchCompat):
            return ConstantVariable.create(isinstance(layer, classes.as_python_constant()))
        return by_type(self, tx, arg, classes)

    BuiltinVariable.call_isinstance = call_isinstance  # type: ignore[method-assign, assignment]
    handlers.clear()  # which hold the method from before
    return True


def new(cls: type[nn.Module]) -> nn.Module:
    """A layer of this class without its state, which pickle and copy set."""
    return cls.__new__(cls)


class TorchCompat(nn.Module):
    """The part of a layer that faces torch's machinery."""

    torch_class: type[nn.Module] | None = None  # torch.nn's layer of the same parameters and, by default, function
    learn_state: bool
    _recorders: tuple[Any, ...] = ()  # of `gatewise.record`, while it is open
    _all_weights: list[list[str]]  # the names, as in torch.nn's layers

    __class__ = property(_shown_class, _set_class)

    def __new__(cls, *args: Any, **options: Any) -> Self:
        own: type[Self] = own_class(cls)
        return super().__new__(own)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles have; they are not recorded."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name != "_recorders"}

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Without it pickle makes type(self) anew, and refuses where that is not self.__class__.
        return new, (type(self),), self.__getstate__()

    # --- the weights, as torch.nn's layers list them --------------------------------------------------------------

    @property
    def all_weights(self) -> list[list[Any]]:
        """The parameters of each layer and direction, as torch.nn's layers list them; without learned states."""
        return [[getattr(self, name, None) for name in names] for names in self._all_weights]

    @property
    def _flat_weights(self) -> list[Any]:
        return [weight for weights in self.all_weights for weight in weights]

    @_flat_weights.setter
    def _flat_weights(self, _: list[Any]) -> None:
        """Nothing: torch.nn's base class stores a list here, which grows stale under parametrizations."""

    # --- TorchScript and quantisation, which know torch.nn's layers alone -----------------------------------------

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script compiles in this layer's place: torch.nn's, with the same parameters.

        Raises NotImplementedError: torch.nn has no such layer.
        """
        if reason := why_not_torchs(self):
            raise NotImplementedError(f"{type(self).__name__}: TorchScript compiles torch.nn's layers only: {reason}")
        return torchs_twin(self)

    @property
    def qconfig(self) -> Any:
        if "qconfig" not in self.__dict__:
            raise AttributeError("qconfig")
        return None

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        # torch.ao.quantization sets it on every module: on those that it was told to quantize how, on others None.
        if value is not None or self._told_to_quantize(sys._getframe(1)):
            raise NotImplementedError(
                f"{type(self).__name__}: torch.ao.quantization knows torch.nn's layers only; "
                "first gatewise.restore(model), which makes them torch.nn's"
            )
        self.__dict__["qconfig"] = None

    @qconfig.deleter
    def qconfig(self) -> None:
        del self.__dict__["qconfig"]

    def _told_to_quantize(self, frame: FrameType | None) -> bool:
        """Whether torch.ao.quantization, passing this layer by, was told of a class that it is an instance of.

        It looks for `type(layer)` among those classes, and so would leave a gatewise.LSTM as it is where it was told to
        quantize torch.nn's.
        """
        while _module_of(frame).startswith("torch.nn.modules."):  # their __setattr__
            frame = frame.f_back  # type: ignore[union-attr]
        if not _module_of(frame).startswith("torch.ao.quantization"):
            return False  # a program that excludes the layer
        told = frame.f_locals.get("qconfig_dict")  # type: ignore[union-attr]
        return told is None or any(isinstance(self, key) for key in told if isinstance(key, type))


def torchs_twin(layer: TorchCompat) -> nn.Module:
    """torch.nn's layer with the same parameters, not copies, of one that is its very function."""
    new_class = layer.torch_class
    assert new_class is not None
    twin = new_class.__new__(new_class)
    twin.__dict__.update(layer.__dict__)
    for ours in ("reset_after", "learn_state"):
        twin.__dict__.pop(ours, None)
    if isinstance(twin, nn.RNNBase):
        twin._init_flat_weights()
    return twin
