"""Files of named tensors: `.safetensors`, `.pt` and `.pth` with a state_dict, `.npz`.

They hold weights and no architecture. What `write` makes also tells its recurrent layers, each with its cell as text,
so that they come back as they were; of other files the layers are told by torch.nn's names of parameters.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.convert.arrays import ours
from gatewise.convert.network import Spec
from gatewise.convert.report import Conversion, Layers, Mapped, NoRuntime, Runtime
from gatewise.convert.tensors import files
from gatewise.convert.tensors.named import (
    Found,
    by_names,
    cells_of,
    described,
    differences,
    recurrent,
    restored,
    same_function,
)  # fmt: skip
from gatewise.errors import InputError, one_line
from gatewise.layer import Layer
from gatewise.layers import GRU
from gatewise.single_step import GRUCell, SingleStep
from gatewise.swap import restore
from gatewise.tasks.run import write as write_whole

KIND = "tensors"
UNTOLD_GRU = (
    "names of parameters do not tell whether a GRU's reset gate acts after the product, as torch.nn's, or before it:"
    " read as torch.nn's; for the other one give like=gatewise.GRU(…, reset_after=False)"
)


def read(source: str | os.PathLike[str], like: nn.Module | None = None) -> Conversion:
    """A file's tensors as the module `like`; or its recurrent layers, or the one layer that it is.

    Args, Raises: as `gatewise.convert.load`.
    """
    path = Path(source)
    contents = files.read(path)
    if like is not None:
        return _into(like, path, contents)
    if contents.text:
        found = restored(contents.text, contents.tensors, str(path))
        notes = []
    elif (book := _of_d2l(path, contents)) is not None:
        return book
    else:
        found = by_names(contents.tensors)
        notes = [UNTOLD_GRU] if any(isinstance(f.layer, (GRU, GRUCell)) for f in found) else []
        if any(f.layer.cell.name == "rnn" for f in found):
            notes.append("an RNN's activation is not told: tanh assumed, torch.nn's default; for relu give `like`")
        if found:
            notes.append("batch_first and dropout are not told: the layers are (T, B, …), without dropout")
    taken = {name for f in found for name in f.names}
    rest = [
        f"{name} {tuple(t.shape)}: no recurrent layer's" for name, t in contents.tensors.items() if name not in taken
    ]
    mapped = [Mapped(f"{f.prefix or ''}* ({len(f.names)} tensors)", repr(f.layer), _how(f.layer)) for f in found]
    left = [*rest, *contents.left]
    if not found:
        raise InputError(
            f"{path} has no recurrent layer by its names ({', '.join(list(contents.tensors)[:4])} …):"
            " give the module that it is for, like=module"
        )
    if len(found) == 1 and not found[0].prefix and not rest:
        return Conversion(found[0].layer, KIND, mapped, left, notes)
    layers = Layers({_key(f): f.layer for f in found})
    layers.left = tuple(left)
    return Conversion(layers, KIND, mapped, left, notes)


def write(module: nn.Module, path: Path) -> Conversion:
    """Write a module's state_dict, and beside it what its recurrent layers are; whole or not at all.

    Args:
        module: any module. path: `.safetensors`, `.pt`, `.pth` or `.npz`.

    Raises: InputError: the state_dict holds something else than tensors, or numpy lacks their dtype.
    """
    state = module.state_dict()
    if not state:
        raise InputError(f"{path}: the {type(module).__name__} has no parameters, so there is nothing to write")
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise InputError(f"{path}: {name} of the state_dict is no plain tensor, which is all that such files hold")
    text, untold = described(module)
    write_whole(path, files.write(path, state, text))
    mapped = [
        Mapped(f"{name or 'the layer'}: {child}", f"{name + '.' if name else ''}*, and its cell", _how(ours(child)))
        for name, child in recurrent(module).items()
    ]
    others = len(state) - sum(len(child.state_dict()) for child in recurrent(module).values())
    notes = [f"{others} more tensors, by name: their modules are not told; read with `like`"] if others else []
    return Conversion(module, KIND, mapped, (), [*notes, *untold])


def runtime(source: str | os.PathLike[str]) -> Runtime:
    """torch.nn's own layer on a file that holds one layer that torch.nn has.

    Raises: NoRuntime: the file holds something else.
    """
    try:
        _refuse_d2l(files.read(Path(source)))
        layer = read(source).module
    except InputError as error:  # it has no recurrent layer, and so nothing that is known to run
        raise NoRuntime(str(error)) from error
    if not isinstance(layer, Layer):
        raise NoRuntime("tensors have no runtime of their own")
    return _of_torch(layer)


def layer_runtimes(source: str | os.PathLike[str], names: Sequence[str]) -> Iterator[Runtime]:
    """torch.nn's own layers on those of a file that torch.nn has.

    Args: names: which, as `Layers` has them.

    Raises: NoRuntime: the file is none of torch.nn's.
    """
    from gatewise.convert.files import recurrent_layers

    _refuse_d2l(files.read(Path(source)))
    for name, layer in recurrent_layers(read(source).module).items():
        if name in names and isinstance(layer, Layer):
            with suppress(NoRuntime):
                yield _of_torch(layer, name)


def _refuse_d2l(contents: files.Contents) -> None:
    """torch.nn, given the weights as they were read, does not show that d2l's lists were read right."""
    if _has_d2l(contents):
        raise NoRuntime("d2l's parameters are run by the book's code alone")


def _of_torch(layer: Layer, name: str = "") -> Runtime:
    # The names are torch.nn's, so that its class on these parameters is what runs such a file.
    theirs = copy.deepcopy(layer)
    if skipped := restore(theirs).skipped:
        raise NoRuntime(next(iter(skipped.values())))
    numbers, size = layer._weight.dtype, layer.input_size
    dtype = torch.float32 if numbers == torch.bfloat16 else numbers  # numpy has no bfloat16
    if isinstance(layer, SingleStep):
        inputs = [Spec("input", ("B", size), dtype)]
        inputs += [Spec(name, ("B", layer.hidden_size), dtype) for name in layer.cell.states]
    else:
        inputs = [Spec("input", ("B", "T", size) if layer.batch_first else ("T", "B", size), dtype)]
        inputs += [
            Spec(f"{name}_0", (shape[0], "B", shape[2]), dtype)
            for name, shape in zip(layer.cell.states, layer.state_shapes(1), strict=True)
        ]

    def run(arrays: Sequence[Any]) -> Sequence[Any]:
        x, *states = (torch.from_numpy(a).to(numbers) for a in arrays)
        with torch.no_grad():
            made = theirs(x, states[0] if len(states) == 1 else tuple(states))
        return [t.to(dtype).numpy() for t in _flat(made)]

    return Runtime(f"torch.nn of torch {torch.__version__}{f', {name} alone' if name else ''}", inputs, run, name)


def read_back(module: nn.Module, source: str | os.PathLike[str], seed: int) -> tuple[int, str]:
    """Whether a file holds a module's numbers: how many tensors agree, and what does not, or "".

    Every tensor is held against the module's of that name. The recurrent layers that the file tells are made again,
    and give the very outputs of the module's on random input. Where the names are not the module's, no tensor agrees
    and nothing is wrong.

    Args: module: any; of `Layers` those that the file tells of itself.

    Raises: InputError: the file is damaged.
    """
    path = Path(source)
    contents = files.read(path)
    told = {_key(f): f for f in restored(contents.text, contents.tensors, str(path))}
    if isinstance(module, Layers):
        inside = dict(module.items())
        if not set(inside) <= set(told):
            return 0, ""
        state = {told[key].prefix + n: t for key, layer in inside.items() for n, t in layer.state_dict().items()}
    else:
        inside = {name.replace(".", "/") or "layer": layer for name, layer in recurrent(module).items()}
        state = module.state_dict()
        if set(state) != set(contents.tensors):
            return 0, ""
    if wrong := differences(state, {n: t for n, t in contents.tensors.items() if n in state}):
        return 0, wrong
    for name, value in state.items():
        if not _identical(contents.tensors[name].to(value.dtype), value.detach().cpu()):
            return 0, f"{name} has other numbers"
    for key in set(inside) & set(told):
        if not _same_outputs(ours(inside[key]), told[key].layer, seed):
            return 0, f"the recurrent layer {key!r} is another function"
    return len(state), ""


def _same_outputs(one: Layer, other: Layer, seed: int) -> bool:
    """Whether two layers with the same parameters give the very same, on random input."""
    shape = (5, 3, other.input_size)[int(isinstance(other, SingleStep)) :]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(other._weight.dtype)
    try:
        with torch.no_grad():
            outputs, others = (_flat(copy.deepcopy(layer).cpu().eval()(x)) for layer in (one, other))
    except (RuntimeError, ValueError, TypeError):  # of another input, or other states
        return False
    return len(outputs) == len(others) and all(map(_identical, outputs, others))


def _identical(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, NaN among them."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)))


def _flat(made: Any) -> list[Tensor]:
    return [made] if isinstance(made, Tensor) else [t for part in made for t in _flat(part)]


def _key(found: Found) -> str:
    return found.prefix.removesuffix(".").replace(".", "/") or "layer"


def _how(layer: Layer) -> str:
    biases = {True: "two biases a gate", False: "no bias", "input": "one bias a gate"}
    return f"{layer.cell.name}: gates {' '.join(layer.cell.gates)}, {biases[layer.bias]}"


def _into(like: nn.Module, path: Path, contents: files.Contents) -> Conversion:
    """`like`, with the file's tensors as its parameters and buffers; unchanged if not all of them fit."""
    state, tensors = like.state_dict(), contents.tensors
    if isinstance(like, (Layer, nn.RNNBase)) and (book := _of_d2l(path, contents, like)) is not None:
        return book
    if contents.listed:
        raise InputError(f"{path} holds a list of {len(tensors)} tensors without names, which fit a layer alone")
    if wrong := differences(state, tensors):
        raise InputError(f"{path} does not fit the {type(like).__name__}: {wrong}")
    inside, notes = recurrent(like), []
    for name, (_, cell, _) in cells_of(contents.text, str(path)).items():
        if name in inside and not same_function(ours(inside[name]).cell, cell):
            raise InputError(
                f"{path}: {name or 'the layer'} was saved with the cell {cell.name}, and `like` has"
                f" {ours(inside[name]).cell.name} there: the same weights make another function of it"
            )
    if not contents.text and (grus := [n for n, child in inside.items() if _is_gru(child)]):
        names = ", ".join(n or "the layer" for n in grus)
        notes.append(f"the file does not tell which GRU its weights are of; {names}: as `like` has it")
    if rounded := sorted({f"{t.dtype} to {state[n].dtype}" for n, t in tensors.items() if t.dtype != state[n].dtype}):
        notes.append(f"numbers became those of `like`: {', '.join(rounded)}")
    try:
        like.load_state_dict(tensors)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{path} does not fit the {type(like).__name__}: {one_line(error)}") from error
    mapped = [Mapped(f"{n}.* " if n else "*", repr(child), _how(ours(child))) for n, child in inside.items()]
    return Conversion(like.eval(), KIND, mapped, contents.left, notes)


def _is_gru(child: nn.Module) -> bool:
    return isinstance(child, (GRU, nn.GRU)) or ours(child).cell.gates == GRU(1, 1).cell.gates


def _has_d2l(contents: files.Contents) -> bool:
    return contents.listed or any(name.rpartition(".")[2].startswith("W_x") for name in contents.tensors)


def _of_d2l(path: Path, contents: files.Contents, like: nn.Module | None = None) -> Conversion | None:
    """The parameters of d2l's networks from scratch, W_xz and so on, or their list; None if they are not."""
    from gatewise.convert.d2l import from_params

    if not _has_d2l(contents):
        return None
    last = {name.rpartition(".")[2]: value for name, value in contents.tensors.items()}
    if len(last) < len(contents.tensors):
        raise InputError(f"{path} has several layers of d2l's names; save them one by one")
    try:
        layer, linear = from_params(list(last.values()) if contents.listed else last, like)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    layer.eval()
    mapped = [Mapped("W_x*, W_h*, b_*, of d2l", repr(layer), _how(ours(layer)))]
    if linear is None or like is not None:
        left = [] if linear is None else ["W_hq, b_q: the output layer"]
        return Conversion(layer, KIND, mapped, [*left, *contents.left])
    layers = Layers({"layer": layer})
    layers.left = (
        "W_hq, b_q: the output layer, which gatewise.convert.d2l.from_params gives as nn.Linear",
        *contents.left,
    )
    return Conversion(layers, KIND, mapped, layers.left)
