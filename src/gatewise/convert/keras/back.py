"""What Keras models became when they were read, back in Keras: the inverse of table.py and running.py."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from gatewise.convert.keras import builder
from gatewise.convert.keras import modules as m
from gatewise.convert.keras.operations import OPERATIONS
from gatewise.convert.keras.recognise import arrays, recognise
from gatewise.convert.keras.rows import MERGES, MODULES, Made
from gatewise.convert.keras.running import KerasRNN
from gatewise.convert.report import Mapped
from gatewise.errors import InputError
from gatewise.layer import Layer

if TYPE_CHECKING:
    from gatewise.convert.keras.builder import Builder, Value


@dataclass(frozen=True)
class Mask:
    """A mask, which Keras hands on by itself. tensor: Keras's; None where Keras makes it of several. every: every step
    counts, as it does without a mask."""

    tensor: Any
    every: bool = False


def _activation(a: m.Activation) -> list[Made]:
    made = [Made("Activation", {"activation": a.name})]
    steeper = a.second and a.name == "hard_sigmoid"  # (1.2 a) / 6 + 1/2 is a / 5 + 1/2
    return [Made("Rescaling", {"scale": 1.2}), *made] if steeper else made


def _convolution(c: m.Convolution) -> list[Made]:
    inner, rank = c.inner, len(c.inner.kernel_size)
    options = {
        "filters": inner.out_channels, "kernel_size": inner.kernel_size, "strides": inner.stride,
        "dilation_rate": inner.dilation, "groups": inner.groups, "padding": c.padding,
        "use_bias": inner.bias is not None,
    }  # fmt: skip
    weights = [inner.weight.permute(*range(2, 2 + rank), 1, 0), *([] if inner.bias is None else [inner.bias])]
    return [Made(f"Conv{rank}D", options, weights)]


def _pooling(p: m.Pooling) -> list[Made]:
    options = {"pool_size": p.size, "strides": p.stride, "padding": p.padding}
    return [Made(f"{'Max' if p.largest else 'Average'}Pooling{len(p.size)}D", options)]


def _batch_norm(b: m.BatchNorm) -> list[Made]:
    return [replace(made, options={**made.options, "axis": b.axis}) for made in MODULES[nn.BatchNorm1d].make(b.inner)]


def _prelu(p: m.PReLU) -> list[Made]:
    shared = [k + 1 for k, size in enumerate(p.alpha.shape) if size == 1]
    return [Made("PReLU", {"shared_axes": shared or None}, [p.alpha])]


def _distributed(t: m.TimeDistributed) -> list[Made]:
    return [replace(made, kind=f"TimeDistributed {made.kind}") for made in made_of(t.inner)]


def _reduced(s: dict[str, Any]) -> Made:
    return Made(f"Global{'Max' if s['largest'] else 'Average'}Pooling{len(s['axes'])}D", {"keepdims": s["keepdims"]})


def _padding(s: dict[str, Any]) -> Made:
    pairs = [s["around"][k : k + 2] for k in range(0, len(s["around"]), 2)][::-1]
    return Made(f"ZeroPadding{len(pairs)}D", {"padding": pairs[0] if len(pairs) == 1 else tuple(pairs)})


KERAS: dict[type[nn.Module], Callable[[Any], Sequence[Made]]] = {
    m.Activation: _activation,
    m.Convolution: _convolution,
    m.Pooling: _pooling,
    m.BatchNorm: _batch_norm,
    m.LastAxis: lambda a: made_of(a.inner),
    m.PReLU: _prelu,
    m.TimeDistributed: _distributed,
    m.Function: lambda f: [FUNCTIONS[f.function](f.settings)],
    m.Merge: lambda f: [FUNCTIONS[f.function](f.settings)],
    nn.Flatten: lambda f: [Made("Flatten")],
}
FUNCTIONS: dict[Callable[..., Any], Callable[[dict[str, Any]], Made]] = {
    m.rectified: lambda s: Made(
        "ReLU", {"negative_slope": s["slope"], "max_value": s["most"], "threshold": s["threshold"]}
    ),
    m.rescaled: lambda s: Made("Rescaling", s),
    m.elu: lambda s: Made("ELU", s),
    m.softmax: lambda s: Made("Softmax", s),
    m.reshaped: lambda s: Made("Reshape", {"target_shape": s["shape"]}),
    m.permuted: lambda s: Made("Permute", s),
    m.repeated: lambda s: Made("RepeatVector", s),
    m.padding: _padding,
    m.cropped: lambda s: Made("Cropping1D", {"cropping": (s["before"], s["after"])}),
    m.upsampled: lambda s: Made("UpSampling1D", s),
    m.reduced: _reduced,
    m.concatenated: lambda s: Made("Concatenate", s),
    m.total: lambda s: Made("Add"),
    m.difference: lambda s: Made("Subtract"),
    m.product: lambda s: Made("Multiply"),
    m.average: lambda s: Made("Average"),
    m.largest: lambda s: Made("Maximum"),
    m.smallest: lambda s: Made("Minimum"),
    m.dotted: lambda s: Made("Dot", s),
}


# Operations, by what they are in torch; sums, products and the like are layers (rows.py).
CALLS: dict[Any, str] = {
    function: name
    for name, function, _ in OPERATIONS.values()
    if function not in (*MERGES, torch.cat, operator.getitem)
}


def made_of(module: nn.Module) -> Sequence[Made]:
    """The layers of a module without sequences of its own, an activation behind its layer put into it."""
    if isinstance(module, nn.Sequential):
        made: list[Made] = []
        for child in module:
            after = made_of(child)
            inside = made and "use_bias" in made[-1].options and len(after) == 1 and after[0].kind == "Activation"
            made[-1:] = (
                [replace(made[-1], options=made[-1].options | after[0].options)] if inside else [*made[-1:], *after]
            )
        return made
    row = KERAS.get(type(module)) or (MODULES[type(module)].make if type(module) in MODULES else None)
    if row is None:
        raise InputError(f"{module}: Keras has nothing here for {type(module).__name__}")
    return row(module)


def known(module: nn.Module) -> bool:
    """Whether a module is one that came from Keras, and so batch first and features last, as it is."""
    if type(module) is nn.Sequential:
        return len(module) > 1 and type(module[-1]) is m.Activation
    return type(module) in KERAS or type(module) is KerasRNN


def module(build: Builder, node: fx.Node, name: str, found: nn.Module) -> Any:
    """What a module that came from Keras makes of its arguments."""
    args, kwargs = build.arguments(node)
    if isinstance(found, KerasRNN):
        return _rnn(build, name, found, args, **kwargs)
    tensors = [plain(build, value).tensor for value in args]
    if type(found) is m.Merge:  # whose layer of Keras looks at the masks that its tensors carry
        for tensor, mask in zip(tensors, kwargs.get("masks") or [None] * len(tensors), strict=True):
            if _told(build, name, tensor, mask):
                raise InputError(f"{name}: a mask that Keras does not hand on by itself, and its layer can't be told")
    for k, made in enumerate(made_of(found)):
        key = (name, k)
        new = key not in build.made
        if new:
            kind, _, inner = made.kind.partition(" ")
            dtype = made.weights[0].dtype if made.weights else None
            layer = build.layer(replace(made, kind=inner or kind), f"{name}_{k}" if k else name, dtype)
            if inner:
                layer = build.keras.layers.TimeDistributed(layer, name=build.name(f"{name}_steps"))
            build.made[key] = layer
            if made.weights:
                build.mapped.append(Mapped(f"{name}: {type(found).__name__}", f"{made.kind} {layer.name}"))
        made_tensor = build.made[key](tensors if len(tensors) > 1 else tensors[0])
        if new:
            build.made[key].set_weights([builder.array(w) for w in made.weights])
        tensors = [made_tensor]
    return whole(tensors[0])


def plain(build: Builder, value: Any) -> Value:
    """The value with its axes as they are in torch."""
    if not isinstance(value, builder.Value) or value.tensor is None:
        raise InputError(f"{value}: expected a tensor")
    return build.arranged(value, range(len(value.axes)))


def whole(tensor: Any) -> Value:
    return builder.Value(tensor, tuple(range(len(tensor.shape))))


def function(build: Builder, node: fx.Node) -> Any:
    """The value of one of the functions around masks and indices; NotImplemented of others."""
    args, _ = build.arguments(node)
    if node.target is m.indices:
        return args[0]
    if node.target is m.nonzero:
        return Mask(mask_of(args[1].tensor))
    if node.target is m.masking:
        layer = build.layer(Made("Masking", {"mask_value": node.args[1]}), "masking")
        build.made[(node.name, "masking")] = layer(plain(build, args[0]).tensor)
        return Mask(mask_of(build.made[(node.name, "masking")]))
    if node.target is m.masked:
        mask: Any = node.args[1]
        return whole(build.made[(mask.name, "masking")])
    if node.target is m.masked_mean:
        x = plain(build, args[0])
        pooled = build.layer(Made("GlobalAveragePooling1D", {"keepdims": bool(args[2])}), node.name)
        return whole(pooled(x.tensor, **_told(build, node.name, x.tensor, args[1])))
    if node.target is m.ones:
        return Mask(None, every=True)
    parts = args[0] if node.target is torch.cat else args
    if node.target in (torch.logical_or, torch.cat) and any(isinstance(part, Mask) for part in parts):
        every = node.target is torch.logical_or and any(isinstance(part, Mask) and part.every for part in parts)
        return Mask(None, every)
    if node.target is torch.logical_and and any(isinstance(a, Mask) for a in args):
        raise InputError(f"{node.name}: Keras 2 takes a step that counts in all inputs, Keras 3 one that does in any; "
                         "the model cannot be written")  # fmt: skip
    return _operation(build, node) if node.target in CALLS else NotImplemented


def _operation(build: Builder, node: fx.Node) -> Value:
    """What Keras has as an operation on tensors, and not as a layer."""
    args, kwargs = build.arguments(node)
    values = [a for a in args if isinstance(a, builder.Value)]
    if not all(isinstance(a, (builder.Value, int, float)) for a in args) or any(v.tensor is None for v in values):
        raise InputError(f"{node.name}: {CALLS[node.target]} of {', '.join(map(str, args))}: expected tensors")
    tensors = [plain(build, a).tensor if isinstance(a, builder.Value) else a for a in args]
    options = {"axis" if name == "dim" else name: value for name, value in kwargs.items()}
    return whole(getattr(build.keras.ops, CALLS[node.target])(*tensors, **options))


def masks_zero(graph: fx.Graph, name: str) -> bool:
    """Whether an embedding's indices of zero are masked, in any of its calls."""
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    return any(user.target is m.nonzero for node in calls for user in node.users)


def mask_of(tensor: Any) -> Any:
    return getattr(tensor, "_keras_mask", None)


def _told(build: Builder, name: str, tensor: Any, mask: Mask | Value | None, by_itself: bool = True) -> dict[str, Any]:
    """The mask that a layer of Keras has to be told: none where Keras hands it on by itself.

    Raises: InputError: Keras would hand on a mask where the module has none.
    """
    has = mask_of(tensor)
    if mask is None:
        if has is not None and by_itself:
            raise InputError(f"{name}: it reads no mask, and Keras would hand it that of what it reads; the model "
                             "cannot be written")  # fmt: skip
        return {}
    wanted = plain(build, mask).tensor if isinstance(mask, builder.Value) else mask.tensor
    wanted = has if wanted is None else wanted
    if wanted is None and isinstance(mask, Mask) and mask.every:
        return {}
    if wanted is None:
        raise InputError(f"{name}: its mask is made of several, which Keras hands on behind the layer that joins them; "
                         "it cannot be told from there")  # fmt: skip
    if wanted is has and by_itself:
        return {}
    build.told = True
    return {"mask": wanted}


def _rnn(build: Builder, name: str, rnn: KerasRNN, args: Sequence[Any], mask: Mask | Value | None = None) -> Any:
    if rnn.time_major or rnn.stateful:
        raise InputError(f"{name}: {'time_major' if rnn.time_major else 'stateful'}, which a file of Keras 3 has "
                         f"{'no way to tell' if rnn.time_major else 'for one batch size alone'}")  # fmt: skip
    if any(len(names) > 1 for names, _ in rnn.runs):
        raise InputError(f"{name}: cells on top of each other in one layer; expected a layer each")
    tensors = [plain(build, a).tensor for a in args]
    # Keras 3 hands a mask to a layer by itself only if it is given one tensor.
    options = _told(build, name, tensors[0], mask, by_itself=len(tensors) == 1)
    options |= {"initial_state": tensors[1:]} if tensors[1:] else {}
    layers: list[Any] = [rnn.get_submodule(names[0]) for names, _ in rnn.runs]
    new = (name, 0) not in build.made
    if new:
        build.made[(name, 0)] = _layer(build, name, rnn, layers)
    outputs = build.made[(name, 0)](tensors[0], **options)
    if new:
        weights = [w for layer in layers for w in _weights(layer)]
        build.made[(name, 0)].set_weights([builder.array(w) for w in weights])
    return tuple(whole(t) for t in outputs) if isinstance(outputs, (list, tuple)) else whole(outputs)


def _layer(build: Builder, name: str, rnn: KerasRNN, layers: Sequence[Layer]) -> Any:
    sides = 2 if layers[0].bidirectional else len(layers)
    flags = {"return_sequences": rnn.return_sequences, "return_state": rnn.return_state}
    if sides == 1:
        flags["zero_output_for_mask"] = rnn.zero_output_for_mask
    made = []
    for k, layer in enumerate([*layers, *layers][:sides]):
        found = recognise(layer.cell)
        options = {**builder.options_of(layer, found), **flags}
        backwards = bool(k) if sides == 2 else rnn.runs[0][1]
        called = name if sides == 1 else f"{name}_{'backward' if k else 'forward'}"
        made.append(
            build.layer(Made(found.row.kind, {**options, "go_backwards": backwards}), called, layer._weight.dtype)
        )
        build.mapped.append(Mapped(f"{name}: {type(layer).__name__}", f"{found.row.kind} {made[-1].name}", found.says))
    if sides == 1:
        return made[0]
    merge = None if rnn.merge == "none" else rnn.merge
    dtype = made[0].dtype_policy
    return build.keras.layers.Bidirectional(
        made[0], merge_mode=merge, backward_layer=made[1], name=build.name(name), dtype=dtype
    )


def _weights(layer: Layer) -> list[Tensor]:
    found = recognise(layer.cell)
    return [w for reverse in (False, True)[: 1 + layer.bidirectional] for w in arrays(layer, found, 0, reverse)]
