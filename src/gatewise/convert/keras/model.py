"""A whole model of Keras's as a torch.fx.GraphModule, masks included; or its recurrent layers alone, by name."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from gatewise.convert.arrays import both_directions
from gatewise.convert.keras import modules as m
from gatewise.convert.keras.config import Config, UnknownError
from gatewise.convert.keras.files import Contents
from gatewise.convert.keras.graph import Walk, dtype_of, recurrent
from gatewise.convert.keras.masks import Masks
from gatewise.convert.keras.operations import OPERATIONS, is_operation, settings
from gatewise.convert.keras.recurrent import KINDS, how, layer_of, variables
from gatewise.convert.keras.running import MERGES, KerasRNN
from gatewise.convert.keras.slots import MODELS, Arrays, cell_config, layers_of, members
from gatewise.convert.keras.table import ROWS
from gatewise.convert.keras.weights import read_weights
from gatewise.convert.network import Network, Spec
from gatewise.convert.report import Conversion, Layers, Mapped
from gatewise.layer import Layer

DTYPES = {
    name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64", "bool")
}
NO_MASK_INSIDE = ("GlobalAveragePooling1D", "Softmax")  # what reads a mask, and so differs inside of TimeDistributed


@dataclass(frozen=True)
class Value:
    """A tensor in the model, and its mask, (B, T), where it has one. told: a call names the mask."""

    node: fx.Node
    mask: fx.Node | None = None
    told: bool = False


class Source:
    """A file's layers as modules.

    Args: contents: the file. config: its model; one layer stands for a model of that one.
    """

    def __init__(self, contents: Contents, config: Config) -> None:
        self.contents, self.config = contents, config
        self.second = contents.second
        self.arrays = Arrays(contents, layers_of(config, ""))
        self.mapped: dict[str, Mapped] = {}
        self.notes: list[str] = []

    def layer(self, config: Config, path: str, name: str) -> Layer:
        """A recurrent layer or cell."""
        place = path if "Cell" in config.kind or config.kind.startswith("CuDNN") else f"{path}/cell"
        made = layer_of(config, self.arrays.of(config, place, variables(config)), self.second)
        self.mapped[path] = Mapped(str(config), f"{name} ({type(made).__name__})", how(config, made, self.second))
        for key in ("dropout", "recurrent_dropout"):
            if config.real(key, 0.0):
                self._note(f"{config}: {key}={config.real(key)} acts in training only and does not come along")
        return made

    def rnn(self, config: Config, path: str, name: str) -> KerasRNN:
        """A recurrent layer with what Keras does around it."""
        if config.kind != "Bidirectional":
            layers = self._stack(config, path, f"{name}.")
            return KerasRNN(layers, [(list(layers), config.flag("go_backwards", False))], **self._options(config),
                            zero_output_for_mask=config.flag("zero_output_for_mask", False))  # fmt: skip
        one, two, merge = directions(config)
        layers = self._stack(one, f"{path}/forward_layer", f"{name}.forward_")
        others = self._stack(two, f"{path}/backward_layer", f"{name}.backward_")
        options = self._options(one)
        if options != self._options(two):
            raise config.bad("its two directions return different things")
        options |= {
            "merge": merge,
            "zero_output_for_mask": options["return_sequences"] and not self.contents.multi_backend,
        }
        first, last = next(iter(layers.values())), next(iter(others.values()))
        alike = ("cell", "input_size", "hidden_size")
        if len(layers) == len(others) == 1 and all(getattr(first, a) == getattr(last, a) for a in alike):
            joined = {"layer": both_directions(first, last)}
            for side in ("forward_layer", "backward_layer"):
                # The layer's own place, or within an RNN its cell's.
                place = next(p for p in (f"{path}/{side}", f"{path}/{side}/cell") if p in self.mapped)
                self.mapped[place] = replace(
                    self.mapped[place], target=f"{name}.layer ({type(first).__name__}, {side.partition('_')[0]})"
                )
            return KerasRNN(joined, [(["layer"], False)], **options)
        every = {f"forward_{n}": v for n, v in layers.items()} | {f"backward_{n}": v for n, v in others.items()}
        runs = [([f"forward_{n}" for n in layers], False), ([f"backward_{n}" for n in others], True)]
        return KerasRNN(every, runs, **options)

    def _stack(self, config: Config, path: str, name: str) -> dict[str, Layer]:
        """The layers that run on top of each other, by name."""
        if config.kind != "RNN":
            if config.kind not in KINDS or "Cell" in config.kind:
                raise UnknownError(f"a {config.kind} is no recurrent layer that is known here")
            return {"layer": self.layer(config, path, f"{name}layer")}
        cells = cells_of(config, path)
        if (
            config.settings.get("return_state")
            and len(cells) > 1
            and cell_config(config).settings.get("reverse_state_order")
        ):
            raise UnknownError("states in reversed order")
        return {f"layer_{k}": self.layer(c, p, f"{name}layer_{k}") for k, (p, c) in enumerate(cells)}

    def _options(self, config: Config) -> dict[str, Any]:
        if config.settings.get("num_constants"):
            raise UnknownError("constants beside the input")
        flags = ("return_sequences", "return_state", "stateful", "time_major")
        return {flag: config.flag(flag, False) for flag in flags}

    def module(self, config: Config, path: str, name: str) -> nn.Module:
        """Any layer's module."""
        if config.foreign:
            raise UnknownError("a class of its author's own, whose code is not run")
        policy = dtype_of(config)
        if "float8" in policy or "int8" in policy or "int4" in policy:
            raise UnknownError(f"weights in {policy}")
        if "float16" in policy:
            self._note(f"{config}: Keras computes it in half precision ({policy}), here it is in that of its weights")
        if recurrent(config):
            return self.rnn(config, path, name)
        if config.kind == "TimeDistributed":
            inner = config.inner("layer")
            if inner.kind in MODELS or inner.settings.get("mask_zero") or inner.settings.get("return_state"):
                raise UnknownError(f"a {inner.kind} inside of TimeDistributed")
            return m.TimeDistributed(self.module(inner, f"{path}/layer", f"{name}.inner"))
        if config.kind not in ROWS:
            raise UnknownError("a layer that is not in the table")
        row = ROWS[config.kind]
        names = row.arrays(config)
        made = row.make(
            config, self.arrays.of(config, path, [n.strip("~") for n in names]) if names else [], self.second
        )
        if config.kind.startswith("AveragePooling") and config.settings.get("padding") == "same":
            self._note(f"{config}: what is padded does not count, as with TensorFlow and JAX; Keras on torch counts "
                       "the edge again where the padding is uneven")  # fmt: skip
        if row.trains:
            self._note(f"{config}: it acts in training only and does not come along")
        if names:
            self.mapped[path] = Mapped(
                str(config), f"{name} ({type(made).__name__})", ", ".join(n.strip("~") for n in names)
            )
        return made

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def unused(self) -> list[str]:
        """What is in the file beside the layers that were read."""
        read = {place for path in self.mapped for place in (path, f"{path}/cell")}
        return [f"the arrays at {path}: no layer of the model is there" for path, found in self.contents.tree.items()
                if found and path not in read and not path.endswith("seed_generator")]  # fmt: skip


def directions(config: Config) -> tuple[Config, Config, str]:
    """A Bidirectional's two layers, and how their outputs are merged."""
    one = config.inner("layer")
    two = config.inner("backward_layer") if config.settings.get("backward_layer") else one.copy(go_backwards=True)
    if one.flag("go_backwards", False) or not two.flag("go_backwards", False):
        raise UnknownError("a forward layer that runs backwards")
    merge = config.settings.get("merge_mode", "concat") or "none"
    if merge not in MERGES:
        raise config.bad(f"merge_mode is {merge!r}, expected one of {', '.join(MERGES)}")
    return one, two, str(merge)


def cells_of(config: Config, path: str) -> list[tuple[str, Config]]:
    """The cells of an RNN, each with its path."""
    cell = cell_config(config)
    found = (
        members(cell.several("cells"), f"{path}/cell/cells")
        if cell.kind == "StackedRNNCells"
        else [(f"{path}/cell", cell)]
    )
    for _, inner in found:
        if inner.foreign or inner.kind not in KINDS:
            raise UnknownError(f"the cell {inner.kind}, which is not Keras's own")
    return found


class Torch:
    """Builds the model of torch's modules."""

    def __init__(self, source: Source) -> None:
        self.source, self.second = source, source.second
        self.network, self.masks = Network(), Masks()
        self.made: dict[str, str] = {}  # the module that a layer became, by its path
        self.integers: dict[str, int] = {}  # inputs that are indices, and below which number

    def input(self, config: Config, shape: Sequence[int | None], dtype: str) -> Value:
        if dtype not in DTYPES:
            raise UnknownError(f"an input of dtype {dtype}")
        names = {0: "B", 1: "T"}
        told = tuple(names.get(k, f"N{k}") if s is None else s for k, s in enumerate(shape))
        kind = DTYPES[dtype] if not dtype.startswith("int") else torch.int64
        return Value(self.network.input(Spec(config.name, told, kind)))

    def layer(
        self, config: Config, path: str, name: str, values: Sequence[Value], states: Sequence[Value]
    ) -> list[Value]:
        if config.kind == "Masking" and not config.foreign:
            (x,) = self._expect(config, values, 1)
            counts = self.network.call(m.masking, x.node, config.real("mask_value", 0.0))
            return [Value(self.network.call(m.masked, x.node, counts), counts)]
        first = path not in self.made
        module = self.source.module(config, path, name) if first else self.network.root.get_submodule(self.made[path])
        nodes = [v.node for v in (*values, *states)]
        kwargs: dict[str, Any] = {}
        if recurrent(config):
            self._expect(config, values, 1)
            mask: fx.Node | None = values[0].mask
            if mask is not None and states and not self.second and not values[0].told:
                mask = None  # Keras 3 hands a mask to a layer by itself only if it is given one tensor
                self.source._note(
                    f"{config}: given initial states, Keras 3 does not regard the mask, nor is it regarded here"
                )
            if mask is not None:
                if module.time_major:
                    raise UnknownError("a mask in time_major")
                kwargs["mask"] = mask
        elif config.kind == "GlobalAveragePooling1D" and values[0].mask is not None:
            (x,) = self._expect(config, values, 1)
            return [Value(self.network.call(m.masked_mean, x.node, x.mask, config.flag("keepdims", False)))]
        elif config.kind == "Embedding":
            (x,) = self._expect(config, values, 1)
            if x.node.op == "placeholder":
                size = config.number("input_dim")
                self.integers[x.node.name] = min(size, self.integers.get(x.node.name, size))
            nodes = [self.network.call(m.indices, x.node)]
        elif config.kind == "TimeDistributed":
            (x,) = self._expect(config, values, 1)
            inner = config.inner("layer")
            if x.mask is not None and (recurrent(inner) or inner.kind in NO_MASK_INSIDE):
                raise UnknownError(f"a mask for a {inner.kind} inside of TimeDistributed")
        else:
            self._expect(config, values, ROWS[config.kind].inputs)
            if isinstance(module, m.Merge) and not self.second and any(v.mask is not None for v in values):
                kwargs["masks"] = [v.mask for v in values]
        if first:
            node = self.network.module(name, module, *nodes, **kwargs)
            self.made[path] = str(node.target)
        else:
            node = self.network.again(self.made[path], *nodes, **kwargs)
        if isinstance(module, KerasRNN):
            return self._outputs(module, node, values[0].mask)
        if config.kind == "Embedding":
            zero = config.flag("mask_zero", False)
            return [Value(node, self.network.call(m.nonzero, values[0].node, node) if zero else None)]
        return [Value(node, self._mask(config, values))]

    def operation(self, config: Config, arguments: Sequence[Any]) -> Value:
        function = OPERATIONS[config.kind][1] if config.kind in OPERATIONS else None
        options = settings(config)
        if "axis" in options and config.kind in ("ExpandDims", "Concatenate"):
            options["dim"] = options.pop("axis")
        assert function is not None
        given = [_nodes(a) for a in arguments]
        if config.kind == "GetItem":
            given = [given[0], _key(config, given[1:])]
        return Value(self.network.call(function, *given, **options))

    def masked(self, config: Config, value: Value, mask: Value) -> Value:
        if value.mask is not None and self.masks.same(value.mask, mask.node):
            return replace(value, told=True)
        return Value(value.node, mask.node, told=True)

    def _expect(self, config: Config, values: Sequence[Value], count: int) -> Sequence[Value]:
        if (count and len(values) != count) or not values:
            raise config.bad(f"it is called on {len(values)} tensors, expected {count or 'some'}")
        return values

    def _outputs(self, module: KerasRNN, node: fx.Node, mask: fx.Node | None) -> list[Value]:
        mask = mask if module.return_sequences else None
        sides = 2 if module.merge == "none" and module._sides() == 2 else 1
        count = sides + (module._count() if module.return_state else 0)
        if count == 1:
            return [Value(node, mask)]
        return [Value(self.network.call(operator.getitem, node, k), mask if k < sides else None) for k in range(count)]

    def _mask(self, config: Config, values: Sequence[Value]) -> fx.Node | None:
        """The mask behind a layer: Keras 3 takes a step that counts in any input, Keras 2 one that does in all."""
        masks = [v.mask for v in values]
        if config.kind == "TimeDistributed":
            return masks[0]
        row = ROWS[config.kind]
        given = [mask for mask in masks if mask is not None]
        if not row.passes or not given:
            return None
        if config.kind == "Softmax":
            raise UnknownError("a mask for Softmax, which takes it for one of its own input's shape")
        if row.inputs == 1:
            return masks[0]
        if config.kind == "Concatenate":
            axis = config.numbers("axis", -1, 1)[0]
            if axis == 1:
                parts = [v.mask if v.mask is not None else self.network.call(m.ones, v.node) for v in values]
                return self.network.call(torch.cat, parts, 1)
            if axis not in (-1, 2):
                raise UnknownError(f"masks that are concatenated at axis {axis}")
            if len(given) < len(masks) and not self.second:
                return self.network.call(m.ones, values[masks.index(None)].node)
        elif len(given) < len(masks) and not self.second:
            return None
        made = given[0]
        for other in given[1:]:
            made = self.network.call(torch.logical_and if self.second else torch.logical_or, made, other)
        return made

    def finish(self, outputs: Sequence[Value], name: str) -> fx.GraphModule:
        names = [node.name for node in self.network.graph.nodes if node.op == "placeholder"]
        specs = self.network.specs
        for k, node in enumerate(names):
            if node in self.integers:
                specs[k] = replace(specs[k], dtype=torch.int64, high=self.integers[node])
        made = self.network.finish([v.node for v in outputs], name)
        made.graph.eliminate_dead_code()  # masks that nothing reads
        made.recompile()
        return made


def _nodes(argument: Any) -> Any:
    """An operation's argument with the graph's nodes in it."""
    if isinstance(argument, list):
        return [_nodes(a) for a in argument]
    return argument.node if isinstance(argument, Value) else argument


def _key(config: Config, given: Sequence[Any]) -> Any:
    """What a tensor is indexed with: numbers and slices that torch has too."""
    if len(given) != 1:
        raise config.bad(f"it is called on {len(given) + 1} arguments, expected a tensor and what it is indexed with")
    key = tuple(given[0]) if isinstance(given[0], list) else given[0]
    for part in key if isinstance(key, tuple) else (key,):
        if not (part is None or part is ... or isinstance(part, (int, slice))) or isinstance(part, bool):
            raise UnknownError(f"it is indexed with {part!r:.40}")
        if isinstance(part, slice) and part.step is not None and part.step < 1:
            raise UnknownError(f"a slice with step {part.step}, which torch does not have")
    return key


def read_model(contents: Contents) -> Conversion:
    """The model of a file that tells its architecture.

    Raises: InputError: it contradicts itself, or an activation is unknown.
    """
    config = whole(contents)
    source = Source(contents, config)
    try:
        torch_model = Torch(source)
        outputs = Walk(torch_model).model(config, "", "", None, source.second)
        made = torch_model.finish(outputs, config.name or "model")
    except UnknownError as reason:
        return layers_alone(contents, config, str(reason))
    return Conversion(made, "Keras", list(source.mapped.values()), source.unused(), source.notes)


def whole(contents: Contents) -> Config:
    """The configuration as a model's: one layer alone becomes a model of one."""
    config = Config(contents.config, contents.name)
    if config.kind in MODELS or "layers" in config.settings:
        return config
    shape = None
    if recurrent(config) and contents.flat:
        arrays = next(iter(contents.flat.values()))
        shape = [None, None, arrays[0][1].shape[0]] if arrays else None
    layer = dict(config.data)
    if shape is not None and "batch_shape" not in config.settings:
        layer["config"] = {**config.settings, "batch_shape": shape}
    return Config({"class_name": "Sequential", "config": {"name": config.name, "layers": [layer]}}, contents.name)


def every_layer(config: Config, path: str, name: str = "") -> Iterator[tuple[str, Config, str]]:
    """All layers of a model and of those inside of it: path, configuration, name."""
    for place, layer in layers_of(config, path):
        if layer.kind in MODELS and isinstance(layer.settings.get("layers"), list):
            yield from every_layer(layer, place, f"{name}{layer.name}/")
        elif layer.kind != "InputLayer" and not (is_operation(layer) and layer.kind in OPERATIONS):
            yield place, layer, name + layer.name


def layers_alone(contents: Contents, config: Config, reason: str) -> Conversion:
    """The recurrent layers of a model of which another part is unknown."""
    if "layers" not in config.settings:
        raise config.bad(f"{reason}; and it names no layers")
    source = Source(contents, config)
    found, left = Layers(), [] if not config.foreign else [str(config)]
    for path, layer, name in every_layer(config, ""):
        try:
            made = source.module(layer, path, name)
        except UnknownError as why:
            left.append(f"{layer}: {why}")
            continue
        if isinstance(made, KerasRNN):
            for inner, child in made.named_children():
                key = name if inner == "layer" else f"{name}/{inner}"
                found[key.replace(".", "_")] = child
        else:
            left.append(f"{layer}: known, but what is between it and the others is not")
    if not found:
        # A model whose calls are code tells no layers; its weights do.
        alone = read_weights(contents)
        return replace(alone, left=[*left, *alone.left], notes=[f"{config}: {reason}", *alone.notes])
    if not any(": known" not in line for line in left):
        left.append(f"the model as a whole: {reason}")
    found.left = tuple(left)
    notes = ["only the recurrent layers are given, since the model has parts that are not known here", *source.notes]
    return Conversion(found, "Keras", list(source.mapped.values()), left, notes)
