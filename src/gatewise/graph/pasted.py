"""What to write in a cell for code that was written for tensors: `X @ W_xz`, `tf.sigmoid`, `torch.cat`.

A cell names no weights: `x.z` has the product with W_iz and its bias in it. Code from elsewhere does, in names of
which the gate can be read. All that is suggested exists in the cell at hand.
"""

from __future__ import annotations

import builtins
import difflib
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from gatewise.graph.ops import ALIASES, OPS

# torch's and numpy's functions, and methods, that multiply by a matrix.
MATRIX_PRODUCTS = (
    "matmul", "mm", "mv", "bmm", "dot", "inner", "linear", "bilinear", "addmm", "addmv", "addbmm", "baddbmm", "einsum",
    "tensordot", "chain_matmul", "multi_dot", "__matmul__", "__rmatmul__",
)  # fmt: skip
TOOLKITS = ("torch", "np", "numpy", "math", "tf", "tensorflow", "keras", "K", "ops", "jnp", "jax", "nn", "F", "npx")
CONTAINERS = ("self", "cls", "params", "param", "weights", "model", "cell", "layer", "variables")  # of weights
INPUTS = ("x", "x_t", "xt", "input", "inputs", "inp", "x_in")
STATES = (
    ("h", "h_t", "ht", "hx", "hidden", "state", "states", "h_prev", "prev_h", "h_tm1", "h_t_1", "h_old"),
    ("c", "c_t", "ct", "cx", "c_prev", "prev_c", "c_tm1", "c_t_1", "memory", "c_old"),
)
JOINED = "for a product with [{x}, {h}] write {x}.{g} + {h}.{g}"
DROPPED = "change the cell: gatewise.recurrent_dropout(cell, p) or gatewise.zoneout(cell, p)"
WORDS = {  # what to write for functions that are no ops
    **dict.fromkeys(("zeros_like", "ones_like", "full_like"), "write the number itself, such as 0.0"),
    **dict.fromkeys(("cat", "concat", "concatenate", "hstack", "stack"), JOINED),
    **dict.fromkeys(("dropout", "dropout_"), DROPPED),
    "layer_norm": "change the cell: gatewise.layer_norm(cell)",
    "sum": "over the units there is torch.mean alone",
    **dict.fromkeys(("max", "amax", "min", "amin"), "of two values write torch.maximum(a, b) or torch.minimum(a, b)"),
}
BESIDES = "the layer steps over the sequence, and a cell is one step of it: write the body of the loop alone"


class Cell(NamedTuple):
    """The names of a cell: x, states and gates."""

    x: str
    states: tuple[str, ...]
    gates: tuple[str, ...]

    @property
    def h(self) -> str:
        return self.states[0] if self.states else "h"

    @property
    def gate(self) -> str:
        """A gate to show, which the cell has."""
        return self.gates[0] if self.gates else "n"


class Weight(NamedTuple):
    """What a weight's name says: side is "x", "h" or ""; gate, as the name has it, "" if none."""

    name: str
    is_bias: bool
    side: str
    gate: str


def weight_of(name: str, gates: Collection[str]) -> Weight | None:
    """W_xz, b_r, U_z, Wxz, weight_ih_l0 …, as what they are; None of a name that is no weight's."""
    found = re.fullmatch(r"([Ww]eights?|[Bb]ias|(?:recurrent_)?kernel|[WUVwb])(_?)(\w*?)(?:_l\d+)?(?:_reverse)?", name)
    if found is None:
        return None
    kind, bar, rest = found.groups()
    is_bias = kind[0] in "bB"
    side = "h" if kind in ("U", "recurrent_kernel") else ""
    if not rest:
        return Weight(name, is_bias, side, "") if kind not in ("w", "b") or name == kind else None
    if rest in ("ih", "hh"):  # torch's, of all gates
        return Weight(name, is_bias, "x" if rest == "ih" else "h", "")
    splits = [("", rest)]
    for pattern in (r"(ih|hh|[xih])_?(\w+)", r"(\w+?)_?([xh])"):  # W_xz, W_h_z, W_ih_z; W_zx
        if split := re.fullmatch(pattern, rest):
            splits.append(split.groups() if pattern.startswith("(ih") else split.groups()[::-1])  # type: ignore[arg-type]
    for of, word in splits:
        if gate := named(word, gates):
            return Weight(name, is_bias, {"x": "x", "i": "x", "h": "h"}.get(of[:1], side), gate)
    if rest in ("xh", "hx"):
        return Weight(name, is_bias, "x", "")
    if kind in ("w", "b") and (not bar or len(rest) > 2):  # words such as beta, b_size
        return None
    if not bar and (len(rest) > 2 or kind not in ("W", "U", "V")):
        return None
    of, word = next((split for split in splits[1:] if split[0] in ("x", "h", "ih", "hh", "i")), splits[0])
    return Weight(name, is_bias, {"x": "x", "i": "x", "h": "h"}.get(of[:1], side), word)


def named(word: str, gates: Collection[str]) -> str:
    """The gate of this name, in capitals or not; "" if there is none."""
    return next((g for g in gates if g == word), next((g for g in gates if g.casefold() == word.casefold()), ""))


def in_place_of(weight: Weight, cell: Cell) -> str:
    """'W_xz: write x.z, which has the product with x and the bias in it, and h.z for the product with h'."""
    x, h = cell.x, cell.h
    gate = weight.gate or (cell.gates[0] if len(cell.gates) == 1 else "")
    if gate and gate not in cell.gates:
        return f"{weight.name}: {_undeclared(weight, cell)}"
    if not gate or (not weight.side and not weight.is_bias):
        gates = "" if gate else f"; the gates are {' '.join(cell.gates)}" if cell.gates else "; declare it, gates='n'"
        shown = gate or cell.gate
        both = f"write {x}.{shown} for the product with {x} and {h}.{shown} for that with {h}, biases included"
        return f"{weight.name}: {both}{gates}"
    if weight.is_bias:
        return f"{weight.name}: write {x}.{gate} and {h}.{gate}, which have their biases in them"
    one, other = (x, h) if weight.side == "x" else (h, x)
    return (
        f"{weight.name}: write {one}.{gate}, which has the product with {one} and the bias in it, "
        f"and {other}.{gate} for the product with {other}"
    )


def _undeclared(weight: Weight, cell: Cell) -> str:
    gate, x, h = weight.gate, cell.x, cell.h
    has = " ".join(cell.gates) or "none"
    read = {"x": f"{x}.{gate}", "h": f"{h}.{gate}"}.get(weight.side, f"{x}.{gate} or {h}.{gate}")
    behind = "; an output layer is a torch.nn.Linear behind the layer" if gate in ("q", "y", "out") else ""
    declared = " ".join([*cell.gates, gate])
    return (
        f"{gate!r} is no gate of this cell, which has {has}; declare it, gates={declared!r}, and write {read}{behind}"
    )


def of_line(line: str, cell: Cell) -> str:
    """What to write for the weight that a line of code names, or ""; for one of a gate of this cell rather than others.

    Gates that are read, such as `x.b`, and the cell's arguments are no weights.
    """
    own = "|".join(map(re.escape, (cell.x, *cell.states)))
    code = re.sub(rf"\b({own})\b(\.\w+)?", " ", line.split("#")[0])
    weights = [weight_of(word, cell.gates) for word in re.findall(r"[^\W\d]\w*", code)]
    known = sorted(filter(None, weights), key=lambda weight: (weight.gate not in cell.gates, weight.is_bias))
    return in_place_of(known[0], cell) if known else ""


def for_product(of_input: bool, line: str, cell: Cell) -> str:
    """What to write for a matrix product in this line, of x or of another value."""
    if words := of_line(line, cell):
        return words
    if of_input:
        return f"write {cell.x}.{cell.gate}, which has the product with {cell.x} and the bias in it"
    return f"write a gate's projection, such as {cell.h}.{cell.gate} or (a * {cell.h}).{cell.gate}"


def for_function(name: str, cell: Cell) -> str:
    """What to write for a function that is no op, or ""."""
    return WORDS[name].format(x=cell.x, h=cell.h, g=cell.gate) if name in WORDS else ""


def for_name(name: str, line: str, cell: Cell, known: Iterable[str]) -> str:
    """What to write for a name that is not defined.

    Args:
        line: the code that has it. known: the names that are defined where it is.
    """
    arguments = {cell.x: "input", **dict.fromkeys(cell.states, "state")}
    low = name.casefold()
    meant = [argument for argument in arguments if argument.casefold() == low]
    for words, argument in zip((INPUTS, *STATES), (cell.x, *cell.states), strict=False):
        meant += [argument] if low in words else []
    loop = re.match(rf"\s*(async )?for .* in .*\b{re.escape(name)}\b", line)
    if loop and meant[:1] == [cell.x]:
        return BESIDES
    if meant:
        called = f"the {arguments[meant[0]]} is called {meant[0]} here"
        return "; ".join(filter(None, (called, of_line(line, cell))))
    if weight := weight_of(name, cell.gates):
        return in_place_of(weight, cell)
    if name in CONTAINERS:
        hint = of_line(line, cell) or in_place_of(Weight(name, False, "", ""), cell)
        return f"a cell has no {name}, its weights are read by gates; {hint}"
    if name in TOOLKITS:
        used = re.findall(rf"\b{name}(?:\.\w+)*\.(\w+)\s*\(", line)
        return in_torch(used[0] if used else "")
    if ALIASES.get(name, name) in OPS:
        return f"write torch.{name}(…)"
    near = difflib.get_close_matches(name, [*known, *dir(builtins)], n=1, cutoff=0.8)
    return f"did you mean {near[0]}?" if near else "define it before the cell, or import it"


def in_torch(function: str) -> str:
    """What to write for another toolkit's function."""
    if function in MATRIX_PRODUCTS:
        return "a matrix product is a gate's projection, such as x.z"
    same = ALIASES.get(function, function) in OPS
    shown = f"torch.{function}(…)" if same else "those of torch, such as torch.tanh(…)"
    return f"a cell is written in torch's functions: import torch, and write {shown}"
