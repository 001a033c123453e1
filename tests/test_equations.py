"""The printed equations: by hand for the papers' cells, and run again as a program for any other."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Recipe, assert_close, recipes
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from test_change import CELLS, CHANGES
from test_ops import PARAMS
from torch import Tensor

import gatewise
from gatewise import Graph, cells
from gatewise.graph import backward
from gatewise.graph.ops import OPS
from gatewise.inspect import filled, lines, parts, printer
from gatewise.inspect.equations import Equations

DOUBLE = torch.float64
ROUNDING = 1e-6  # the worst of random cells, of which values up to 1e8 may cancel

# --- by hand ------------------------------------------------------------------------------------------

GATES = """\
i_t = σ(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)
f_t = σ(W_if x_t + b_if + W_hf h_{t-1} + b_hf)
g_t = tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)
o_t = σ(W_io x_t + b_io + W_ho h_{t-1} + b_ho)
c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
"""
BY_HAND = {
    "rnn": "h_t = tanh(W_in x_t + b_in + W_hn h_{t-1} + b_hn)",
    "rnn_relu": "h_t = ReLU(W_in x_t + b_in + W_hn h_{t-1} + b_hn)",
    "gru": """\
r_t = σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
z_t = σ(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h_{t-1} + b_hn))
h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}""",
    "gru_reset_before": """\
r_t = σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
z_t = σ(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
n_t = tanh(W_in x_t + b_in + W_hn (r_t ⊙ h_{t-1}) + b_hn)
h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}""",
    "lstm": GATES + "h_t = o_t ⊙ tanh(c_t)",
    "lstm_projected": GATES + "h_t = W_hr (o_t ⊙ tanh(c_t))",
    "lstm_peephole": """\
i_t = σ(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi + p_i ⊙ c_{t-1})
f_t = σ(W_if x_t + b_if + W_hf h_{t-1} + b_hf + p_f ⊙ c_{t-1})
g_t = tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)
c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
o_t = σ(W_io x_t + b_io + W_ho h_{t-1} + b_ho + p_o ⊙ c_t)
h_t = o_t ⊙ tanh(c_t)

p_i, p_f, p_o: learned vectors, one number a unit""",
    "zoneout": GATES.replace("c_t =", "u_t =")
    + """\
h_t = zone_h_t ⊙ h_{t-1} + (1 - zone_h_t) ⊙ o_t ⊙ tanh(u_t)
c_t = zone_c_t ⊙ c_{t-1} + (1 - zone_c_t) ⊙ u_t

zone_h_t: 0 with probability 0.95, else 1; drawn for each unit at every step; in evaluation 0.05
zone_c_t: 0 with probability 0.5, else 1; drawn for each unit at every step; in evaluation 0.5""",
    "recurrent_dropout": """\
h_t = tanh(W_in x_t + b_in + W_hn (keep_h ⊙ h_{t-1}) + b_hn)

keep_h: 0 with probability 0.2, else 1.25; drawn for each unit once a sequence; in evaluation 1""",
    "clip_state_grad": """\
h_t = tanh(W_in x_t + b_in + W_hn h_{t-1} + b_hn)

the gradient of h_{t-1} is kept within [-0.5, 0.5]""",
    "layer_norm": """\
r_t = σ(gain_x_r ⊙ N1(W_ir x_t + b_ir) + bias_x_r + gain_h_r ⊙ N2(W_hr h_{t-1} + b_hr) + bias_h_r)
z_t = σ(gain_x_z ⊙ N1(W_iz x_t + b_iz) + bias_x_z + gain_h_z ⊙ N2(W_hz h_{t-1} + b_hz) + bias_h_z)
n_t = tanh(gain_x_n ⊙ N(W_in x_t + b_in) + bias_x_n + r_t ⊙ (gain_h_n ⊙ N(W_hn h_{t-1} + b_hn) + bias_h_n))
h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}

N(a) = (a - mean) / √(variance + 1e-05), over the units
N1: N with one mean and variance for W_ir x_t + b_ir, W_iz x_t + b_iz
N2: N with one mean and variance for W_hr h_{t-1} + b_hr, W_hz h_{t-1} + b_hz
gain_x_r, gain_x_z, gain_h_r, gain_h_z, gain_x_n, gain_h_n: learned vectors, one number a unit, starting from 1
bias_x_r, bias_x_z, bias_h_r, bias_h_z, bias_x_n, bias_h_n: learned vectors, one number a unit, starting from 0""",
}
CHANGED = {
    "zoneout": gatewise.zoneout(cells.lstm, {"h": 0.05, "c": 0.5}),
    "recurrent_dropout": gatewise.recurrent_dropout(cells.rnn, 0.2),
    "clip_state_grad": gatewise.clip_state_grad(cells.rnn, 0.5),
    "layer_norm": gatewise.layer_norm(cells.gru),
}
BUILT_IN = {name: cell for name, cell in vars(cells).items() if isinstance(cell, Graph)}


@pytest.mark.parametrize("name", {**BUILT_IN, **CHANGED})
def test_equations_are_the_papers(name: str) -> None:
    cell = {**BUILT_IN, **CHANGED}[name]
    assert cell.equations() == BY_HAND[name]
    assert str(cell) == BY_HAND[name]


def test_the_readme_shows_what_is_printed() -> None:
    page = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"(@gatewise\.cell.*?)\n\n", page, flags=re.DOTALL)
    scope: dict[str, Any] = {"gatewise": gatewise, "torch": torch}
    exec(code, scope)
    assert f"```\n{scope['mgu']}\n```" in page


def test_latex_of_the_gru() -> None:
    assert cells.gru.latex() == (
        "\\begin{aligned}\n"
        "r_t &= \\sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr}) \\\\\n"
        "z_t &= \\sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz}) \\\\\n"
        "n_t &= \\tanh(W_{in} x_t + b_{in} + r_t \\odot (W_{hn} h_{t-1} + b_{hn})) \\\\\n"
        "h_t &= (1 - z_t) \\odot n_t + z_t \\odot h_{t-1}\n"
        "\\end{aligned}"
    )
    assert cells.gru._repr_latex_() == f"$${cells.gru.latex()}$$"


def equation(function: Callable[[Any, Any], Any]) -> str:
    """The right side of h_t, of a cell that adds x.n as its last term, which is left out; a is x.a."""

    def one(x, h):
        a, b = x.a + h.a, x.b + h.b
        return function(a, b) + x.n

    cell = gatewise.cell(gates="a b n")(one)
    (line,) = [line for line in lines(cell) if line.symbol.text == "h_t"]
    return line.text.removeprefix("h_t = ").removesuffix(" + W_in x_t + b_in").replace("_t", "")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda a, b: a + -1 * b, "a - b"),
        (lambda a, b: a + -b, "a - b"),
        (lambda a, b: a - -b, "a + b"),
        (lambda a, b: a + (-0.5), "a - 0.5"),
        (lambda a, b: 1.0 * a + b * 1, "a + b"),
        (lambda a, b: a - (b - a), "a - (b - a)"),
        (lambda a, b: a + (b - a), "a + b - a"),
        (lambda a, b: a + (b - a) * 0.5, "a + (b - a) · 0.5"),
        (lambda a, b: a + (-a + b), "a + (-a + b)"),
        (lambda a, b: -(a + b), "-(a + b)"),
        (lambda a, b: a * (b * a), "a ⊙ b ⊙ a"),
        (lambda a, b: -a * b, "-a ⊙ b"),
        (lambda a, b: a * -b, "-a ⊙ b"),
        (lambda a, b: -a * -b, "a ⊙ b"),
        (lambda a, b: a - -2 * b, "a + 2 · b"),
        (lambda a, b: (a + b) / 2, "(a + b) / 2"),
        (lambda a, b: a / b * a, "(a / b) ⊙ a"),
        (lambda a, b: a / (b * a), "a / (b ⊙ a)"),
        (lambda a, b: a / b / a, "(a / b) / a"),
        (lambda a, b: a - b / 2, "a - b / 2"),
        (lambda a, b: a**2 - b**-1, "a² - b⁻¹"),
        (lambda a, b: (-a) ** 2, "(-a)²"),
        (lambda a, b: -(a**2), "-a²"),
        (lambda a, b: (a * b) ** 0.5, "(a ⊙ b)^0.5"),
        (lambda a, b: (a**b) ** a, "(a^b)^a"),
        (lambda a, b: a ** (b**a), "a^(b^a)"),
        (lambda a, b: 2 ** torch.tanh(a), "2^tanh(a)"),
        (lambda a, b: a ** (1 - b), "a^(1 - b)"),
        (lambda a, b: torch.clamp(a, -0.6, 0.9), "clamp(a, -0.6, 0.9)"),
        (lambda a, b: torch.clamp(a, min=-0.6), "max(a, -0.6)"),
        (lambda a, b: torch.clamp(a, max=0.9), "min(a, 0.9)"),
        (lambda a, b: torch.where(a < b, a, -b), "(a if a < b else -b)"),
        (lambda a, b: torch.tanh(torch.where(a >= -1, a, b)), "tanh(a if a ≥ -1 else b)"),
        (
            lambda a, b: torch.where(a <= b, torch.where(b > 0, a, 1), b),
            "((a if b > 0 else 1) if a ≤ b else b)",
        ),
        (lambda a, b: F.softplus(a) + F.softplus(b, 1.5), "softplus(a) + softplus(b, β=1.5)"),
        (lambda a, b: F.leaky_relu(abs(a), 0.2), "LeakyReLU(abs(a), slope=0.2)"),
        (lambda a, b: torch.sqrt(torch.mean(a) + 1e-5), "√(mean(a) + 1e-05)"),
        (lambda a, b: a * 1e-7 + 1 / 3 + float("inf") * b, "a · 1e-07 + 0.333333 + ∞ · b"),
    ],
)
def test_as_a_textbook_writes_it(function: Callable[[Any, Any], Any], text: str) -> None:
    assert equation(function) == text


def test_names_are_never_confused() -> None:
    @gatewise.cell(gates="r forget h")
    def odd(x, h, c0, *, W_ir, p_i):
        y = torch.tanh(x.r)
        c = p_i * p_i  # the same at every step
        alpha_hat = torch.sigmoid(x.forget + h.forget + c)
        c = c0 * alpha_hat + y  # c stands for another value now
        c = c * 2 + W_ir
        h = (torch.sigmoid(c) * h).h  # h: rebound before its last value
        x = torch.tanh(h)
        return x * h, c

    assert odd.equations().splitlines()[:-2] == [
        "y_t = tanh(W_ir x_t + b_ir)",
        "alpha_hat_t = σ(W_i_forget x_t + b_i_forget + W_h_forget h_{t-1} + b_h_forget + p_i ⊙ p_i)",
        "c0_t = (c0_{t-1} ⊙ alpha_hat_t + y_t) · 2 + W_ir'",
        "u_t = W_hh (σ(c0_t) ⊙ h_{t-1}) + b_hh",
        "x'_t = tanh(u_t)",
        "h_t = x'_t ⊙ u_t",
    ]
    latex = odd.latex()
    assert r"\hat{\alpha}_t &= \sigma(W_{i,\mathrm{forget}} x_t" in latex
    assert "c_{0,t} &= (c_{0,t-1}" in latex
    assert "x'_t &=" in latex


def test_the_output_projection_beside_a_gate_r() -> None:
    @gatewise.cell(gates="r")
    def projected(x, h):
        return torch.tanh(x.r + h.r).hr

    assert projected.equations() == (
        "h_t = W_proj tanh(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)\n\nW_proj is the output projection, weight_hr"
    )


def test_a_vector_alpha_is_not_the_alpha_of_an_elu() -> None:
    @gatewise.cell(gates="n")
    def elus(x, h, *, alpha):
        return alpha * F.elu(x.n + h.n, 0.5)

    assert r"\alpha' \odot \operatorname{ELU}(" in elus.latex()


def test_states_that_are_other_states() -> None:
    @gatewise.cell(gates="n")
    def delayed(x, h, c, d):
        n = torch.tanh(x.n + c.n)
        return n, h, n

    assert delayed.equations() == (
        "h_t = tanh(W_in x_t + b_in + W_hn c_{t-1} + b_hn)\nc_t = h_{t-1}\nd_t = h_t"
    )  # n is h: one name is shown


def test_a_legend_for_what_not_everyone_knows() -> None:
    @gatewise.cell(gates="n")
    def unusual(x, h):
        return F.softplus(x.n, 2.0) + F.hardsigmoid(torch.mean(h.n)) * h

    assert unusual.equations() == (
        "h_t = softplus(W_in x_t + b_in, β=2) + hardsigmoid(mean(W_hn h_{t-1} + b_hn)) ⊙ h_{t-1}\n\n"
        "softplus(a) = log(1 + exp(β · a)) / β, β = 1 unless shown\n"
        "mean(a) is taken over the units\n"
        "hardsigmoid(a) = clamp(a / 6 + 0.5, 0, 1)"
    )
    latex = unusual.latex()
    assert r"&\operatorname{softplus}(a) = \frac{1}{\beta} \log(1 + \exp(\beta a))" in latex


def test_a_chain_without_end_is_cut_into_lines() -> None:
    @gatewise.cell(gates="n")
    def long(x, h):
        for _ in range(3000):
            h = torch.tanh(h + x.n)
        return h

    assert 100 < len(lines(long)) < 200
    assert long.latex().count("\\tanh") == 3000


def test_what_is_no_cell_is_refused() -> None:
    with pytest.raises(TypeError, match="expected what @gatewise"):
        lines("gru")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gru_backward is a backward graph"):
        backward(cells.gru).equations()
    assert str(backward(cells.gru)) == backward(cells.gru).text


def test_inspect_is_at_hand_and_loads_nothing() -> None:
    code = "import sys, gatewise; gatewise.inspect; assert not {'torch', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(gatewise.inspect.__all__) <= set(dir(gatewise.inspect))
    assert all(getattr(gatewise.inspect, name) for name in gatewise.inspect.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gatewise.inspect.nothing


# --- the text as a program ----------------------------------------------------------------------------


class Weight:
    """A matrix; W ** a is its product with a, since ** binds as tightly as the printed W a."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __pow__(self, a: Tensor | float) -> Tensor:
        # A mean is one number for all units, and so is a constant that a choice fell on.
        return self.matrix @ torch.as_tensor(a, dtype=self.matrix.dtype).expand(self.matrix.shape[1])


def of_tensors(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, of numbers too."""
    return lambda *args, **params: function(*(torch.as_tensor(a, dtype=DOUBLE) for a in args), **params)


FUNCTIONS: dict[str, Any] = {
    "σ": of_tensors(torch.sigmoid),
    "tanh": of_tensors(torch.tanh),
    "ReLU": of_tensors(torch.relu),
    "exp": of_tensors(torch.exp),
    "log": of_tensors(torch.log),
    "sqrt": of_tensors(torch.sqrt),
    "abs": of_tensors(torch.abs),
    "softplus": of_tensors(lambda a, β=1.0, threshold=20.0: F.softplus(a, β, threshold)),
    "ELU": of_tensors(lambda a, α=1.0: F.elu(a, α)),
    "LeakyReLU": of_tensors(lambda a, slope=0.01: F.leaky_relu(a, slope)),
    "softsign": of_tensors(F.softsign),
    "hardsigmoid": of_tensors(F.hardsigmoid),
    "clamp": of_tensors(torch.clamp),
    "min": of_tensors(torch.minimum),
    "max": of_tensors(torch.maximum),
    "mean": of_tensors(lambda a: a.mean(-1, keepdim=True)),
    "where": of_tensors(lambda c, a, b: torch.where(c.bool(), a, b)),
    "inf": math.inf,
}
SIGNS = {
    "⊙": "*", "·": "*", "^": "**", "√": "sqrt", "≤": "<=", "≥": ">=", "∞": "inf", "linear above ": "threshold=",
    "_{t-1}": "_before", "'": "_prime",
}  # fmt: skip
RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def python_of(text: str) -> str:
    """Printed text as Python."""
    for sign, word in SIGNS.items():
        text = text.replace(sign, word)
    text = re.sub("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda m: f"**({m.group().translate(RAISED)})", text)
    return re.sub(r"\b(W_\w+) ", r"\1 ** ", text)


def python_of_latex(latex: str) -> str:
    """Printed LaTeX as Python; what has an index in braces is named by `plain`."""
    for tall, word in ((r"\left(", "("), (r"\right)", ")"), (r"\left|", "abs("), (r"\right|", ")")):
        latex = latex.replace(tall, word)
    for sign, word in ((r"\odot", "*"), (r"\cdot", "*"), (r"\le ", "<= "), (r"\ge ", ">= "), (r"\infty", "inf")):
        latex = latex.replace(sign, word)
    latex = re.sub(r"\\operatorname\{(\w+)\}", r"\1", latex).replace(r"\text{linear above }", "threshold=")
    latex = latex.replace(r"\sigma(", "σ(").replace(r"\text{slope}", "slope").replace(r"\beta=", "β=")
    latex = re.sub(r"\\(tanh|exp|log|min|max)\b", r"\1", latex.replace(r"\alpha=", "α="))
    latex = latex.replace(r"\text{if }", "IF").replace(r"\text{otherwise}", "OTHERWISE")
    latex = re.sub(
        r"(?:\\mathit\{\w+\}|[A-Za-z])'*_(?:\{(?:[^{}]|\\mathrm\{\w+\})*\}|\w)", lambda m: plain(m[0]), latex
    )
    before = ""
    while before != latex:  # from the innermost braces outwards
        before = latex
        latex = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", latex)
        latex = re.sub(r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)", latex)
        latex = re.sub(r"\b10\^\{([^{}]*)\}", r"(10.0**(\1))", latex)
        latex = re.sub(r"\{([^{}]*)\}\^\{([^{}]*)\}", r"(\1**(\2))", latex)
        cases = r"\\begin\{cases\} ([^{}&]*) & IF ([^{}&]*) \\\\ ([^{}&]*) & OTHERWISE \\end\{cases\}"
        latex = re.sub(cases, r"where(\2, \1, \3)", latex)
    return re.sub(r"\b(W_\w+) ", r"\1 ** ", latex)


def plain(symbol: str) -> str:
    """The name in Python of a LaTeX symbol: h_before of h_{t-1}."""
    symbol = symbol.replace("{t-1}", "before").replace(",t-1}", ",before}").replace("'", "_prime")
    return re.sub(r"\W", "", re.sub(r"\\math\w+", "", symbol).replace(",", "_"))


class Step:
    """One step of a cell with random weights, states, vectors and masks: the value of every node, from the graph."""

    def __init__(self, cell: Graph, units: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=DOUBLE)

        size = units  # of what .hr makes: another one would only be checked by torch's shapes
        self.weights: dict[str, Any] = {"x_t": drawn(2)}
        for side, gates, width in (("i", cell.input_gates, 2), ("h", cell.hidden_gates, units)):
            for gate in gates:
                name = f"{side}{gate}" if len(gate) == 1 else f"{side}_{gate}"
                self.weights[f"W_{name}"], self.weights[f"b_{name}"] = drawn(units, width), drawn(units)
        hr = drawn(size, units)
        self.values: list[Tensor] = []
        for node in cell.nodes:
            args = [self.values[a] for a in node.args]
            word = node.key if len(node.key) == 1 else f"_{node.key}"
            if node.op == "const":
                value = torch.tensor(node.params[0][1], dtype=DOUBLE)
            elif node.op == "input":
                value = self.weights[f"W_i{word}"] @ self.weights["x_t"] + self.weights[f"b_i{word}"]
            elif node.op == "project":
                value = self.weights[f"W_h{word}"] @ args[0].expand(units) + self.weights[f"b_h{word}"]
            elif node.op == "output":
                value = hr @ args[0].expand(units)
            elif node.op in OPS:
                value = OPS[node.op].run(*args, **dict(node.params))
            else:
                value = drawn(units)
            self.values.append(value)
        if cell.projects_output:
            self.weights["W_hr" if "r" not in cell.hidden_gates else "W_proj"] = hr

    def namespace(self) -> dict[str, Any]:
        return {name: Weight(value) if name[0] == "W" else value for name, value in self.weights.items()}


def check(cell: Graph) -> None:
    """The printed text and LaTeX of each line, run as programs, make what the graph makes; so do its filled lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(printer, "DIGITS", 17)  # brackets are tested here, not how constants are rounded
        patch.setattr(Equations, "of", staticmethod(Equations))  # without the cache
        _check(cell)


def _check(cell: Graph) -> None:
    units = 1 if any(node.op == "where" for node in cell.nodes) else 3  # Python's if … else takes one truth
    step, made = Step(cell, units), Equations(cell)
    scope: dict[str, Any] = {**FUNCTIONS, **step.namespace()}
    for i, leaf in made.leaves.items():
        scope[python_of(leaf.text)] = scope[plain(leaf.latex)] = step.values[i]
    if made.normalisations:
        legend = cell.equations().split("\n\n")[1]
        eps = float(re.search(r"variance \+ ([\d.e-]+)\)", legend)[1])

        def normal(a: Tensor, *over: Tensor) -> Tensor:
            whole = torch.cat(over or (a,))
            return (a - whole.mean()) / torch.sqrt(whole.var(unbiased=False) + eps)

        scope["N"] = normal
        for name, values in re.findall(r"(N\d): N with one mean and variance for (.*)", legend):
            over = [eval(python_of(value), scope) for value in values.split(", ")]
            scope[name] = scope[f"N_{name[1]}"] = lambda a, over=over: normal(a, *over)
    for line in made.lines:
        expected = step.values[line.node].to(DOUBLE).expand(units)
        for program in (python_of(line.value.text), python_of_latex(line.value.latex)):
            value = torch.as_tensor(eval(program, scope)).to(DOUBLE).expand(units)
            assert_close(value, expected, ROUNDING, program)
        scope[python_of(line.symbol.text)] = scope[plain(line.symbol.latex)] = step.values[line.node]
    for unit in range(units):
        values = {i: value.expand(units)[unit].item() for i, value in enumerate(step.values)}
        check_filled(cell, values)


def check_filled(cell: Graph, values: Mapping[int, float]) -> None:
    """Each line's numbers make its result."""
    for line, printed in zip(lines(cell), filled(cell, values, 15), strict=True):
        _, right, *_ = printed.split(" = ")
        value = torch.as_tensor(eval(python_of(right), dict(FUNCTIONS))).to(DOUBLE)
        assert_close(value, torch.tensor(values[line.node], dtype=DOUBLE), ROUNDING, printed)


@pytest.mark.parametrize("cell", BUILT_IN.values(), ids=lambda c: c.name)
def test_built_in_cells_run_as_printed(cell: Graph) -> None:
    check(cell)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
def test_changed_cells_run_as_printed(cell: Graph, change: str) -> None:
    check(CHANGES[change](cell))


# A choice between a value and a number, projected.
CHOICE = Recipe(("n",), 1, 1, False, (*[("add", 0, 0)] * 3, ("where_ge", 0, 0), ("project", 6, 0)))


@settings(max_examples=300, deadline=None)
@given(recipes)
@example(CHOICE)
def test_random_cells_run_as_printed(recipe: Recipe) -> None:
    check(recipe.cell())


# Arithmetic within arithmetic, as a function of the values a, b and h: it needs brackets everywhere.
Arithmetic = Callable[[Any, Any, Any], Any]
arithmetic: st.SearchStrategy[Arithmetic] = st.recursive(
    st.sampled_from(
        [lambda a, b, h: a, lambda a, b, h: b, lambda a, b, h: h, lambda a, b, h: 0.5, lambda a, b, h: -2.0]
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda op, p, q: lambda *v: op(p(*v), q(*v)),
            st.sampled_from(
                [
                    lambda p, q: p + q,
                    lambda p, q: p - q,
                    lambda p, q: p * q,
                    lambda p, q: p / (q + 0.1),
                    lambda p, q: p / (q * q + 1),
                    lambda p, q: p / (abs(q) ** 0.5 * 2 + 1e-3),
                    lambda p, q: (abs(p) + 0.1) ** q,
                    lambda p, q: torch.where(p + 0 * q - q > 0 * p, p + 0 * q, q) if traced(p, q) else p,
                ]
            ),
            inner,
            inner,
        ),
        st.builds(
            lambda op, p: lambda *v: op(p(*v)),
            st.sampled_from([lambda p: -p, lambda p: p**2, lambda p: p**3, lambda p: 1 - p, lambda p: p * -1, abs]),
            inner,
        ),
    ),
    max_leaves=8,
)


def traced(*values: Any) -> bool:
    return not any(isinstance(value, float) for value in values)


@settings(max_examples=300, deadline=None)
@given(arithmetic)
def test_arithmetic_runs_as_printed(function: Arithmetic) -> None:
    @gatewise.cell(gates="a b")
    def random(x, h):
        return function(x.a, x.b + h.b, h) + x.a + x.b

    assume(
        all(value.double().abs().max() < 1e8 for value in Step(random, 3).values)
    )  # rounding is no fault of brackets
    check(random)


@pytest.mark.parametrize(
    ("name", "params"),
    [(name, PARAMS.get(name, {})) for name in OPS if name != "clip_grad"]
    + [("clamp", {"min": -1.0}), ("clamp", {"max": 0.5})],
)
def test_every_op_runs_as_printed(name: str, params: dict[str, float]) -> None:
    row = OPS[name]

    @gatewise.cell(gates="a b")
    def one(x, h):
        a, b = abs(x.a) + 0.1, torch.sigmoid(x.b + h.b)
        if name == "where":
            return torch.where(a > 0.5, a, b) * h
        function = row.run if row.scalars else getattr(torch, name, None) or getattr(F, name)
        value = function(*(a, b)[: row.arity], **params)
        return (torch.where(value, 1.0, a) if row.boolean else value * h) + b

    check(one)
    shown = {"min": "maximum", "max": "minimum"}[next(iter(params))] if len(params) == 1 and name == "clamp" else name
    for sign in re.split("[①②③(), ]+", OPS[shown].notation.text.template):
        assert sign in one.equations()


@pytest.mark.parametrize("name", [name for name in OPS if OPS[name].notation.meaning])
def test_the_legend_says_what_a_function_is(name: str) -> None:
    meaning, _, _ = OPS[name].notation.meaning[0].partition(", β")[0].partition(", α")[0].partition(", slope")
    for a in torch.linspace(-4, 4, 17, dtype=DOUBLE):
        scope = {**FUNCTIONS, "a": a, "β": 1.0, "α": 1.0, "slope": 0.01}
        assert_close(torch.as_tensor(eval(python_of(meaning), scope)), OPS[name].run(a, **OPS[name].params), 1e-8)


@settings(max_examples=50, deadline=None)
@given(recipes)
def test_latex_is_balanced(recipe: Recipe) -> None:
    latex = recipe.cell().latex()
    assert latex.count(r"\left(") == latex.count(r"\right)")
    assert latex.count(r"\begin") == latex.count(r"\end")
    depth = 0
    for brace in re.findall("[{}]", latex):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert not re.search(r"[⊙σ√·≤≥∞]", latex)


@pytest.mark.parametrize("cell", [*BUILT_IN.values(), *CHANGED.values()], ids=lambda c: c.name)
def test_matplotlib_reads_each_line(cell: Graph) -> None:
    from matplotlib.mathtext import MathTextParser

    for line in lines(cell):
        MathTextParser("path").parse(f"${line.symbol.latex} = {line.value.latex}$")  # raises if it can't


# --- the parts ----------------------------------------------------------------------------------------


def test_parts_are_json_and_make_the_text() -> None:
    for cell in (*BUILT_IN.values(), *CHANGED.values()):
        made = json.loads(json.dumps(parts(cell)))
        assert made == parts(cell)
        for line, row in zip(lines(cell), made, strict=True):
            right = "".join(part if isinstance(part, str) else part["text"] for part in row["parts"])
            assert f"{row['symbol']} = {right}" == line.text
            assert dict(cell.names).get(row["name"], row["node"]) == row["node"]
    row = parts(cells.gru)[2]
    assert (row["name"], row["symbol"], row["node"]) == ("n", "n_t", dict(cells.gru.names)["n"])
    leaves = [cells.gru.nodes[part["node"]] for part in row["parts"] if isinstance(part, dict)]
    assert [(node.op, node.key) for node in leaves] == [("input", "n"), ("sigmoid", ""), ("project", "n")]


def test_filled_with_numbers() -> None:
    index = {str(node): i for i, node in enumerate(cells.gru.nodes)}
    names = dict(cells.gru.names)
    values = {
        index["input r"]: 0.31, index["project r %0"]: -1.2, names["r"]: 0.291,
        index["input z"]: -2.0, index["project z %0"]: 2.0, names["z"]: 0.5,
        index["input n"]: 0.25, index["project n %0"]: -0.5, names["n"]: 0.1044,
        index["state h"]: -0.8, names["h"]: -0.001,
    }  # fmt: skip
    assert filled(cells.gru, values) == [
        "r_t = σ(0.31 + -1.20) = 0.29",
        "z_t = σ(-2.00 + 2.00) = 0.50",
        "n_t = tanh(0.25 + 0.29 ⊙ (-0.50)) = 0.10",
        "h_t = (1 - 0.50) ⊙ 0.10 + 0.50 ⊙ (-0.80) = 0.00",
    ]
    del values[index["input n"]]
    with pytest.raises(ValueError, match=r"node \d+, W_in x_t \+ b_in, has no number"):
        filled(cells.gru, values)
