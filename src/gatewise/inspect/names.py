"""What the values of a cell are called in its equations: h_{t-1}, z_t, W_ir; no two of them the same."""

from __future__ import annotations

from collections.abc import Iterator

from gatewise.graph.graph import Graph
from gatewise.graph.notation import POWER, PRODUCT, SUM, Notation, forms, symbol
from gatewise.graph.ops import OPS

ACCENTS = ("hat", "tilde", "bar")
GREEK = frozenset(
    {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
     "pi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega"}
)  # fmt: skip


class Names:
    """The names that are taken in one cell's equations, and those of its weights."""

    def __init__(self, cell: Graph) -> None:
        self.taken = {"x_t", "σ"}
        self.letters = {*cell.gates, *cell.states, *cell.vectors}  # that a value without a name shall not get
        for node in cell.nodes:  # the α of an ELU
            if node.op in OPS:
                self.taken.update(label.rstrip("=") for label in sum(OPS[node.op].notation.params.values(), ()))
        # torch calls the output projection W_hr, and so the projection of a gate r.
        self.output = "W_proj" if "r" in cell.hidden_gates else "W_hr"
        self.taken.add(self.output)
        for side, gates in (("i", cell.input_gates), ("h", cell.hidden_gates)):
            for gate in gates:
                self.taken.update(_parameter("W", side, gate), _parameter("b", side, gate))

    def new(self, name: str, when: str = "") -> Notation:
        """The symbol of a value; one whose name is taken gets primes.

        Args:
            name: such as `"zone_h"`, which in LaTeX is zone with the index h; alpha is a Greek letter there.
            when: "t", "t-1", or "" for what is the same at every step.
        """
        primes = ""
        while not self.taken.isdisjoint(made := _forms(name, primes, when)):
            primes += "'"
        self.taken.update(made)
        self.letters.update((name, name.rstrip("0123456789")))
        return symbol(*made)

    def unnamed(self, when: str) -> Notation:
        """The symbol of a value that the cell's code gives no name."""
        return self.new(next(name for name in _letters() if name not in self.letters), when)

    def from_input(self, gate: str) -> Notation:
        """W_ir x_t + b_ir."""
        weight, bias = _parameter("W", "i", gate), _parameter("b", "i", gate)
        return forms(f"{weight[0]} x_t + {bias[0]}", f"{weight[1]} x_t + {bias[1]}", SUM)

    def projected(self, gate: str) -> Notation:
        """W_hr a + b_hr, for any a."""
        weight, bias = _parameter("W", "h", gate), _parameter("b", "h", gate)
        return forms(f"{weight[0]} ① + {bias[0]}", f"{weight[1]} ① + {bias[1]}", SUM, (JUXTAPOSED,))

    def output_weight(self) -> Notation:
        """W_hr of the output projection."""
        return symbol(self.output, r"W_{\mathrm{proj}}" if self.output == "W_proj" else "W_{hr}")

    def projected_output(self) -> Notation:
        """W_hr a, torch's output projection."""
        weight = self.output_weight()
        return forms(f"{weight.text.template} ①", f"{weight.latex.template} ①", PRODUCT, (JUXTAPOSED,))


JUXTAPOSED = POWER  # W_hn a, but W_hn (a ⊙ b)


def _letters() -> Iterator[str]:
    yield from "uvwsqy"
    for k in range(1, 10**9):
        yield f"u{k}"


def _parameter(kind: str, side: str, gate: str) -> tuple[str, str]:
    """W_ir, of a gate with a longer name W_i_forget."""
    if len(gate) == 1:
        return f"{kind}_{side}{gate}", f"{kind}_{{{side}{gate}}}"
    index = ",".join(_word(part, "mathrm") for part in gate.split("_") if part)
    return f"{kind}_{side}_{gate}", f"{kind}_{{{side},{index}}}"


def _forms(name: str, primes: str, when: str) -> tuple[str, str]:
    """The symbol in text and in LaTeX."""
    text = f"{name}{primes}" + (f"_{when}" if when == "t" else f"_{{{when}}}" if when else "")
    head, *rest = [part for part in name.split("_") if part] or [r"\_"]
    letters = head.rstrip("0123456789")
    if letters and letters != head:  # s0 is s with the index 0
        head, rest = letters, [head[len(letters) :], *rest]
    latex = _word(head, "mathit")
    for accent in [part for part in rest if part in ACCENTS]:
        latex = rf"\{accent}{{{latex}}}"
    index = [_word(part, "mathrm") for part in rest if part not in ACCENTS] + [when] * bool(when)
    joined = ",".join(index)
    return text, latex + primes + (f"_{{{joined}}}" if len(joined) > 1 else f"_{joined}" if joined else "")


def _word(word: str, font: str) -> str:
    if word in GREEK:
        return f"\\{word}"
    return word if len(word) == 1 or word.isdigit() or word.startswith("\\") else rf"\{font}{{{word}}}"
