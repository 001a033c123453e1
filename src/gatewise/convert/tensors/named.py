"""The recurrent layers among named tensors: by torch's names of parameters, or as `write` told them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gatewise.convert.arrays import ours
from gatewise.errors import InputError
from gatewise.graph.graph import Graph
from gatewise.layer import Layer
from gatewise.layers import GRU, LSTM, RNN, Recurrent
from gatewise.single_step import GRUCell, LSTMCell, RNNCell
from gatewise.swap import OURS

FORMAT = 1
_SIZES = ("input_size", "hidden_size")
_COMMON = (*_SIZES, "num_layers", "bias", "batch_first", "dropout", "bidirectional", "learn_state")
# What a layer of each class is made with.
OPTIONS: dict[type[Layer], tuple[str, ...]] = {
    RNN: (*_COMMON, "nonlinearity"),
    GRU: (*_COMMON, "reset_after"),
    LSTM: (*_COMMON, "proj_size"),
    Recurrent: (*_COMMON, "proj_size"),
    RNNCell: (*_SIZES, "bias", "nonlinearity"),
    GRUCell: (*_SIZES, "bias", "reset_after"),
    LSTMCell: (*_SIZES, "bias"),
}
NAME = re.compile(
    r"(?P<prefix>(?:.*\.)?)(?P<name>weight_ih|weight_hh|bias_ih|bias_hh|weight_hr|[hc]_0)"
    r"(?:_l(?P<layer>\d{1,4})(?P<reverse>_reverse)?)?"
)
KINDS = {1: (RNN, RNNCell), 3: (GRU, GRUCell), 4: (LSTM, LSTMCell)}  # by gates: rows of weight_hh for each unit


@dataclass(frozen=True)
class Found:
    """A layer among the tensors. prefix: of its parameters' names, "rnn." or "". names: of those that it took."""

    prefix: str
    layer: Layer
    names: tuple[str, ...]


# --- by torch's names --------------------------------------------------------------------------------


def by_names(tensors: Mapping[str, Tensor]) -> list[Found]:
    """Layers with torch.nn's names of parameters, `rnn.weight_ih_l0` and so on; the kind is told by the rows.

    Raises: InputError: a set that is begun by its names is incomplete, or its shapes contradict each other.
    """
    sets: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if match := NAME.fullmatch(name):
            sets.setdefault(match["prefix"], {})[name.removeprefix(match["prefix"])] = value
    found = []
    for prefix, own in sets.items():
        if any(name.startswith("weight_ih") for name in own):
            layer = _layer(prefix, own)
            found.append(Found(prefix, filled(layer, own, prefix), tuple(prefix + name for name in own)))
    return found


def _layer(prefix: str, own: Mapping[str, Tensor]) -> Layer:
    """A layer with parameters of these shapes, as far as the first of them tell; the rest is checked by `filled`."""
    step = "weight_ih" in own
    suffix = "" if step else "_l0"
    try:
        weight_ih, weight_hh = own[f"weight_ih{suffix}"], own[f"weight_hh{suffix}"]
    except KeyError as error:
        raise InputError(
            f"{prefix}{error.args[0]} is missing, beside {prefix}{next(iter(own))}: the layer is incomplete"
        ) from None
    for name, value in own.items():
        if not value.is_floating_point() or value.dim() != (1 if name.startswith(("bias", "h_0", "c_0")) else 2):
            raise InputError(f"{prefix}{name} is {value.dtype} {tuple(value.shape)}, which is no weight of a layer")
    projected = own.get(f"weight_hr{suffix}")
    hidden = weight_hh.shape[1] if projected is None else projected.shape[1]
    rows = weight_hh.shape[0]
    gates = rows // hidden if hidden and rows % hidden == 0 else 0
    if gates not in KINDS or (projected is not None and gates != 4):
        raise InputError(
            f"{prefix}weight_hh{suffix} is {tuple(weight_hh.shape)}: expected 1 (RNN), 3 (GRU) or 4 (LSTM)"
            f" times {hidden} rows for {hidden} units" + (", and 4 beside weight_hr" if projected is not None else "")
        )
    options: dict[str, Any] = {"device": "meta", "bias": f"bias_ih{suffix}" in own}
    cls = KINDS[gates][step]
    if not step:
        numbers = {int(match["layer"] or 0) for name in own if (match := NAME.fullmatch(name))}
        options["num_layers"] = 1 + max(n for n in numbers if n < len(own))
        options["bidirectional"] = "weight_ih_l0_reverse" in own
        options["learn_state"] = "h_0_l0" in own
        if projected is not None:
            options["proj_size"] = projected.shape[0]
    layer: Layer = cls(weight_ih.shape[1], hidden, **options)
    return layer


def filled(layer: Layer, own: Mapping[str, Tensor], prefix: str) -> Layer:
    """The layer, made on the meta device, with these tensors as its parameters; InputError where they do not fit."""
    if wrong := differences(layer.state_dict(), own, prefix):
        raise InputError(f"the tensors {prefix}* are no {type(layer).__name__}: {wrong}")
    if len({value.dtype for value in own.values()}) > 1:
        raise InputError(f"the tensors {prefix}* have several dtypes, expected one")
    layer.load_state_dict({name: own[name].clone() for name in layer.state_dict()}, assign=True)
    return layer.eval()


def differences(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor], prefix: str = "") -> str:
    """What is missing, not expected or of another shape; empty if all fits."""
    missing = [name for name in wanted if name not in got]
    unexpected = [name for name in got if name not in wanted]
    shapes = [
        f"{prefix}{name} is {tuple(got[name].shape)}, expected {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in got and got[name].shape != value.shape
    ]
    parts = [f"missing: {_some(prefix, missing)}"] if missing else []
    parts += [f"not expected: {_some(prefix, unexpected)}"] if unexpected else []
    return "; ".join([*parts, *shapes[:3], *([f"{len(shapes) - 3} more shapes"] if len(shapes) > 3 else [])])


def _some(prefix: str, names: Sequence[str]) -> str:
    """The names, or the first of very many."""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(prefix + name for name in names[:6]) + more


# --- as they were told -------------------------------------------------------------------------------


def recurrent(module: nn.Module) -> dict[str, nn.Module]:
    """The recurrent layers in a module by name ("" for the module itself): gatewise's and torch.nn's."""
    return {n: child for n, child in module.named_modules() if isinstance(child, Layer) or type(child) in OURS}


def described(module: nn.Module) -> tuple[str, list[str]]:
    """The text that tells a module's recurrent layers, so that `restored` makes them; and those it cannot tell."""
    told, untold = {}, []
    for name, child in recurrent(module).items():
        layer = ours(child) if type(child) in OURS else child
        assert isinstance(layer, Layer)
        cls = type(layer)
        if cls in OPTIONS:
            options = {option: getattr(layer, option) for option in OPTIONS[cls]}
            told[name] = {"class": cls.__name__, "cell": layer.cell.text, "options": options}
        else:
            untold.append(f"{name or 'the layer'} is a {cls.__name__}: it is read back by `like` alone")
    return json.dumps({"format": FORMAT, "layers": told}) if told else "", untold


def cells_of(text: str, what: str) -> dict[str, tuple[type[Layer], Graph, dict[str, Any]]]:
    """By layer, its class, cell and options, as `described` wrote them.

    Raises: InputError: the text is another's, or damaged.
    """
    try:
        told: Any = json.loads(text) if text else {"format": FORMAT, "layers": {}}
        if told["format"] != FORMAT:
            raise InputError(f"{what} has layers in format {told['format']!r}, expected {FORMAT}: update gatewise")
        classes = {cls.__name__: cls for cls in OPTIONS}
        made = {}
        for name, layer in told["layers"].items():
            cls, options = classes[layer["class"]], dict(layer["options"])
            if set(options) != set(OPTIONS[cls]):
                raise ValueError(f"the options of {name} are {sorted(options)}")
            made[name] = cls, Graph.parse(layer["cell"]), options
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"what {what} tells of its layers is damaged: {_first_line(error)}") from error
    return made


def restored(text: str, tensors: Mapping[str, Tensor], what: str) -> list[Found]:
    """The layers that `described` told, with these tensors.

    Raises: InputError: the text is damaged, or the tensors do not fit it.
    """
    found = []
    for name, (cls, cell, options) in cells_of(text, what).items():
        prefix = f"{name}." if name else ""
        own = {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}
        inner = {n: value for n, value in own.items() if "." not in n}
        if not isinstance(options.get("num_layers", 1), int) or options.get("num_layers", 1) > len(inner):
            raise InputError(f"what {what} tells of its layers is damaged: {name} has fewer tensors than layers")
        try:
            first = (cell,) if cls is Recurrent else ()
            layer = cls(*first, **options, device="meta")
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise InputError(f"what {what} tells of its layers is damaged: {_first_line(error)}") from error
        if not same_function(layer.cell, cell):
            raise InputError(f"what {what} tells of its layers is damaged: {name} is a {cls.__name__} of {cell.name}")
        found.append(Found(prefix, filled(layer, inner, prefix), tuple(prefix + n for n in inner)))
    return found


def same_function(one: Graph, other: Graph) -> bool:
    """Whether two cells compute the same in evaluation, from the same parameters."""
    one, other = one.expected, other.expected
    return (one.gates, one.nodes, one.outputs) == (other.gates, other.nodes, other.outputs)


def _first_line(error: Exception) -> str:
    """What is wrong; torch adds a trace of its own."""
    return str(error).partition("\n")[0]
