"""A file of weights without an architecture: its recurrent layers by name, or a module that it fits.

What a layer is can be told by the shapes of its arrays alone, but not its activations: those are taken to be Keras's
usual ones, and the report says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gatewise import cells
from gatewise.convert.arrays import both_directions, one_bias_is_enough, ours, weights_of
from gatewise.convert.keras.config import Config
from gatewise.convert.keras.files import Contents
from gatewise.convert.keras.recurrent import how, layer_of
from gatewise.convert.report import Conversion, Layers, Mapped
from gatewise.errors import InputError
from gatewise.layer import Layer

ASSUMED = (
    "the file tells no activations: tanh, and sigmoid for gates, are what Keras uses unless told otherwise "
    "(before 2.3, and in TensorFlow 1: hard_sigmoid for the gates of GRU and LSTM)"
)


Sides = list[tuple[Config, list[Tensor]]]  # a layer's directions: what each is, and its arrays as they are stored
SIDES = {"forward_layer": "0", "backward_layer": "1"}  # in this order


@dataclass(frozen=True)
class Found:
    """A layer's arrays with their names. side: "forward" or "backward" of a layer of two directions, or ""."""

    name: str
    arrays: Sequence[tuple[str, Tensor]]
    side: str = ""

    @property
    def tensors(self) -> list[Tensor]:
        return [array for _, array in self.arrays]

    @property
    def shapes(self) -> str:
        return ", ".join(str(tuple(a.shape)) for a in self.tensors)


def found_in(contents: Contents) -> list[Found]:
    """The layers of a file that have arrays, in its order; each direction is one."""
    made: list[Found] = []
    for name, arrays in contents.flat.items():
        groups: dict[str, list[tuple[str, Tensor]]] = {}
        for stored, array in arrays:
            inside = stored.rpartition("/")[0]
            groups.setdefault(inside, []).append((stored.rpartition("/")[2].partition(":")[0], array))
        for inside, group in groups.items():
            match = re.search(r"(?:^|/)(forward|backward)_", inside)
            alone = len(groups) == 1 or match is not None
            made.append(Found(name if alone else f"{name}/{inside}", group, match[1] if match else ""))
    for path, found in sorted(contents.tree.items(), key=lambda item: _order(item[0])):
        if found and not path.endswith("seed_generator"):
            steps = [s for s in path.split("/") if s not in ("layers", "cell")]
            side = next((s.partition("_")[0] for s in steps if s in ("forward_layer", "backward_layer")), "")
            steps = [s for s in steps if s not in ("forward_layer", "backward_layer")]
            made.append(Found("/".join(steps) or "layer", [(f"array {k}", a) for k, a in enumerate(found)], side))
    return made


def _order(path: str) -> tuple[object, ...]:
    """lstm, lstm_1, …, lstm_10: the order of the layers of one class, of others a file tells none; forward is first."""
    parts: list[object] = []
    for step in path.split("/"):
        base, _, number = step.rpartition("_")
        parts += [base, int(number)] if number.isdigit() and base else [SIDES.get(step, step), 0]
    return tuple(parts)


def kind(found: Found) -> tuple[str, dict[str, object]] | str:
    """A recurrent layer's class and settings, told by its shapes; "" if it is none, else why it cannot be told."""
    tensors = found.tensors
    if len(tensors) not in (2, 3) or tensors[0].dim() != 2 or tensors[1].dim() != 2:
        return ""
    units, width = tensors[1].shape
    if units == 0 or tensors[0].shape[1] != width or width % units or width // units not in (1, 3, 4):
        return ""
    gates, biased = width // units, len(tensors) == 3
    shape = tuple(tensors[2].shape) if biased else None
    plain: dict[str, object] = {
        "units": units,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": biased,
    }
    if gates == 1:
        return ("SimpleRNN", plain) if shape in (None, (width,)) else ""
    if gates == 4:
        cudnn = shape == (2 * width,)
        return ("CuDNNLSTM" if cudnn else "LSTM", plain) if cudnn or shape in (None, (width,)) else ""
    if shape is None:
        return "a GRU without biases: whether its reset gate acts before or after the product, its shapes do not tell"
    kinds = {(2, width): ("GRU", True), (width,): ("GRU", False), (2 * width,): ("CuDNNGRU", True)}
    if shape not in kinds:
        return ""
    name, after = kinds[shape]
    return name, {**plain, "reset_after": after}


def config_of(found: Found, contents: Contents) -> Config | str:
    """A recurrent layer's configuration, as far as its shapes tell it; or why there is none."""
    told = kind(found)
    if isinstance(told, str):
        return told
    return Config({"class_name": told[0], "config": {**told[1], "name": found.name.replace("/", "_")}}, contents.name)


def layer_from(found: Found, contents: Contents) -> tuple[Layer, str] | str:
    """The layer, and what had to be known; or why there is none."""
    config = config_of(found, contents)
    if isinstance(config, str):
        return config
    made = layer_of(config, found.tensors, contents.second)
    return made, f"{config.kind}: {how(config, made, contents.second)}"


def recurrent_in(contents: Contents) -> dict[str, Sides]:
    """What `read_weights` makes layers of, by the same names; two directions together and each alone."""
    made: dict[str, Sides] = {}
    for found in found_in(contents):
        config, name = config_of(found, contents), found.name.replace(".", "_")
        if not isinstance(config, str):
            made.setdefault(name, []).append((config, found.tensors))
            if found.side:
                made[f"{name}/{found.side}"] = [(config, found.tensors)]
    return made


def read_weights(contents: Contents) -> Conversion:
    """The recurrent layers of a file of weights alone, by name; two directions of a layer are joined.

    Raises: InputError: the file has no recurrent layer.
    """
    made, left, mapped = Layers(), [], []
    waiting: dict[str, tuple[Layer, str]] = {}
    for found in found_in(contents):
        read = layer_from(found, contents)
        if isinstance(read, str):
            why = read or f"no recurrent layer, by its shapes {found.shapes}"
            left.append(f"{found.name}: {why}; load the whole with like=module")
            continue
        layer, told = read
        name = found.name.replace(".", "_")
        if found.side == "forward":
            waiting[name] = layer, told
            continue
        if found.side == "backward" and name in waiting:
            forward = waiting.pop(name)[0]
            try:
                layer, told = both_directions(forward, layer), f"two directions, {told}"
            except ValueError:
                made[f"{name}/forward"] = forward
                name = f"{name}/backward"
        made[name] = layer
        mapped.append(Mapped(f"{found.name} ({told.partition(':')[0]})", type(layer).__name__, told))
    for name, (layer, told) in waiting.items():
        made[f"{name}/forward"] = layer
        mapped.append(Mapped(f"{name} ({told.partition(':')[0]})", type(layer).__name__, told))
    if not made:
        raise InputError(f"{contents.name} has weights but no architecture, and no recurrent layer that its shapes "
                         f"tell: {'; '.join(left) or 'nothing'}")  # fmt: skip
    made.left = tuple(left)
    return Conversion(made.eval(), "Keras", mapped, left, [ASSUMED])


# --- into a module -----------------------------------------------------------------------------------

PLAIN = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)


def fill(contents: Contents, like: nn.Module) -> Conversion:
    """The module with a file's weights: its layers and the file's that have any, matched in order.

    Raises: InputError: a layer is of another kind or size, or there are too many or too few; the module is as before.
    """
    sources = found_in(contents)
    targets = [(name, module) for name, module in like.named_modules() if _takes(module)]
    known = {id(p) for _, module in targets for p in module.parameters()}
    if other := [name for name, p in like.named_parameters() if id(p) not in known]:
        raise InputError(f"{contents.name}: like has {other[0]}, of a module into which weights of Keras's are not put")
    if contents.tree and len({type(module) for _, module in targets}) > 1:
        sources = _by_kind(sources, targets, contents)
    copies: list[tuple[Tensor, Tensor]] = []
    mapped = []
    rest = list(sources)
    for name, module in targets:
        taken = rest[: _wanted(module)]
        if len(taken) < _wanted(module):
            raise InputError(f"{contents.name} has {len(sources)} layers with weights, and like needs more, for "
                             f"{name}: {_names(sources)}")  # fmt: skip
        rest = rest[len(taken) :]
        try:
            copies += _recurrent(module, taken, contents) if _layered(module) else _plain(module, taken[0])
        except ValueError as error:
            raise InputError(f"{contents.name}: {_names(taken)} does not fit {name or 'like'}: {error}") from None
        mapped.append(
            Mapped(_names(taken), f"{name or 'like'} ({type(module).__name__})", ", ".join(f.shapes for f in taken))
        )
    if rest:
        raise InputError(f"{contents.name} has weights for which like has no layer: {_names(rest)}")
    with torch.no_grad():
        for target, array in copies:
            target.copy_(array)
    notes = [f"activations are those of like: {ASSUMED}"] if any(_layered(module) for _, module in targets) else []
    return Conversion(like, "Keras", mapped, (), notes)


def _takes(module: nn.Module) -> bool:
    return _layered(module) or (isinstance(module, PLAIN) and bool(list(module.parameters())))


def _layered(module: nn.Module) -> bool:
    return isinstance(module, Layer) or type(module) in (nn.RNN, nn.GRU, nn.LSTM)


def _wanted(module: nn.Module) -> int:
    """How many of the file's layers it takes: one for each of its own layers and directions."""
    if not _layered(module):
        return 1
    assert isinstance(module, (Layer, nn.RNNBase))
    return int(module.num_layers) * (2 if module.bidirectional else 1)


def _names(found: Sequence[Found]) -> str:
    return ", ".join(f"{f.name}{f' {f.side}' if f.side else ''} ({f.shapes})" for f in found) or "none"


def _by_kind(sources: Sequence[Found], targets: Sequence[tuple[str, nn.Module]], contents: Contents) -> list[Found]:
    """The layers of a file that orders only those of one class, in the order of the module's classes."""
    groups: dict[str, list[Found]] = {}
    for found in sources:
        groups.setdefault(_class(found), []).append(found)
    made: list[Found] = []
    for _, module in targets:
        fitting = [g for g in groups.values() if g and _may_fit(module, g[0])]
        if len(fitting) != 1:
            raise InputError(f"{contents.name} does not tell in which order its layers come: {len(fitting)} kinds "
                             f"of them may be a {type(module).__name__}; load them by name and fill it in")  # fmt: skip
        count = _wanted(module)
        made += fitting[0][:count]
        del fitting[0][:count]
    return made + [found for group in groups.values() for found in group]


def _class(found: Found) -> str:
    return re.sub(r"_\d+(?=/|$)", "", found.name)


def _may_fit(module: nn.Module, found: Found) -> bool:
    told = kind(found)
    if _layered(module):
        gates = (found.tensors[1].shape[1] // found.tensors[1].shape[0]) if told else 0
        return gates == len(ours(module).cell.gates) and bool(found.side) == bool(module.bidirectional)
    ranks = [a.dim() for a in found.tensors]
    if isinstance(module, nn.Linear):
        return ranks in ([2, 1], [2]) and _class(found).endswith("dense")
    if isinstance(module, nn.Embedding):
        return ranks == [2] and _class(found).endswith("embedding")
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return ranks[0] == (3 if isinstance(module, nn.Conv1d) else 4)
    return all(r == 1 for r in ranks)


def _recurrent(module: nn.Module, taken: Sequence[Found], contents: Contents) -> list[tuple[Tensor, Tensor]]:
    """The parameters of a recurrent layer, and what is copied into them."""
    layer = ours(module)
    sides = 2 if layer.bidirectional else 1
    copies = []
    for k, found in enumerate(taken):
        wanted = ("forward", "backward")[k % sides] if sides == 2 else ""
        if found.side not in ("", wanted):
            raise ValueError(f"{found.name} is the {found.side} direction, expected {wanted or 'one direction'}")
        arrays, told = found, kind(found)
        if told and isinstance(told, str) and layer.cell in (cells.gru, cells.gru_reset_before):
            # The module tells what the file does not.
            units = found.tensors[1].shape[0]
            config = Config({"class_name": "GRU", "config": {
                "units": units, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": False,
                "reset_after": layer.cell == cells.gru, "name": found.name}}, contents.name)  # fmt: skip
            made = layer_of(config, found.tensors, contents.second)
        else:
            read = layer_from(arrays, contents)
            if isinstance(read, str):
                raise ValueError(read or f"its shapes are of no recurrent layer: {found.shapes}")
            made = read[0]
        _same_cell(made, layer)
        source, suffix = weights_of(made), layer._suffixes(k // sides)[k % sides]
        own = {n: getattr(layer, f"{n}{suffix}", None) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        if own["bias_ih"] is None and any(source[n].any() for n in source if n.startswith("bias")):
            raise ValueError("it has biases, and the module has none")
        for name, parameter in own.items():
            if parameter is None:
                continue
            array = source.get(name)
            if array is None and name.startswith("bias"):
                array = torch.zeros_like(parameter)
            if array is not None and name == "bias_hh" and parameter.shape != array.shape and not array.any():
                array = torch.zeros_like(parameter)  # a layer with one bias a gate, which stands beside the input
            if array is None or array.shape != parameter.shape:
                got = None if array is None else tuple(array.shape)
                raise ValueError(f"{name}{suffix} of it has shape {got}, expected {tuple(parameter.shape)}")
            copies.append((parameter, array))
    return copies


def _same_cell(made: Layer, layer: Layer) -> None:
    """What the shapes tell must be what the module computes, but for activations, of which they tell nothing."""
    before = made.cell.name.startswith("gru_reset_before")
    if before and layer.cell == cells.gru:
        raise ValueError("its reset gate acts on the state, before the product (one bias), and the module's after it: "
                         "two different functions; use gatewise.GRU(..., reset_after=False)")  # fmt: skip
    if not before and made.cell.name.startswith("gru") and layer.cell == cells.gru_reset_before:
        raise ValueError("its reset gate acts after the product (two biases), and the module's on the state, before "
                         "it: two different functions; use gatewise.GRU(..., reset_after=True)")  # fmt: skip
    alike = (made.cell.gates, made.cell.states, made.cell.vectors) == (
        layer.cell.gates,
        layer.cell.states,
        layer.cell.vectors,
    )
    if not alike or one_bias_is_enough(layer.cell) != one_bias_is_enough(made.cell):
        raise ValueError(f"its shapes are those of {made.cell.name}, and the module computes {layer.cell.name}")


def _plain(module: nn.Module, found: Found) -> list[tuple[Tensor, Tensor]]:
    """The parameters of a layer that is not recurrent, and what is copied into them."""
    arrays = found.tensors
    if isinstance(module, nn.Embedding):
        given: dict[str, Tensor] = dict(zip(("weight",), arrays, strict=False))
    elif isinstance(module, (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)):
        given = dict(zip(("weight", "bias", "running_mean", "running_var"), arrays, strict=False))
    else:
        kernel = arrays[0]
        if kernel.dim() != module.weight.dim():  # type: ignore[operator]
            raise ValueError(f"its kernel has shape {tuple(kernel.shape)}, of another rank than the module's weight")
        last = kernel.dim() - 1
        given = {"weight": kernel.permute(last, last - 1, *range(last - 1))}
        given |= dict(zip(("bias",), arrays[1:], strict=False))
    own = dict(module.named_parameters())
    own |= {n: b for n, b in module.named_buffers() if n != "num_batches_tracked"}  # type: ignore[misc]
    if len(given) != len(arrays) or set(given) != set(own):
        raise ValueError(f"it has {len(arrays)} arrays, expected those for {', '.join(own)}")
    for name, array in given.items():
        if array.shape != own[name].shape:
            raise ValueError(f"its {name} has shape {tuple(array.shape)}, expected {tuple(own[name].shape)}")
    return [(own[name], array) for name, array in given.items()]
