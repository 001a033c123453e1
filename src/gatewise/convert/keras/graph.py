"""A model's layers and what they are called on, told to whoever builds the model: torch's modules, or Keras's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from gatewise.convert.keras.config import Config, UnknownError
from gatewise.convert.keras.operations import is_operation, plain
from gatewise.convert.keras.recurrent import KINDS, WRAPPERS
from gatewise.convert.keras.slots import MODELS, layers_of

V = TypeVar("V")
Ref = tuple[str, int, int]  # a layer's name, which of its calls, which of the outputs of that


class Builder(Protocol[V]):
    """What builds a model."""

    def input(self, config: Config, shape: Sequence[int | None], dtype: str) -> V:
        """The model's next input."""

    def layer(self, config: Config, path: str, name: str, values: Sequence[V], states: Sequence[V]) -> list[V]:
        """A call of a layer: its outputs."""

    def operation(self, config: Config, arguments: Sequence[Any]) -> V:
        """A call of an operation on values, numbers and lists of such."""

    def masked(self, config: Config, value: V, mask: V) -> V:
        """The value with another mask."""


class TensorHere:
    """A place for a tensor in an operation's arguments."""


@dataclass
class Called:
    """One call of a layer, in a Functional model."""

    config: Config
    path: str
    inputs: list[Ref]
    states: list[Ref] = field(default_factory=list)
    masks: list[Ref] = field(default_factory=list)  # given by name, one for each input
    arguments: list[Any] | None = None  # of an operation: a Ref is a tensor


def recurrent(config: Config) -> bool:
    return config.kind in KINDS or config.kind in WRAPPERS


def every_config(config: Config) -> Iterator[Config]:
    """A layer or model and all that is inside of it."""
    yield config
    for value in config.settings.values():
        for part in value if isinstance(value, list) else [value]:
            if (
                isinstance(part, dict)
                and isinstance(part.get("class_name"), str)
                and isinstance(part.get("config"), dict)
            ):
                yield from every_config(Config(part, config.where))


class Walk(Generic[V]):
    """A model, walked in the order in which its layers are called.

    Raises: UnknownError: a call has something for which there is nothing here. InputError: the configuration is none.
    """

    def __init__(self, builder: Builder[V]) -> None:
        self.builder = builder

    def model(self, config: Config, path: str, name: str, given: Sequence[V] | None, second: bool) -> list[V]:
        """A model's outputs; its inputs are given where it is inside of another."""
        if config.kind == "Sequential":
            return self._chain(config, path, name, given, second)
        if config.kind in MODELS and "layers" in config.settings:
            return self._functional(config, path, name, given, second)
        if config.kind in MODELS:
            raise UnknownError("a model whose calls are code")
        raise config.bad("it is no model")

    def call(
        self, config: Config, path: str, name: str, values: Sequence[V], states: Sequence[V], second: bool
    ) -> list[V]:
        if config.kind in MODELS:
            return self.model(config, path, f"{name}_", values, second)
        try:
            return self.builder.layer(config, path, name, values, states)
        except UnknownError as reason:
            raise UnknownError(f"{config}: {reason}") from None

    def _chain(self, config: Config, path: str, name: str, given: Sequence[V] | None, second: bool) -> list[V]:
        layers = layers_of(config, path)
        if not layers:
            raise config.bad("it has no layers")
        values = list(given) if given is not None else [self._first(config, layers[0][1])]
        for place, layer in layers:
            if layer.kind == "InputLayer":
                continue
            if len(values) != 1:
                raise layer.bad(f"the layer before it has {len(values)} outputs, expected one in a Sequential")
            values = self.call(layer, place, name + layer.name, values, [], second)
        return values

    def _first(self, config: Config, first: Config) -> V:
        """A Sequential model's input."""
        inner = first
        while inner.kind in MODELS and inner.settings.get("layers"):
            inner = inner.several("layers")[0]
        found = shape_of(inner)
        if found is None:
            built = config.data.get("build_config")
            found = (built.get("input_shape") if isinstance(built, dict) else None) or config.settings.get(
                "build_input_shape"
            )
        if found is None:
            found = guessed(inner)
        source = inner if inner.kind == "InputLayer" else inner.copy(name=f"{inner.name}_input")
        return self.builder.input(source, checked(config, found), dtype_of(inner))

    def _functional(self, config: Config, path: str, name: str, given: Sequence[V] | None, second: bool) -> list[V]:
        layers = layers_of(config, path)
        named = {layer.name: layer for _, layer in layers}
        if len(named) < len(layers):
            raise config.bad("two of its layers have one name")
        calls = [call for place, layer in layers for call in calls_of(layer, place, second)]
        outputs = refs(config, config.settings.get("output_layers"), "output_layers")
        inputs = refs(config, config.settings.get("input_layers"), "input_layers")
        shifts = _shifts(calls, outputs, named, second)
        values: dict[tuple[str, int], list[V]] = {}
        for k, (layer, _, _) in enumerate(inputs):
            if layer not in named or named[layer].kind != "InputLayer":
                raise config.bad(f"its input {layer} is none of its InputLayers")
            source = named[layer]
            if given is not None:
                if len(given) != len(inputs):
                    raise config.bad(f"it is called on {len(given)} inputs, expected {len(inputs)}")
                values[layer, 0] = [given[k]]
            else:
                shape = shape_of(source)
                values[layer, 0] = [self.builder.input(source, checked(source, shape), dtype_of(source))]
        done: dict[str, int] = {}

        def value(ref: Ref, shift: int) -> V:
            found = values[ref[0], ref[1] - shift]
            if not 0 <= ref[2] < len(found):
                raise config.bad(f"output {ref[2]} of {ref[0]} is asked for, which has {len(found)}")
            return found[ref[2]]

        waiting = calls
        while waiting:
            later: list[Called] = []
            for call in waiting:
                every = [*call.inputs, *call.states, *call.masks]
                if all((n, k - shifts.get((n, False), 0)) in values for n, k, _ in every) and not (
                    later and any(c.config is call.config for c in later)
                ):
                    taken = [value(ref, shifts.get((ref[0], False), 0)) for ref in every]
                    count = done[call.config.name] = done.get(call.config.name, -1) + 1
                    values[call.config.name, count] = self._made(call, name, taken, second)
                else:
                    later.append(call)
            if len(later) == len(waiting):
                raise config.bad(f"{later[0].config} is called on something that is nowhere made: {later[0].inputs}")
            waiting = later
        for ref in outputs:
            if (ref[0], ref[1] - shifts.get((ref[0], True), 0)) not in values:
                raise config.bad(f"its output {list(ref)} is nowhere made")
        return [value(ref, shifts.get((ref[0], True), 0)) for ref in outputs]

    def _made(self, call: Called, name: str, taken: Sequence[V], second: bool) -> list[V]:
        """What a call makes of its tensors."""
        config, split = call.config, len(call.inputs)
        if call.arguments is not None:
            tensors = iter(taken)
            return [self.builder.operation(config, [_filled(a, tensors) for a in call.arguments])]
        values, states = list(taken[:split]), taken[split : split + len(call.states)]
        for k, mask in enumerate(taken[split + len(call.states) :]):
            values[k] = self.builder.masked(config, values[k], mask)
        return self.call(config, call.path, name + config.name, values, states, second)


def _filled(argument: Any, tensors: Iterator[Any]) -> Any:
    """An argument of an operation with the tensors in it."""
    if isinstance(argument, TensorHere):
        return next(tensors)
    return [_filled(a, tensors) for a in argument] if isinstance(argument, list) else argument


def _shifts(
    calls: Sequence[Called], outputs: Sequence[Ref], named: dict[str, Config], second: bool
) -> dict[tuple[str, bool], int]:
    """Where the count of a model's calls begins, for models inside of this one: by name, and whether as an output.

    Keras counts a model's own making as a call of it: Keras 2 wherever it writes, Keras 3 in output_layers alone, and
    there not of a Sequential.
    """
    models = {name: config.kind for name, config in named.items() if config.kind in MODELS}
    if not second:
        return {(name, True): 1 for name, kind in models.items() if kind != "Sequential"}
    used = [ref for call in calls for ref in (*call.inputs, *call.states)] + list(outputs)
    shifted = {name for name in models if all(k > 0 for n, k, _ in used if n == name)}
    return {(name, end): 1 for name in shifted for end in (False, True)}


def calls_of(config: Config, path: str, second: bool) -> list[Called]:
    """The calls of a layer, as Keras 2 or 3 writes them."""
    nodes = config.data.get("inbound_nodes", [])
    if not isinstance(nodes, list):
        raise config.bad("inbound_nodes is no list")
    made = []
    for node in nodes:
        if isinstance(node, dict):
            args, kwargs = node.get("args"), node.get("kwargs", {})
            if not isinstance(args, list) or not isinstance(kwargs, dict):
                raise config.bad("a call of it has no args and kwargs")
            if is_operation(config):
                made.append(Called(config, path, _tensors(config, args, True), arguments=_template(config, args)))
                continue
            found = [_tensors(config, a) for a in args]
            inputs = found[0] if found else []
            masks = _tensors(config, kwargs.get("mask"))
            states = [ref for a in found[1:] for ref in a]
            states += _tensors(config, kwargs.get("initial_state"))
            extra = {k: v for k, v in kwargs.items() if k not in ("initial_state", "mask")}
        elif isinstance(node, list) and node:
            entries = [node] if isinstance(node[0], str) else node
            pairs = [_entry(config, entry) for entry in entries]
            inputs, states, masks, extra = [ref for ref, _ in pairs], [], [], pairs[0][1]
            if "initial_state" in extra:
                states = refs(config, extra["initial_state"], "initial_state")
                extra = {k: v for k, v in extra.items() if k != "initial_state"}
            if recurrent(config):
                inputs, states = inputs[:1], inputs[1:] + states
        else:
            raise config.bad(f"a call of it is {node!r:.60}, expected what it is called on")
        for key, value in extra.items():
            if (key == "training" and value) or (key != "training" and value is not None):
                raise UnknownError(f"it is called with {key}={value!r:.40}")
        if states and not recurrent(config):
            inputs, states = inputs + states, []
        if masks and len(masks) != len(inputs):
            raise UnknownError(f"it is called with {len(masks)} masks for {len(inputs)} inputs")
        made.append(Called(config, path, inputs, states, masks))
    return made


def is_tensor(value: Any) -> bool:
    """Whether an argument of Keras 3 is a tensor of the model."""
    return (
        isinstance(value, dict)
        and value.get("class_name") == "__keras_tensor__"
        and isinstance(value.get("config"), dict)
    )


def _template(config: Config, value: Any) -> Any:
    """An operation's arguments, with places for the tensors."""
    if isinstance(value, list):
        return [_template(config, v) for v in value]
    if is_tensor(value):
        return TensorHere()
    return plain(config, value)


def _tensors(config: Config, value: Any, mixed: bool = False) -> list[Ref]:
    """The tensors in an argument of Keras 3; mixed: among plain values."""
    if isinstance(value, list):
        return [ref for v in value for ref in _tensors(config, v, mixed)]
    if is_tensor(value):
        return refs(config, value["config"].get("keras_history"), "a tensor")
    if isinstance(value, dict) and "class_name" not in value:
        return [ref for key in sorted(value) for ref in _tensors(config, value[key])]
    if value is None or mixed:
        return []
    raise UnknownError(f"it is called on {value!r:.40}")


def _entry(config: Config, entry: Any) -> tuple[Ref, dict[str, Any]]:
    """One tensor of a call as Keras 2 writes it, and the call's other arguments."""
    if not isinstance(entry, list) or len(entry) not in (3, 4):
        raise config.bad(f"it is called on {entry!r:.60}, expected a layer's name and two numbers")
    kwargs = entry[3] if len(entry) == 4 else {}
    return refs(config, entry[:3], "a tensor")[0], kwargs if isinstance(kwargs, dict) else {}


def refs(config: Config, value: Any, what: str) -> list[Ref]:
    """The tensors that a list names."""
    if isinstance(value, dict):
        return [ref for key in sorted(value) for ref in refs(config, value[key], what)]
    if not isinstance(value, list) or not value:
        raise config.bad(f"{what} is {value!r:.60}, expected a layer's name and two numbers, or a list of such")
    if isinstance(value[0], str):
        if len(value) == 3 and all(isinstance(v, int) and not isinstance(v, bool) for v in value[1:]):
            return [(value[0], value[1], value[2])]
        raise config.bad(f"{what} is {value!r:.60}, expected a layer's name and two numbers")
    return [ref for v in value for ref in refs(config, v, what)]


def shape_of(config: Config) -> Any:
    """The shape of what a layer's configuration says it is given, or None."""
    for key in ("batch_shape", "batch_input_shape"):
        if config.settings.get(key) is not None:
            return config.settings[key]
    return None


def guessed(config: Config) -> list[int | None]:
    """The shape of what a layer without a shape is given, where its kind tells it."""
    built = config.data.get("build_config")
    if isinstance(built, dict) and isinstance(built.get("input_shape"), list):
        return list(built["input_shape"])
    if config.kind == "Embedding":
        length = config.settings.get("input_length")
        return [None, length if isinstance(length, int) else None]
    if isinstance(config.settings.get("input_dim"), int):
        return [None, None, config.number("input_dim")] if recurrent(config) else [None, config.number("input_dim")]
    raise UnknownError("the model's configuration does not tell the shape of its input")


def checked(config: Config, shape: Any) -> list[int | None]:
    """A shape: whole numbers, or None for any."""
    if not isinstance(shape, list) or not all(
        s is None or (isinstance(s, int) and not isinstance(s, bool) and s > 0) for s in shape
    ):
        raise config.bad(f"the shape of its input is {shape!r:.60}, expected whole numbers or null")
    return [None, *shape[1:]] if shape else shape


def dtype_of(config: Config) -> str:
    """The dtype of an input."""
    found = config.settings.get("dtype", "float32")
    if isinstance(found, dict):
        inner = found.get("config")
        found = inner.get("name") if isinstance(inner, dict) else None
    return found if isinstance(found, str) else "float32"
