"""A traced torch module -> a model of Keras, node by node.

Keras has the batch first, time second and features last. So each value remembers where its axes of torch lie in
Keras's tensor: `transpose(0, 1)` computes nothing, and a time-major module becomes a batch-first model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from gatewise.convert.arrays import ours
from gatewise.convert.keras import back, functions
from gatewise.convert.keras.inputs import Inputs
from gatewise.convert.keras.recognise import Recognised, arrays, recognise
from gatewise.convert.keras.rows import MODULES, Made, Row
from gatewise.convert.keras.uses import Uses, uses_of
from gatewise.convert.report import Mapped
from gatewise.errors import InputError
from gatewise.layer import Layer


@dataclass(frozen=True)
class Value:
    """A tensor of Keras. axes: for each axis of torch's tensor, its place in Keras's; the batch is Keras's first.

    final: of a recurrent layer's outputs, in one direction, the last one; time: torch's axis of it.
    """

    tensor: Any
    axes: tuple[int, ...]
    final: Value | None = None
    time: int = -1


@dataclass(frozen=True)
class Stack:
    """The states of layers and directions: they lie along a first axis in torch, and each on its own in Keras."""

    parts: tuple[Value, ...]


class Builder:
    """A model of Keras in the making.

    Args: keras: the library. module: what was traced, and graph what came of it. inputs: what it reads. states:
    whether recurrent states are the model's inputs and outputs, too.
    """

    def __init__(self, keras: Any, module: nn.Module, graph: fx.Graph, inputs: Inputs, states: bool) -> None:
        self.keras, self.module, self.graph, self.states = keras, module, graph, states
        self.modules = dict(module.named_modules())
        self.uses = uses_of(graph, self.modules, states)
        self.specs = inputs
        self.values: dict[fx.Node, Any] = {}
        self.made: dict[tuple[str, Any], Any] = {}  # layers of Keras by what they stand for: a module may run twice
        self.names: set[str] = set()
        self.inputs: list[Any] = []
        self.state_inputs: list[Any] = []
        self.mapped: list[Mapped] = []
        self.notes: dict[str, None] = {}
        self.told = False  # whether a layer is told a mask that Keras does not hand on by itself

    def run(self) -> Any:
        """The model."""
        outputs: list[Any] = []
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._input(node)
            elif node.op == "call_module":
                self.values[node] = self._module(node)
            elif node.op in ("call_function", "call_method"):
                self.values[node] = functions.call(self, node)
            elif node.op == "get_attr":
                raise InputError(
                    f"{node.target}: a tensor that is no layer's, which Keras has no place for; expected modules with "
                    "parameters of their own"
                )
            else:
                outputs = self._outputs(self._value(node.args[0]))
        if not outputs:
            raise InputError(f"{type(self.module).__name__} returns no tensor")
        inputs = self.inputs + self.state_inputs
        model = self.keras.Model(*(some if len(some) > 1 else some[0] for some in (inputs, outputs)))
        return self.keras.Sequential(model.layers) if self._in_line(model) else model

    def _in_line(self, model: Any) -> bool:
        """Whether each layer reads what the one before it gives: older files hold masks only so."""
        one = len(model.inputs) == len(model.outputs) == 1
        if self.told or not one or any(len(layer._inbound_nodes) > 1 for layer in model.layers):
            return False
        before = model.inputs[0]
        for layer in model.layers[1:]:
            given, *masks = self.keras.tree.flatten(layer.input)
            if given is not before or any(mask.dtype != "bool" for mask in masks):
                return False
            before = layer.output
        return len(model.layers) > 1 and before is model.outputs[0]

    # --- values --------------------------------------------------------------------------------------

    def arguments(self, node: fx.Node) -> tuple[Sequence[Any], dict[str, Any]]:
        """A node's arguments, other nodes' values in their places."""
        return [self._value(a) for a in node.args], {k: self._value(a) for k, a in node.kwargs.items()}

    def _value(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda n: self.values[n])

    def arranged(self, value: Value, axes: Sequence[int]) -> Value:
        """The value with its axes of torch at these places in Keras; permuted there if they are not."""
        axes = tuple(axes)
        if value.axes == axes:
            return value
        if value.axes.index(0) != axes.index(0):
            raise InputError("Keras has the batch as the first axis of everything, and here another axis would be: "
                             "expected one layout, batch-first or time-major, all through the module")  # fmt: skip
        order = [value.axes[axes.index(place)] for place in range(len(axes))]
        return Value(self.layer(Made("Permute", {"dims": tuple(order[1:])}), "permute")(value.tensor), axes)

    def with_last(self, value: Value, last: int) -> Value:
        """The value with this axis of torch last in Keras, the others after the batch in torch's order."""
        last %= len(value.axes)
        batch = value.axes.index(0)
        if value.axes[last] == len(value.axes) - 1:
            return value
        order = [batch, *(a for a in range(len(value.axes)) if a not in (batch, last)), last]
        return self.arranged(value, [order.index(a) for a in range(len(order))])

    def batch_first(self, value: Value) -> Value:
        """The value with the batch first and the others in torch's order, as a model of Keras gives it out."""
        batch = value.axes.index(0)
        order = [batch, *(a for a in range(len(value.axes)) if a != batch)]
        if batch:
            self.notes["Keras has the batch first: what is (T, B, …) in torch is (B, T, …) there"] = None
        return self.arranged(value, [order.index(a) for a in range(len(order))])

    # --- layers ----------------------------------------------------------------------------------------

    def name(self, wanted: str) -> str:
        """A free name of a layer."""
        wanted = wanted.replace(".", "_").replace("/", "_") or "layer"
        more = (f"{wanted}_{k}" for k in itertools.count(1))
        free = next(name for name in itertools.chain([wanted], more) if name not in self.names)
        self.names.add(free)
        return free

    def layer(self, made: Made, name: str, dtype: torch.dtype | None = None, **options: Any) -> Any:
        """A layer of Keras; its weights come when it has read something."""
        names = {"name": self.name(name)} | ({"dtype": str(dtype).removeprefix("torch.")} if dtype else {})
        return getattr(self.keras.layers, made.kind)(**made.options, **names, **options)

    def _input(self, node: fx.Node) -> Any:
        if node in self.uses.states:
            return node  # read where its layer is known
        if node.args == (None,):
            return None
        shape, axes, dtype = self.specs.of(node)
        tensor = self.keras.Input(shape, dtype=dtype, name=self.name(node.name))
        self.inputs.append(tensor)
        return Value(tensor, axes)

    def _module(self, node: fx.Node) -> Any:
        name = str(node.target)
        module = self.modules[name]
        if isinstance(module, (Layer, nn.RNNBase)):
            return self._recurrent(node, name, module)
        if back.known(module):
            return back.module(self, node, name, module)
        if type(module) not in MODULES:
            raise InputError(
                f"{name}: Keras has nothing here for {type(module).__name__}, expected one of gatewise's or torch.nn's "
                f"recurrent layers or {', '.join(sorted(t.__name__ for t in MODULES))}"
            )
        (value,), options = self.arguments(node)
        if options or not isinstance(value, Value):
            raise InputError(f"{name}: {type(module).__name__} of {value} {options or ''}: expected one tensor")
        row = MODULES[type(module)]
        if isinstance(module, nn.Embedding) and back.masks_zero(self.graph, name):
            given = row.make
            row = replace(row, make=lambda m: [replace(e, options=e.options | {"mask_zero": True}) for e in given(m)])
        return self.row(row, module, value, name)

    def row(self, row: Row, module: Any, value: Value, name: str) -> Value:
        """What a row of the table makes of a value."""
        if row.rank not in (None, len(value.axes)):
            raise InputError(f"{name}: an input of {len(value.axes)} axes, expected {row.rank}, the batch among them")
        if row.last is not None:
            value = self.with_last(value, row.last(module))
        tensor = value.tensor
        for k, made in enumerate(row.make(module)):
            key = (name, k)
            if module is None or key not in self.made:
                dtype = made.weights[0].dtype if made.weights else None
                layer = self.made[key] = self.layer(made, name if made.weights or not k else f"{name}_{k}", dtype)
                tensor = layer(tensor)
                layer.set_weights([array(w) for w in made.weights])
                if made.weights:
                    self.mapped.append(Mapped(f"{name or 'the module'}: {module}", f"{made.kind} {layer.name}"))
            else:
                tensor = self.made[key](tensor)
        return Value(tensor, value.axes + tuple(range(len(value.axes), len(value.axes) + row.adds)))

    # --- recurrent layers --------------------------------------------------------------------------------

    def _recurrent(self, node: fx.Node, name: str, module: nn.Module) -> tuple[Value, Any]:
        layer = ours(module)
        arguments, options = self.arguments(node)
        value, hx = [*arguments, None][:2]
        value, hx = options.pop("input", value), options.pop("hx", hx)
        if options or len(arguments) > 2:
            raise InputError(f"{name}: lengths and resets are no part of a model of Keras, which has masks instead; "
                             "leave them out")  # fmt: skip
        if layer.one_step:
            raise InputError(f"{name}: {type(layer).__name__} takes one step; Keras has layers that take a sequence")
        if not isinstance(value, Value):
            raise InputError(f"{name}: a recurrent layer that reads {value!r}, expected a tensor")
        if layer.learn_state and any(s.any() for s in layer._initial_states(1)):
            raise InputError(f"{name}: it begins with a state that was learned, and Keras's layers begin with zeros; "
                             "give that state as hx, to be an input of the model")  # fmt: skip
        axes = (0, 1, 2) if layer.batch_first else (1, 0, 2)
        if "int" in value.tensor.dtype:
            value = Value(self._one_hot(name, layer, value.tensor), (*value.axes, 2))
        if len(value.axes) != 3:
            raise InputError(f"{name}: an input of {len(value.axes)} axes, expected 3: time, batch and features")
        tensor = self.arranged(value, axes).tensor
        uses = self.uses.layers[name]
        before = self._states_before(name, layer, hx, node)
        states: dict[str, list[Any]] = {state: [] for state in layer.cell.states}
        for k in range(layer.num_layers):
            tensor, after = self._one_layer(name, layer, k, tensor, before, uses)
            for j, state in enumerate(layer.cell.states):
                states[state] += after[j :: len(layer.cell.states)]
            if layer.dropout and k < layer.num_layers - 1:
                key = (name, f"dropout{k}")
                self.made.setdefault(key, None)
                drop = self.made[key] or self.layer(Made("Dropout", {"rate": layer.dropout}), f"{name}_dropout_l{k}")
                self.made[key], tensor = drop, drop(tensor)
        stacks = [Stack(tuple(Value(t, (0, 1)) for t in states[s])) for s in layer.cell.states]
        time = 1 if layer.batch_first else 0
        if uses.sequence:
            last = stacks[0].parts[-1] if stacks[0].parts and not layer.bidirectional else None
            output = Value(tensor, axes, last, time)
        else:
            output = Value(None, axes, None if layer.bidirectional else Value(tensor, (0, 1)), time)
        return output, tuple(stacks) if len(stacks) > 1 else stacks[0]

    def _one_layer(
        self, name: str, layer: Layer, k: int, tensor: Any, before: list[list[Any]] | None, uses: Uses
    ) -> tuple[Any, list[Any]]:
        """One layer, in one direction or two: its outputs, and its states in Keras's order."""
        key, top = (name, k), k == layer.num_layers - 1
        initial = {} if before is None else {"initial_state": [s for states in before for s in states[k]]}
        if before is not None and layer.bidirectional:
            initial = {"initial_state": [states[k][d] for d in (0, 1) for states in before]}
        new = key not in self.made
        if new:
            self.made[key] = self._new_layer(name, layer, k, uses.sequence or not top, uses.states)
        outputs = self.made[key](tensor, **initial)
        if new:
            found = recognise(layer.cell)
            weights = [w for r in (False, True)[: 1 + layer.bidirectional] for w in arrays(layer, found, k, r)]
            self.made[key].set_weights([array(w) for w in weights])
        return (outputs[0], list(outputs[1:])) if uses.states else (outputs, [])

    def _new_layer(self, name: str, layer: Layer, k: int, sequences: bool, states: bool) -> Any:
        try:
            found = recognise(layer.cell)
        except InputError as error:
            raise InputError(f"{name or type(layer).__name__}: {error}") from error
        if layer.cell.masks:
            self.notes[f"the random masks of {layer.cell.name} act in training alone, and were left out"] = None
        options = options_of(layer, found)
        called = f"{name or type(layer).__name__.lower()}" + (f"_l{k}" if layer.num_layers > 1 else "")
        dtype = layer._weight.dtype
        made = self.layer(Made(found.row.kind, options), called, dtype, return_sequences=sequences, return_state=states)
        kind = found.row.kind
        if layer.bidirectional:
            made = self.keras.layers.Bidirectional(made, name=self.name(f"{called}_both"), dtype=made.dtype_policy)
            kind = f"Bidirectional {kind}"
        which = f", layer {k}" if layer.num_layers > 1 else ""
        self.mapped.append(
            Mapped(f"{name or 'the layer'}: {type(layer).__name__}{which}", f"{kind} {made.name}", found.says)
        )
        return made

    def _one_hot(self, name: str, layer: Layer, tensor: Any) -> Any:
        """Integers as one-hot vectors: an embedding whose rows are the identity's, which nothing trains."""
        key, size = (name, "one-hot"), layer.input_size
        if key in self.made:
            return self.made[key](tensor)
        made = Made("Embedding", {"input_dim": size, "output_dim": size, "trainable": False})
        embedding = self.made[key] = self.layer(made, f"{name}_one_hot", layer._weight.dtype)
        tensor = embedding(tensor)
        embedding.set_weights([array(torch.eye(size, dtype=layer._weight.dtype))])
        self.mapped.append(Mapped(f"{name}: integers, which mean one-hot vectors", f"Embedding {embedding.name}",
                                  "the identity"))  # fmt: skip
        return tensor

    def _states_before(self, name: str, layer: Layer, hx: Any, node: fx.Node) -> list[list[Any]] | None:
        """For each of the cell's states, its tensors by layer, and in two directions by direction, too; None: zeros."""
        directions = 2 if layer.bidirectional else 1
        count = layer.num_layers * directions
        if isinstance(hx, fx.Node) and hx.args == (None,) and not self.states:
            hx = None
        if isinstance(hx, fx.Node) or (hx is None and self.states):
            called = hx.name if isinstance(hx, fx.Node) else name or "layer"
            stacks = [self._state_inputs(called, state, layer, count) for state in layer.cell.states]
            if isinstance(hx, fx.Node):
                self.values[hx] = tuple(stacks) if len(stacks) > 1 else stacks[0]
        elif hx is None:
            return None
        else:
            stacks = [hx] if isinstance(hx, Stack) else list(hx)
        if len(stacks) != len(layer.cell.states) or any(
            not isinstance(s, Stack) or len(s.parts) != count for s in stacks
        ):
            raise InputError(
                f"{name}: hx is something that is computed, expected the states of another layer, or an input"
            )
        rows = [[self.batch_first(part).tensor for part in stack.parts] for stack in stacks]
        return [[row[k * directions : (k + 1) * directions] for k in range(layer.num_layers)] for row in rows]

    def _state_inputs(self, called: str, state: str, layer: Layer, count: int) -> Stack:
        suffixes = [suffix for k in range(layer.num_layers) for suffix in layer._suffixes(k)]
        dtype = str(layer._weight.dtype).removeprefix("torch.")
        made = [
            self.keras.Input((layer.hidden_size,), dtype=dtype, name=self.name(f"{called}_{state}{suffix}"))
            for suffix in suffixes[:count]
        ]
        self.state_inputs += made
        return Stack(tuple(Value(t, (0, 1)) for t in made))

    def _outputs(self, value: Any) -> list[Any]:
        """All tensors of what the module returns, in order."""
        if isinstance(value, Value):
            return [self.batch_first(value).tensor]
        if isinstance(value, Stack):
            return [tensor for part in value.parts for tensor in self._outputs(part)]
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            return [tensor for part in value for tensor in self._outputs(part)]
        if value is None:
            return []
        raise InputError(f"the module returns {value!r}, expected tensors")


def options_of(layer: Layer, found: Recognised) -> dict[str, Any]:
    """What Keras's layer is made with."""
    options = {**found.options, "units": layer.hidden_size, "use_bias": bool(layer.bias)}
    # The orthogonal matrices from which Keras starts, before weights are set, torch cannot make of 16 bits.
    return options | ({"recurrent_initializer": "glorot_uniform"} if layer._weight.dtype.itemsize < 4 else {})


def array(tensor: Tensor) -> Any:
    """As numpy, which Keras takes whatever it runs on; numpy has no bfloat16, and float32 holds each of its numbers."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()
