"""The proof of a conversion: the other library's own runtime and gatewise on the same random input."""

from __future__ import annotations

import copy
import importlib
import inspect
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.convert.files import HOME, kind_of
from gatewise.convert.keras.running import KerasRNN
from gatewise.convert.network import Spec
from gatewise.convert.report import Conversion, Difference, Layers, NoRuntime, Proof, Runtime, count
from gatewise.errors import InputError, MissingPackageError, one_line, require
from gatewise.layer import Layer
from gatewise.tasks.models import evaluating

# Sizes for what may vary, by name; the third draw stands in for one that the other library refuses, as a convolution
# over one step may be.
DRAWS = ({"B": 1, "T": 1}, {"B": 3, "T": 11}, {"B": 2, "T": 40})
OTHERS = (1, 5, 24)  # sizes that have other names
MOST = 1 << 26  # numbers of one input, beyond which a file's sizes would fill the memory
ZEROS = 0.2  # the share of steps that are zero
# Two right computations differ by rounding: sums of a few hundred products in another order, over the steps. A swapped
# gate or a lost bias is off by a hundredth or more. Each is a share of the output's largest number, or of 1.
ALLOWED = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# A recurrence can amplify rounding at will, so what the module itself loses to rounding is allowed, a few times.
TIMES_OWN_ROUNDING = 8


def prove(conversion: Conversion | nn.Module, *sources: Any, seed: int = 0) -> Proof:
    """Compare a module with what other libraries make of the files that it came from or was written to.

    Args:
        conversion: what `read` or `save` gave, or its module.
        sources: files and live models, each run by its own library, where that is installed; or `Runtime`s.
        seed: of the random input.

    Returns:
        The largest differences, over two shapes of input each (the second longer than one step and one sample). NaN or
        infinity anywhere, or another shape, is a failure. A file of tensors that no library runs is read again, and
        compared number by number. What could not be compared is told in `unproved`, and `ok` is then false.

    Raises: InputError: there is no such file.
    """
    require("numpy")
    for source in sources:
        if isinstance(source, (str, os.PathLike)) and not os.path.exists(source):
            raise InputError(f"there is no file {source}")
    module = conversion.module if isinstance(conversion, Conversion) else conversion
    return sum((_prove(module, source, seed) for source in sources), Proof())


def _prove(module: nn.Module, source: Any, seed: int) -> Proof:
    """A module and one file or library."""
    try:
        pairs = _pairs(module, source)
    except NoRuntime as reason:
        return _read_back(module, source, seed) or Proof(notes=[f"not compared: {reason}"])
    except (InputError, MissingPackageError) as error:
        return Proof(unproved=[f"not proved: {error}"])
    except Exception as error:  # whatever another library raises on a file that gatewise read: it is told
        return Proof(unproved=[f"not proved: {type(error).__name__}: {one_line(error)[:200]}"])
    proof = Proof()
    if isinstance(module, Layers):
        if rest := {name: layer for name, layer in module.items() if all(layer is not part for part, _ in pairs)}:
            alone = f"not proved: {', '.join(rest)}: no other library runs such a layer alone"
            proof += _read_back(Layers(rest), source, seed) or Proof(unproved=[alone])
        if len(module) > 1:
            proof += Proof(notes=["not compared: how the layers are connected, which was not read"])
    return sum((_compare(part, runtime, seed) for part, runtime in pairs), proof)


def _read_back(module: nn.Module, source: Any, seed: int) -> Proof | None:
    """A file of tensors, compared with the module number by number; None where it is no such file."""
    home = importlib.import_module(HOME[kind_of(source)])
    if not hasattr(home, "read_back"):
        return None
    name = os.path.basename(source)
    try:
        numbers, wrong = home.read_back(module, source, seed)
    except InputError as error:
        return Proof(unproved=[f"not proved: {error}"])
    if wrong:
        return Proof(
            [Difference(f"{name}, read again", "as it is stored", "its tensors", math.nan, math.nan, 0.0, wrong)]
        )
    if not numbers:
        return None
    return Proof(read_back=[f"{name}, read again, has the module's {count(numbers, 'tensor')}, number by number, and"
                            " its recurrent layers give the same"])  # fmt: skip


def _pairs(module: nn.Module, source: Any) -> list[tuple[nn.Module, Runtime]]:
    """What is compared with what: the whole, or of `Layers` each of those that the other library runs alone."""
    if not isinstance(module, Layers):
        return [(module, source if isinstance(source, Runtime) else runtime_of(source))]
    home = importlib.import_module(HOME[kind_of(source)])
    if not hasattr(home, "layer_runtimes"):
        raise InputError("layers were read and not the whole, and no other library runs them alone")
    return [(module[made.layer], made) for made in home.layer_runtimes(source, list(module))]


def runtime_of(source: Any) -> Runtime:
    """The library that a file belongs to, ready to run it.

    Raises:
        NoRuntime: no other library runs such a file. MissingPackageError: it is not installed.
    """
    made = importlib.import_module(HOME[kind_of(source)]).runtime(source)
    assert isinstance(made, Runtime)
    return made


def call(module: nn.Module, specs: Sequence[Spec], inputs: Sequence[Tensor]) -> list[Tensor]:
    """A module's outputs in one list, of inputs in one list: states, which a module takes as a tuple, among them."""
    parameters = list(inspect.signature(module.forward).parameters)
    named = {s.name: x for s, x in zip(specs, inputs, strict=True) if s.name in parameters}
    if isinstance(module, (Layer, nn.RNNBase)):
        keywords = {name: named[name] for name in ("lengths", "resets") if name in named}
        rest = [x for s, x in zip(specs, inputs, strict=True) if s.name not in keywords]
    else:
        keywords, rest = {}, list(inputs)
    if not hasattr(module, "specs"):
        rest = [*rest[:1], *_stacked(module, rest[1:])]
        most = 2 if isinstance(module, (Layer, nn.RNNBase)) else len(parameters)
        if len(rest) > most:
            rest = [*rest[: most - 1], tuple(rest[most - 1 :])]  # type: ignore[list-item]
    return list(_flat(module(*rest, **keywords)))


def _stacked(module: nn.Module, states: Sequence[Tensor]) -> Sequence[Tensor]:
    """States of each layer and direction on their own, (B, H), as a layer has them: (L * D, B, H) of each kind."""
    layers = [m for m in module.modules() if isinstance(m, (Layer, nn.RNNBase)) and not getattr(m, "one_step", False)]
    if not states or len(layers) != 1 or any(s.dim() != 2 for s in states):
        return states
    count = layers[0].num_layers * (2 if layers[0].bidirectional else 1)
    if len(states) % count:
        return states
    return [torch.stack(list(states[k : k + count])) for k in range(0, len(states), count)]


def _flat(made: Any) -> Iterator[Tensor]:
    if isinstance(made, Tensor):
        yield made
    elif isinstance(made, Mapping):
        yield from _flat(list(made.values()))
    elif made is not None:
        for part in made:
            yield from _flat(part)


def _dtype(module: nn.Module) -> torch.dtype:
    found = [p.dtype for p in (*module.parameters(), *module.buffers()) if p.dtype in ALLOWED]
    return max(found, key=lambda dtype: ALLOWED[dtype], default=torch.float32)


def _compare(module: nn.Module, runtime: Runtime, seed: int) -> Proof:
    """One library, on the first two draws that it takes."""
    proof = Proof()
    ran: list[int] = []
    refusals: list[str] = []
    for number, (sizes, other) in enumerate(zip(DRAWS, OTHERS, strict=True)):
        if len(ran) == 2:
            break
        if (numbers := max((_numbers(s, sizes, other) for s in runtime.inputs), default=0)) > MOST:
            refusals.append(f"{runtime.name} reads {numbers} numbers at once, expected at most {MOST}")
            break
        inputs, shown = _draw(runtime.inputs, sizes, other, torch.Generator().manual_seed(seed + number))
        try:
            theirs = [torch.from_numpy(a.copy()) for a in runtime.run([x.numpy() for x in inputs])]
        except Exception as error:  # whatever another library raises: it is told
            refusals.append(f"{runtime.name} does not run {shown}: {one_line(error)[:200]}")
            if not ran and number == len(DRAWS) - 1:
                proof += Proof([_failed(runtime, shown, f"{refusals.pop()}; nor the shapes before")])
            continue
        ran.append(number)
        proof += _outputs(module, runtime, inputs, theirs, shown)
    # One step from one sample's zeros does not show what the recurrence does.
    if ran and ran != [0]:
        return proof + Proof(notes=[f"not compared: {refusal}" for refusal in refusals])
    return proof + Proof(unproved=[f"not proved: {refusal}" for refusal in refusals])


def _outputs(
    module: nn.Module, runtime: Runtime, inputs: Sequence[Tensor], theirs: Sequence[Tensor], shown: str
) -> Proof:
    """The outputs of both on one input."""
    dtype = _dtype(module)
    turned = any(_batch_axes(module, runtime.inputs))
    try:
        ours = _run(module, runtime.inputs, inputs, dtype)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return Proof([_failed(runtime, shown, f"gatewise does not run it: {one_line(error)[:200]}")])
    ours = _as_there(ours, theirs, turned)
    unproved = []
    if len(theirs) != len(ours):
        most = max(len(theirs), len(ours))
        unproved.append(f"not proved: {count(most - min(len(theirs), len(ours)), 'output')} of {most}: {runtime.name}"
                        f" gives {len(theirs)}, gatewise {len(ours)}")  # fmt: skip
    differences = []
    exact: list[Tensor] | None = None
    for k, (their, our) in enumerate(zip(theirs, ours, strict=False)):
        absolute, relative, wrong = _difference(their, our)
        allowed = max(ALLOWED[dtype], ALLOWED.get(their.dtype, 0.0))  # the other library may have fewer digits
        if not wrong and relative > allowed and dtype != torch.float64:
            if exact is None:
                exact = _run(copy.deepcopy(module).double(), runtime.inputs, inputs, torch.float64)
                exact = _as_there(exact, theirs, turned)
            allowed = max(allowed, TIMES_OWN_ROUNDING * _difference(exact[k], our)[1])
        if not wrong and relative > allowed:
            wrong = f"differs by {absolute:.1e}, {relative:.1e} of the largest number"
        differences.append(Difference(runtime.name, shown, f"output {k + 1}", absolute, relative, allowed, wrong))
    return Proof(differences, unproved)


def _failed(runtime: Runtime, shown: str, wrong: str) -> Difference:
    return Difference(runtime.name, shown, "all outputs", float("nan"), float("nan"), 0.0, wrong)


def _run(module: nn.Module, specs: Sequence[Spec], inputs: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    given = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    given = [x.movedim(0, axis) for x, axis in zip(given, _batch_axes(module, specs), strict=True)]
    with torch.no_grad(), evaluating(module), _anew(module):
        return call(module, specs, given)


@contextmanager
def _anew(module: nn.Module) -> Iterator[None]:
    """Layers that keep their states from call to call begin with zeros, and afterwards have what they had."""
    kept = {m: m.kept for m in module.modules() if isinstance(m, KerasRNN)}
    for m in kept:
        m.reset_states()
    try:
        yield
    finally:
        for m, states in kept.items():
            m.kept = states


def _batch_axes(module: nn.Module, specs: Sequence[Spec]) -> list[int]:
    """Where the module has each input's batch, which the other library has first; 0 where the two agree.

    Models of Keras are batch first, whatever the module was that they were made of: that is told by its inputs, or by
    its recurrent layers.
    """
    if own := getattr(module, "specs", ()):
        places = [
            m.shape.index("B") if "B" in m.shape and "B" in s.shape[:1] else 0 for m, s in zip(own, specs, strict=False)
        ]
        return places + [0] * (len(specs) - len(places))
    layers = [m for m in module.modules() if isinstance(m, (Layer, nn.RNNBase))]
    time_major = bool(layers) and not any(layer.batch_first for layer in layers)
    return [int(time_major and s.shape[:2] == ("B", "T")) for s in specs]


def _as_there(ours: Sequence[Tensor], theirs: Sequence[Tensor], turned: bool) -> list[Tensor]:
    """Outputs in the other library's shapes: the batch first, the states of each layer and direction on their own."""
    if len(theirs) > len(ours):
        for k in range(1, len(ours)):
            apart = [*ours[:k], *(s for t in ours[k:] for s in (t.unbind(0) if t.dim() == 3 else [t]))]
            if len(apart) == len(theirs):
                ours = apart
                break
    made = []
    for k, our in enumerate(ours):
        shape = theirs[k].shape if k < len(theirs) else our.shape
        if turned and our.shape != shape and our.dim() > 1 and our.transpose(0, 1).shape == shape:
            our = our.transpose(0, 1)
        elif our.shape == (1, *shape):  # the state of one layer
            our = our[0]
        made.append(our)
    return made


def _difference(their: Tensor, our: Tensor) -> tuple[float, float, str]:
    """The largest difference, its share of the largest number or of 1, and what is wrong."""
    if their.shape != our.shape:
        return float("nan"), float("nan"), f"its shape is {tuple(their.shape)} there and {tuple(our.shape)} here"
    one, other = their.double(), our.double()
    if not (one.isfinite().all() and other.isfinite().all()):
        return float("nan"), float("nan"), "it has NaN or infinity"
    if not one.numel():
        return 0.0, 0.0, ""
    absolute = (one - other).abs().max().item()
    return absolute, absolute / max(1.0, one.abs().max().item()), ""


def _shape(spec: Spec, sizes: Mapping[str, int], other: int) -> list[int]:
    return [size if isinstance(size, int) else sizes.get(size, other) for size in spec.shape]


def _numbers(spec: Spec, sizes: Mapping[str, int], other: int) -> int:
    return math.prod(_shape(spec, sizes, other))


def _draw(
    specs: Sequence[Spec], sizes: Mapping[str, int], other: int, random: torch.Generator
) -> tuple[list[Tensor], str]:
    """Random tensors of these shapes, and the shapes in words."""
    inputs = []
    for spec in specs:
        shape = _shape(spec, sizes, other)
        if spec.dtype.is_floating_point:
            x = torch.randn(shape, generator=random, dtype=torch.float64).to(spec.dtype)
        elif spec.dtype == torch.bool:
            x = torch.rand(shape, generator=random) < 0.5
        elif spec.high or len(shape) != 1:
            x = torch.randint(0, spec.high or 2, shape, generator=random, dtype=spec.dtype)
        else:  # one integer a sample without a bound is its length
            steps = sizes["T"] if any("T" in s.shape for s in specs) else 1
            x = torch.randint(1, steps + 1, shape, generator=random, dtype=spec.dtype)
        if {"B", "T"} <= set(spec.shape):  # a step of zeros is what masks look for
            axes = [size if name in ("B", "T") else 1 for name, size in zip(spec.shape, shape, strict=True)]
            x = torch.where(torch.rand(axes, generator=random) < ZEROS, torch.zeros_like(x), x)
        inputs.append(x)
    return inputs, ", ".join(f"{spec.name} {tuple(x.shape)}" for spec, x in zip(specs, inputs, strict=True))
