"""The shapes of a layer: its parameters, the tensors on the way, what comes back and how it relates, counts and bytes.

Parameters are read from a layer (without memory, on torch's "meta" device), and all else from the cell's graph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gatewise.convert import keras
from gatewise.graph.graph import Graph, walk
from gatewise.graph.ops import OPS
from gatewise.layer import Layer
from gatewise.layers import Recurrent
from gatewise.scan.plan import backward_plan
from gatewise.swap import OURS

_INFIX = {"add": "+", "sub": "-", "mul": "⊙", "div": "/"}


def value(formula: str, sizes: Mapping[str, int]) -> int:
    """The number that a formula such as "G·H·(I + H + 2)" is, for these sizes."""
    return int(eval(formula.replace("·", "*"), {"__builtins__": {}}, dict(sizes)))  # what was made here, no user's text


def numbers(formula: str, sizes: Mapping[str, int]) -> str:
    """A formula with its letters replaced by numbers: "3·256·(28 + 256 + 2)"."""
    return re.sub(r"[A-Z]\w*", lambda letter: str(sizes[letter[0]]), formula)


@dataclass(frozen=True)
class Row:
    """A tensor: its name, its shape in letters, ("G·H", "I"), and in numbers, (768, 28), what it is, its bytes."""

    name: str
    symbols: tuple[str, ...]
    shape: tuple[int, ...]
    what: str
    bytes: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Relation:
    """How two expressions of a layer's results relate, and why.

    left, right: Python, of `output`, the final states (`h_n` …), `lengths`, `arange`, `cat` and the sizes' letters.
    equal: whether they are equal, or differ. lengths: whether it is about a call with `lengths`.
    """

    left: str
    right: str
    why: str
    equal: bool = True
    lengths: bool = False

    def __str__(self) -> str:
        return f"{self.left} {'==' if self.equal else '!='} {self.right}"


@dataclass(frozen=True)
class Shapes:
    """What `shapes` found; `str()` is a text of at most 80 columns, where names and numbers allow.

    cell: the graph. sizes: the letters and their numbers: T steps, B batch, I input, H hidden, P projected, G gates
        (Gx read from x and Gh projected from states, where these differ), D directions, L layers.
    parameters: of each layer and direction, in the order of h_n: the first is layer 0's, forward.
    bias: as the layer has it, True, False or "input". batch_first: whether x and output are (B, T, …).
    returned: input, output and final states. unbatched: the same without the axis of the batch.
    relations: how they relate.
    tensors: what is made in layer 0, forward; in other layers and in reverse the shapes are the same.
    kept: what one layer and direction keeps for its backward pass, besides its input and its parameters.
    """

    cell: Graph
    sizes: Mapping[str, int]
    dtype: torch.dtype
    bias: bool | str
    batch_first: bool
    parameters: tuple[tuple[Row, ...], ...]
    returned: tuple[Row, ...]
    unbatched: tuple[Row, ...]
    relations: tuple[Relation, ...]
    tensors: tuple[Row, ...]
    kept: tuple[Row, ...]

    # --- parameters ------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """The number of parameters, of all layers and directions."""
        return sum(row.count for rows in self.parameters for row in rows)

    @property
    def bytes(self) -> int:
        """The bytes of the parameters."""
        return sum(row.bytes for rows in self.parameters for row in rows)

    def formula(self, layer: int) -> str:
        """The number of parameters of one layer, with all its directions, in letters: "D·G·H·(I + H + 2)"."""
        terms: dict[str, list[str]] = {}
        for row in self.parameters[layer * self.sizes["D"]]:
            first, *rest = row.symbols
            terms.setdefault(first, []).append("·".join(rest) or "1")
        sums = []
        for first, factors in terms.items():
            ones = factors.count("1")
            inner = [f for f in factors if f != "1"] + ([str(ones)] if ones else [])
            whole = inner[0] if len(inner) == 1 else f"({' + '.join(inner)})"
            sums.append(first if whole == "1" else f"{whole}·{first}" if inner == [str(ones)] else f"{first}·{whole}")
        return _in_directions(sums, self.sizes)

    def with_bias(self, bias: bool | str) -> int:
        """The number of parameters with this `bias`: True (two a gate), "input" (one), False.

        Learned states are not among them.
        """
        s = self.sizes
        twin = Recurrent(
            self.cell, s["I"], s["H"], s["L"], bias, bidirectional=s["D"] == 2, device="meta", proj_size=s.get("P", 0)
        )
        return sum(p.numel() for p in twin.parameters())

    @property
    def summed_biases(self) -> tuple[str, ...]:
        """The gates of whose two biases the sum alone counts: what is read from x and what is projected get one
        gradient."""
        back = dict(backward_plan(self.cell).graph.outputs)
        projected: dict[str, list[int | None]] = {}
        for i, node in walk(self.cell, "project"):
            projected.setdefault(node.key, []).append(back.get(f"project %{i}"))
        return tuple(g for g in self.cell.input_gates if projected.get(g) == [back[f"input {g}"]])

    @property
    def keras(self) -> tuple[keras.KerasLayer, tuple[Row, ...]] | None:
        """Keras's layer with these equations and the weights of layer 0 there; None if Keras has no such layer."""
        layer = keras.LAYERS.get(self.cell)
        if layer is None:
            return None
        weights: dict[str, tuple[str, ...]] = {"kernel": ("I", "G·H"), "recurrent_kernel": ("H", "G·H")}
        if self.bias:
            weights["bias"] = ("2", "G·H") if layer.biases == 2 else ("G·H",)
        made = tuple(_row(name, symbols, self.sizes, self.dtype) for name, symbols in weights.items())
        return layer, made

    @property
    def keras_count(self) -> int:
        """The number of parameters of all layers and directions in Keras; 0 if Keras has no such layer."""
        layer = keras.LAYERS.get(self.cell)
        return 0 if layer is None else self.with_bias(bool(self.bias) and (layer.biases == 2 or "input"))

    # --- work and memory -------------------------------------------------------------------------

    def products(self, layer: int) -> str:
        """The multiply-adds of one layer's matrix products, all directions, for one step of one sample, in letters."""
        cell, out = self.cell, self._out
        reads = "I" if layer == 0 else _times("D", out, self.sizes)
        projections = sum(node.op == "project" for node in cell.nodes)
        gx, gh = _gate_letters(cell)
        gh = gh if projections == len(cell.hidden_gates) else str(projections)
        terms = [f"{gx}·H·({reads} + {out})"] if gx == gh else [f"{gx}·H·{reads}"]
        terms += [f"{gh}·H·{out}"] if projections and gx != gh else []
        terms += ["P·H" for node in cell.nodes if node.op == "output"]
        return _in_directions(terms, self.sizes)

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of all matrix products, forward, over the whole sequence and batch."""
        a_step = sum(value(self.products(layer), self.sizes) for layer in range(self.sizes["L"]))
        return a_step * self.sizes["T"] * self.sizes["B"]

    @property
    def multiply_adds_training(self) -> int:
        """Those of forward and backward, where the input needs no gradient.

        Each product of the forward pass has two in the backward pass, for the gradients of its two factors.
        """
        s = self.sizes
        return 3 * self.multiply_adds - s["T"] * s["B"] * s["D"] * len(self.cell.input_gates) * s["H"] * s["I"]

    @property
    def elementwise(self) -> int:
        """The element-wise operations of the cell, forward, over the whole sequence and batch."""
        s, cell = self.sizes, self.cell
        a_step = sum(s[cell.sizes[i]] for i, node in enumerate(cell.nodes) if node.op in OPS)
        return a_step * s["T"] * s["B"] * s["L"] * s["D"]

    @property
    def kept_bytes(self) -> int:
        """The bytes that the forward pass keeps for the backward pass: of all layers and directions, besides the first
        layer's input and the parameters. With two directions each layer reads what the two below made, side by side,
        which is kept too.
        """
        s, output = self.sizes, self.kept[0]
        own = s["L"] * s["D"] * sum(row.bytes for row in self.kept)
        return own + ((s["L"] - 1) * 2 * output.bytes if s["D"] == 2 else 0)

    @property
    def _out(self) -> str:
        return "P" if self.cell.projects_output else "H"

    def __str__(self) -> str:
        from gatewise.inspect.shapes_text import plain

        return plain(self)


def shapes(
    cell: Graph | nn.Module,
    input_size: int | None = None,
    hidden_size: int | None = None,
    *,
    batch: int = 32,
    steps: int = 35,
    **options: Any,
) -> Shapes:
    """The shapes of a layer: parameters, tensors on the way, output and final states, counts and bytes.

    Args:
        cell: a cell, of which the layer is made, or a layer: Recurrent, RNN, GRU or LSTM, or torch.nn's.
        input_size, hidden_size: I and H, of a cell. options: of a cell, as `gatewise.Recurrent` takes them.
        batch: B. steps: T.

    Returns: the shapes; `print` shows them.

    Raises:
        TypeError: `cell` is neither, or sizes are missing of a cell or given with a layer.
        ValueError: a size is below 1, or as `gatewise.Recurrent` raises it.
    """
    for name, size in {"batch": batch, "steps": steps}.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"shapes: {name} is {size!r}, expected an integer of at least 1")
    if isinstance(cell, Graph):
        if input_size is None or hidden_size is None:
            raise TypeError("shapes: a cell has no sizes of its own: give input_size and hidden_size")
        layer: Layer = Recurrent(cell, input_size, hidden_size, device="meta", **options)
    elif input_size is not None or hidden_size is not None or options:
        raise TypeError(f"shapes: {type(cell).__name__} has its sizes and options already; give batch and steps alone")
    else:
        layer = _as_ours(cell)
    return _of(layer, batch, steps)


def _as_ours(layer: Any) -> Layer:
    """A layer as one of gatewise's; torch.nn's are not changed."""
    if isinstance(layer, Layer) and not layer.one_step:
        return layer
    if type(layer) in (nn.RNN, nn.GRU, nn.LSTM):
        ours = OURS[type(layer)]
        twin = ours.__new__(ours)
        twin.__dict__.update(layer.__dict__)
        assert isinstance(twin, Layer)
        return twin
    raise TypeError(
        f"shapes: got {type(layer).__name__}, expected a cell, or a layer: Recurrent, RNN, GRU or LSTM, or torch.nn's"
    )


def _of(layer: Layer, batch: int, steps: int) -> Shapes:
    cell, dtype = layer.cell, layer._weight.dtype
    directions = 2 if layer.bidirectional else 1
    sizes = {"T": steps, "B": batch, "I": layer.input_size, "H": layer.hidden_size}
    sizes |= {"P": layer.proj_size} if cell.projects_output else {}
    for letter, gates in zip(_gate_letters(cell), (cell.input_gates, cell.hidden_gates), strict=True):
        sizes |= {letter: len(gates)} if gates else {}
    sizes |= {"D": directions, "L": layer.num_layers}
    out = "P" if cell.projects_output else "H"
    axes = ("B", "T") if layer.batch_first else ("T", "B")

    first = cell.states[0]
    features = {"x": ("I", "the input"), "output": (_times("D", out, sizes), f"{first} of the last layer, every step")}
    returned = [_row(name, (*axes, s), sizes, dtype, what) for name, (s, what) in features.items()]
    for state, size in zip(cell.states, cell.state_sizes, strict=True):
        stacked = (_times("L", "D", sizes) if directions == 2 else "L", "B", size)
        returned.append(_row(f"{state}_n", stacked, sizes, dtype, f"{state} of every layer, last step"))
    unbatched = [_row(r.name, tuple(s for s in r.symbols if s != "B"), sizes, dtype, r.what) for r in returned]
    return Shapes(
        cell,
        sizes,
        dtype,
        _bias(layer),
        layer.batch_first,
        tuple(_parameters(layer, k, sizes) for k in range(layer.num_layers * directions)),
        tuple(returned),
        tuple(unbatched),
        tuple(_relations(f"{first}_n", out, sizes, layer.batch_first)),
        tuple(_tensors(cell, sizes, dtype)),
        tuple(_kept(cell, sizes, dtype)),
    )


def _row(name: str, symbols: tuple[str, ...], sizes: Mapping[str, int], dtype: torch.dtype, what: str = "") -> Row:
    shape = tuple(value(s, sizes) for s in symbols)
    return Row(name, symbols, shape, what, math.prod(shape) * dtype.itemsize)


def _times(factor: str, size: str, sizes: Mapping[str, int]) -> str:
    """ "D·H", or "H" in one direction."""
    return size if factor == "D" and sizes[factor] == 1 else f"{factor}·{size}"


def _in_directions(terms: list[str], sizes: Mapping[str, int]) -> str:
    """A sum, times D where there are two directions."""
    total = " + ".join(terms)
    if sizes["D"] == 1:
        return total
    return f"D·({total})" if len(terms) > 1 else f"D·{total}"


def _gate_letters(cell: Graph) -> tuple[str, str]:
    """The letters of how many gates are read from x, and how many are projected from states."""
    same = len(cell.input_gates) == len(cell.hidden_gates) or not cell.hidden_gates
    return ("G", "G") if same else ("Gx", "Gh")


def _parameters(layer: Layer, k: int, sizes: Mapping[str, int]) -> tuple[Row, ...]:
    """The parameters of one layer and direction, the k-th, as the layer has them."""
    cell = layer.cell
    number, reverse = divmod(k, sizes["D"])
    suffix = layer._suffixes(number)[reverse]
    out = "P" if cell.projects_output else "H"
    reads = "I" if number == 0 else _times("D", out, sizes)
    gx, gh = _gate_letters(cell)
    alone = [gate for gate in cell.hidden_gates if gate not in cell.input_gates]  # of bias="input"
    two = _bias(layer) is True
    biased = cell.hidden_gates if two else alone
    known: dict[str, tuple[tuple[str, ...], str]] = {
        "weight_ih": ((f"{gx}·H", reads), _stacked("W_i", cell.input_gates)),
        "weight_hh": ((f"{gh}·H", out), _stacked("W_h", cell.hidden_gates)),
        "bias_ih": ((f"{gx}·H",), _stacked("b_i", cell.input_gates)),
        "bias_hh": (
            (f"{gh}·H" if two else f"{len(biased)}·H" if len(biased) > 1 else "H",),
            _stacked("b_h", biased),
        ),
        "weight_hr": (("P", "H"), "the output projection"),
    }
    known |= dict.fromkeys(cell.vectors, (("H",), "a learned vector"))
    if layer.learn_state:
        initial = zip(cell.states, cell.state_sizes, strict=True)
        known |= {f"{state}_0": ((size,), "the learned first state") for state, size in initial}
    rows = []
    for name, (symbols, what) in known.items():
        parameter = getattr(layer, name + suffix, None)
        if isinstance(parameter, torch.Tensor):
            bytes = parameter.numel() * parameter.dtype.itemsize
            rows.append(Row(name + suffix, symbols, tuple(parameter.shape), what, bytes))
    return tuple(rows)


def _bias(layer: Any) -> bool | str:
    bias: bool | str = layer.bias
    return bias


def _stacked(letter: str, gates: Sequence[str]) -> str:
    names = [f"{letter}{gate}" for gate in gates]
    return " ".join(names) if len(names) <= 5 else f"{names[0]} … {names[-1]}"


def _relations(final: str, out: str, sizes: Mapping[str, int], batch_first: bool) -> list[Relation]:
    """How the output relates to the final state of the first state, `final`."""

    def at(step: str, part: str = "") -> str:
        if batch_first:
            return f"output[:, {step}, {part}]" if part else f"output[:, {step}]"
        return f"output[{step}, :, {part}]" if part else f"output[{step}]"

    last_valid = "arange(B), lengths - 1" if batch_first else "lengths - 1, arange(B)"
    if sizes["D"] == 1:
        return [
            Relation(at("-1"), f"{final}[-1]", "the last layer's last step"),
            Relation(f"output[{last_valid}]", f"{final}[-1]", "each sample's own last step", lengths=True),
        ]
    forward, reverse = f":{out}", f"{out}:"
    relations = [
        Relation(at("-1", forward), f"{final}[-2]", "forward ends at the last step"),
        Relation(at("0", reverse), f"{final}[-1]", "reverse ends at the first step"),
    ]
    if sizes["T"] > 1:
        why = "there reverse has read one step"
        relations.append(Relation(at("-1", reverse), f"{final}[-1]", why, equal=False))
    relations += [
        Relation(f"output[{last_valid}, {forward}]", f"{final}[-2]", "each sample's own last step", lengths=True),
        Relation(at("0", reverse), f"{final}[-1]", "reverse ends at the first step", lengths=True),
    ]
    return relations


# --- the tensors on the way ----------------------------------------------------------------------


def _tensors(cell: Graph, sizes: Mapping[str, int], dtype: torch.dtype) -> list[Row]:
    """What is made of each step: what the gates read, masks, and the cell's named values."""
    labels = _labels(cell)
    nodes = list(enumerate(cell.nodes))
    by_gate = sorted((cell.gates.index(n.key), i) for i, n in nodes if n.op == "input")
    wanted = [(labels[i], i, "all steps at once") for _, i in by_gate]
    wanted += [(labels[i], i, "step by step") for i, n in nodes if n.op == "project"]
    wanted += [(cell.nodes[i].key, i, "random") for i in cell.masks]
    wanted += [(name, i, "") for name, i in cell.names if name not in cell.states]
    wanted += [(state, i, "new state") for state, i in cell.outputs]
    rows = []
    for name, i, what in wanted:
        if axes := _axes(cell, i):
            rows.append(_row(name, (*axes, cell.sizes[i]), sizes, dtype, what))
        elif cell.sizes[i] != "1":
            rows.append(_row(name, (cell.sizes[i],), sizes, dtype, what))
    return rows


def _axes(cell: Graph, i: int) -> tuple[str, ...]:
    """The axes of a value before its units: ("T", "B") of every step, ("B",) of a sequence, () of a unit."""
    op, args = cell.nodes[i].op, cell.nodes[i].args
    if op in ("input", "state", "step_mask"):
        return ("T", "B")
    if op == "sequence_mask":
        return ("B",)
    return max((_axes(cell, a) for a in args), key=len, default=())


def _kept(cell: Graph, sizes: Mapping[str, int], dtype: torch.dtype) -> list[Row]:
    """What a layer in one direction keeps of every step for its backward pass: states, and what the backward graph
    reads besides; and masks."""
    labels = _labels(cell)
    news = [i for _, i in cell.outputs]
    kept = [_row(s, ("T", "B", cell.sizes[i]), sizes, dtype) for s, i in zip(cell.states, news, strict=True)]
    for i in backward_plan(cell).extras:
        size = "H" if cell.sizes[i] == "1" else cell.sizes[i]
        kept.append(_row(labels[i], ("T", "B", size), sizes, dtype))
    return kept + [_row(cell.nodes[i].key, (*_axes(cell, i), cell.sizes[i]), sizes, dtype) for i in cell.masks]


def _labels(cell: Graph) -> list[str]:
    """A short name of each node: the cell's own, or what it is made of, or its number."""
    own = {i: name for name, i in cell.names}
    labels: list[str] = []
    for i, node in enumerate(cell.nodes):
        args = [labels[a] for a in node.args]
        inner = [f"({a})" if " " in a else a for a in args]
        if i in own:
            label = own[i]
        elif node.op == "const":
            label = f"{node.params[0][1]:g}"
        elif node.op == "input":
            label = f"x.{node.key}"
        elif node.op == "project":
            label = f"{inner[0]}.{node.key}"
        elif node.op in _INFIX:
            label = f" {_INFIX[node.op]} ".join(inner)
        else:
            label = f"{node.op}({', '.join(args)})" if args else node.key
        labels.append(label if len(label) <= 20 else f"%{i}")
    return labels
