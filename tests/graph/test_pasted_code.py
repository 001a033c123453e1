"""Code that was written for tensors, pasted into a cell: each error names its line, and says what to write there."""

from __future__ import annotations

import importlib
import linecache
import math
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gatewise
from gatewise import CellError, Graph, cell

# What the pasted code finds in its module: some weights are there, most are not.
MODULE = {
    "torch": torch, "np": np, "nn": nn, "F": F, "math": math, "gatewise": gatewise,
    "W": torch.randn(4, 4), "b": torch.randn(4), "A": np.ones((4, 4)), "linear": nn.Linear(4, 4),
    "owner": type("Owner", (), {"W_xz": torch.randn(4, 4), "W": torch.randn(4, 4)})(),
    "helper": lambda a: torch.tanh(a),
}  # fmt: skip


def function(path: Path, lines: str, arguments: str) -> Callable[..., Any]:
    """A cell's function in a file of its own, as a user's would be."""
    source = f"def pasted({arguments}):\n{textwrap.indent(lines, '    ')}\n"
    path.write_text(source, encoding="utf-8")
    linecache.checkcache(str(path))
    scope = dict(MODULE)
    exec(compile(source, str(path), "exec"), scope)
    made = scope["pasted"]
    assert callable(made)
    return made


def message_of(path: Path, lines: str, arguments: str = "x, h", gates: str = "r z n", at: int = 2) -> str:
    """What is raised for these lines; it names their line number `at` of the file, the cell's second unless told."""
    with pytest.raises(CellError) as caught:
        cell(gates=gates)(function(path, lines, arguments))
    message = str(caught.value)
    line = path.read_text(encoding="utf-8").splitlines()[at - 1].split(" #")[0].strip()
    assert message.startswith(f"pasted ({path.name}, line {at}: `{line}`): ")
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pasted.py"


# --- weights ------------------------------------------------------------------------------------------

# name -> the gate that is read from it, on which side of the sum it is: "x" or "h", "b" for a bias, "" unknown.
WEIGHTS = {
    "W_xz": ("z", "x"), "W_xr": ("r", "x"), "W_iz": ("z", "x"), "W_in": ("n", "x"), "W_x_n": ("n", "x"),
    "W_zx": ("z", "x"), "Wxz": ("z", "x"), "w_xz": ("z", "x"), "W_ih_z": ("z", "x"), "weight_ih_r": ("r", "x"),
    "W_hz": ("z", "h"), "W_hn": ("n", "h"), "W_h_n": ("n", "h"), "W_zh": ("z", "h"), "Whr": ("r", "h"),
    "weight_hr": ("r", "h"), "U_z": ("z", "h"), "Uz": ("z", "h"), "W_hh_n": ("n", "h"),
    "recurrent_kernel_z": ("z", "h"),
    "b_r": ("r", "b"), "bz": ("z", "b"), "b_iz": ("z", "b"), "b_hn": ("n", "b"), "bias_z": ("z", "b"),
    "W_z": ("z", ""), "Wz": ("z", ""), "V_n": ("n", ""), "weight_n": ("n", ""), "kernel_z": ("z", ""),
}  # fmt: skip


@pytest.mark.parametrize("capitals", [False, True])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_by_its_name(path: Path, name: str, capitals: bool) -> None:
    gate, side = WEIGHTS[name]
    x, h, gates = ("X", "H", "R Z N") if capitals else ("x", "h", "r z n")
    gate = gate.upper() if capitals else gate
    reads = {"x": f"write {x}.{gate}, which", "h": f"write {h}.{gate}, which"}.get(side, f"write {x}.{gate}")
    for line in (f"return torch.tanh({x} @ {name} + {h}.{gate})", f"return torch.tanh({name} @ {h} + {x}.{gate})"):
        message = message_of(path, line, f"{x}, {h}", gates)
        assert f"name '{name}' is not defined; {name}: " in message
        assert reads in message
        assert f"{x}.{gate}" in message
        assert f"{h}.{gate}" in message


# Of all gates: what is shown is a gate that there is.
@pytest.mark.parametrize(
    "name",
    ["W_ih", "W_hh", "weight_ih", "weight_hh", "weight_ih_l0", "weight_hh_l1_reverse", "bias_ih", "U", "V", "weights",
     "kernel", "recurrent_kernel", "bias"],
)  # fmt: skip
def test_weights_of_all_gates(path: Path, name: str) -> None:
    message = message_of(path, f"return x.z + h @ {name}")
    assert "not defined" in message
    assert "write x.r for the product with x and h.r for that with h, biases included" in message
    assert "r z n" in message
    assert "h.n" in message_of(path, f"return x.n + h @ {name}", gates="n")  # the only one


@pytest.mark.parametrize("name", ["W_xq", "W_hq", "b_q", "W_xo", "U_f", "W_forget"])
def test_a_gate_that_is_not_there_is_not_suggested_but_declared(path: Path, name: str) -> None:
    message = message_of(path, f"return x.z + h @ {name}")
    word = name.split("_")[1].removeprefix("x").removeprefix("h")
    assert f"{word!r} is no gate of this cell, which has r z n; declare it, gates='r z n {word}', and write" in message
    assert f"x.{word}" in message or f"h.{word}" in message
    assert ("output layer" in message) == (word == "q")


def test_d2ls_candidate_gate(path: Path) -> None:
    message = message_of(path, "H_tilda = torch.tanh(X @ W_xh + (R * H) @ W_hh + b_h)", "X, H", "Z R H")
    assert "write X.H, which has the product with X and the bias in it, and H.H for the product with H" in message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Z = torch.sigmoid(X @ W_xz + H @ W_hz + b_z)", "the input is called x here; W_xz: write x.z, which"),
        ("Z = torch.sigmoid(X.z + H.z)", "the input is called x here"),
        ("Z = torch.sigmoid(H @ W_hz + x.z)", "the state is called h here; W_hz: write h.z, which"),
        ("H = x.z * H", "the state is called h here"),  # unbound: it is assigned in this line
        ("z = torch.sigmoid(x_t @ W_xz)", "the input is called x here; W_xz: write x.z"),
        ("z = torch.sigmoid(inputs)", "the input is called x here"),
        ("z = hidden * x.z", "the state is called h here"),
        ("z = prev_h * x.z", "the state is called h here"),
        ("W_xz, W_hz, b_z = params", "a cell has no params, its weights are read by gates; W_xz: write x.z"),
        ("z = x @ params['W_xz']", "a cell has no params, its weights are read by gates; W_xz: write x.z"),
        ("z = x @ self.W_xz", "a cell has no self, its weights are read by gates; W_xz: write x.z"),
        ("z = self.W(x)", "a cell has no self, its weights are read by gates; W: write x.r for the product"),
        ("z = self.update(x)", "a cell has no self, its weights are read by gates"),
    ],
)
def test_names_that_are_not_defined(path: Path, line: str, expected: str) -> None:
    message = message_of(path, f"{line}\nreturn h")
    assert expected in message
    assert "NameError" in message or "UnboundLocalError" in message


def test_an_lstms_cell_state(path: Path) -> None:
    message = message_of(path, "C = x.f * C\nreturn h, C", "x, h, c", "i f g o")
    assert "the state is called c here" in message
    message = message_of(path, "c = x.f * memory\nreturn h, c", "x, h, c", "i f g o")
    assert "the state is called c here" in message


@pytest.mark.parametrize("inputs", ["inputs", "x"])
def test_a_loop_over_the_steps(path: Path, inputs: str) -> None:
    message = message_of(path, f"for X in {inputs}:\n    h = torch.tanh(X.n)\nreturn h")
    assert "write the body of the loop alone" in message or "no loop over units or steps" in message


def test_a_state_that_is_unpacked_and_weights_that_are_an_argument(path: Path) -> None:
    assert "no unpacking" in message_of(path, "H, = state\nreturn H", "inputs, state")
    message = message_of(path, "W_xz, W_hz, b_z = params\nreturn h", "x, h, params")
    assert "W_xz: write x.z" in message


# --- products, functions and properties of tensors --------------------------------------------------------

LINES = {
    # a product of x is the gate's; one of anything else its projection
    "x @ W": "write x.r for the product with x",
    "W @ x": "write x.r for the product with x",
    "h @ W": "h.r for that with h",
    "x @ owner.W_xz": "W_xz: write x.z, which",
    "owner.W_xz @ x": "W_xz: write x.z, which",
    "torch.matmul(x, owner.W_xz)": "W_xz: write x.z, which",
    "torch.mm(h, W)": "h.r for that with h",
    "torch.addmm(b, x, W)": "write x.r",
    "torch.einsum('bi,ih->bh', x, W)": "write x.r",
    "F.linear(x, W, b)": "write x.r",
    "F.linear(input=x, weight=W)": "write x.r",
    "x.mm(W)": "write x.r",
    "h.matmul(W)": "h.r for that with h",
    "x @ x": "write x.r, which has the product with x and the bias in it",
    "h @ x": "write x.r, which has the product with x and the bias in it",
    "h @ h": "a gate's projection, such as h.r or (a * h).r",
    "x.z @ h": "a gate's projection, such as h.r",
    "linear(x)": "write x.r, which has the product",
    "linear(h)": "a gate's projection, such as h.r",
    "nn.Linear(4, 4)(x)": "write x.r, which has the product",
    "np.dot(x, A)": "numpy's dot in a cell: write x.r",
    "np.matmul(h, A)": "numpy's matmul in a cell: write a gate's projection, such as h.r",
    "A @ x": "numpy's matmul in a cell: write x.r",
    "x.W_xz + h.W_hz": "W_xz: write x.z, which",
    "x.xz + h.hz": "xz: write x.z, which",
    "torch.cat([x, h], 1)": "for a product with [x, h] write x.r + h.r",
    "torch.cat((x.z, h), dim=1)": "for a product with [x, h] write x.r + h.r",
    "np.concatenate([x, h])": "for a product with [x, h] write x.r + h.r",
    # functions of other toolkits
    "np.tanh(x.z)": "write torch.tanh(…)",
    "np.exp(-x.z)": "write torch.exp(…)",
    "np.where(x.z > 0, x.z, h)": "write torch.where(…)",
    "np.clip(x.z, 0, 1)": "write torch.clip(…)",
    "np.maximum(x.z, 0)": "write torch.maximum(…)",
    "np.mean(h)": "write torch.mean(…)",
    "np.arctan(h)": "write those of torch, such as torch.tanh(…)",
    "np.array(h)": "no numpy array",
    "np.sum(h)": "torch.mean",
    "math.tanh(x.z)": "write torch's function",
    "tf.sigmoid(x.z)": "write torch.sigmoid(…)",
    "tf.math.tanh(x.z)": "write torch.tanh(…)",
    "tf.matmul(x, W)": "a gate's projection, such as x.z",
    "K.dot(x, W)": "a gate's projection",
    "jnp.tanh(x.z)": "write torch.tanh(…)",
    "keras.ops.sigmoid(x.z)": "write torch.sigmoid(…)",
    "sigmoid(x.z)": "write torch.sigmoid(…)",
    "tanh(x.z)": "write torch.tanh(…)",
    "x.z.tanh()": "write torch.tanh(…)",
    "h.clip(0, 1)": "write torch.clip(…)",
    "F.dropout(h, 0.5)": "gatewise.recurrent_dropout(cell, p)",
    "F.layer_norm(h, (4,))": "gatewise.layer_norm(cell)",
    "torch.max(x.z, h)": "torch.maximum(a, b)",
    "h.sum()": "torch.mean",
    "nn.ReLU()(x)": "read a gate of it, such as x.r",
    # what a tensor has, and a value of one unit has not
    "torch.zeros(4) + x.z": "expected a value of the step or a number",
    "torch.zeros(x.shape)": "has no shape",
    "torch.zeros_like(h)": "write the number itself",
    "torch.ones_like(x)": "write the number itself",
    "x.shape[0]": "has no shape",
    "h.size(0)": "has no shape",
    "h.device": "has no shape, device or methods",
    "h.T": "has no shape, device or methods",
    "h.transpose(0, 1)": "has no shape, device or methods",
    "x.view(-1)": "has no shape, device or methods",
    "h.item()": "has no shape, device or methods",
    "len(x)": "no len()",
    "len(h)": "no len()",
    "x[0]": "no indexing",
    "h[:, :4]": "no indexing",
    "[a for a in h]": "no loop over units or steps",
    "sum(x)": "no loop over units or steps",
    "torch.tensor(h)": "no indexing",
    "float(x)": "no Python number",
    "int(h)": "no Python number",
    "h if x.z > 0 else x.z": "write torch.where",
    "max(x.z, h)": "torch.maximum",
    "x.z and h": "write torch.where",
    "abs(x)": "read a gate of it, such as x.r",
    "x * 2": "mul of x itself, which has input_size numbers; read a gate of it, such as x.r",
    "x(h)": "a value is no function: x.r and h.r are the products themselves",
    "h.z(x)": "a value is no function",
    "nn.GRU(4, 4)(x)": "has no shape, device or methods",
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_says_what_to_write_for_it(path: Path, line: str) -> None:
    assert LINES[line] in message_of(path, f"return {line}")


@pytest.mark.parametrize("line", ["x.z = h", "x.z += h", "h.z = x.z", "x[0] = h"])
def test_a_value_is_given_to_nothing(path: Path, line: str) -> None:
    message = message_of(path, f"{line}\nreturn h")
    assert "give the result a name" in message or "no indexing" in message


def test_the_arguments_own_names_are_shown(path: Path) -> None:
    message = message_of(path, "return torch.tanh(inputs @ W_xz)", "inputs, state", "Z")
    assert "write inputs.Z, which has the product with inputs and the bias in it, and state.Z for" in message
    assert "such as inputs.Z" in message_of(path, "return torch.tanh(inputs)", "inputs, state", "Z")


def test_activations_that_are_modules_are_functions(path: Path) -> None:
    made = cell(gates="n")(function(path, "return nn.Tanh()(x.n + nn.Sigmoid()(h.n))", "x, h"))
    assert isinstance(made, Graph)


def test_what_is_suggested_runs(path: Path) -> None:
    """d2l's GRU, with what the messages say in place of its products."""
    lines = """
        Z = torch.sigmoid(X.Z + H.Z)
        R = torch.sigmoid(X.R + H.R)
        H_tilda = torch.tanh(X.H + (R * H).H)
        H = Z * H + (1 - Z) * H_tilda
        return H"""
    made = cell(gates="Z R H")(function(path, textwrap.dedent(lines), "X, H"))
    assert gatewise.inspect.compare(made, gatewise.cells.gru_reset_before).same


# --- names that have nothing to do with weights --------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("z = helpr(x.z)", "name 'helpr' is not defined; did you mean helper?"),
        ("z = squash(x.z)", "name 'squash' is not defined; define it before the cell, or import it"),
        ("z = beta * x.z", "name 'beta' is not defined; "),
        ("z = b_size * x.z", "name 'b_size' is not defined; "),
        ("z = wide * x.z", "name 'wide' is not defined; "),
        ("z = Wind * x.z", "name 'Wind' is not defined; "),
        ("z = dt * x.z * b_scale", "name 'dt' is not defined; "),
    ],
)
def test_other_names_are_not_taken_for_weights(path: Path, line: str, expected: str) -> None:
    message = message_of(path, f"{line}\nreturn z + h.r + x.n")
    assert expected in message
    assert "write" not in message
    assert "product" not in message


def test_a_helper_of_the_same_file(path: Path) -> None:
    lines = "def gate(a):\n    return squash(a)\nreturn gate(x.z)"
    message = message_of(path, lines, at=4)
    assert "name 'squash' is not defined, in gate (pasted.py, line 3); define it before the cell" in message


def test_a_helper_of_another_file_keeps_its_traceback(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "far_helper_of_pasted.py").write_text("def deep(a):\n    return a @ W_xz\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(path.parent))
    try:
        with pytest.raises(CellError) as caught:
            cell(gates="z")(
                function(path, "from far_helper_of_pasted import deep\nz = deep(x.z)\nreturn z + h.z", "x, h")
            )
    finally:
        sys.modules.pop("far_helper_of_pasted", None)
        importlib.invalidate_caches()
    message = str(caught.value)
    assert "line 3: `z = deep(x.z)`" in message
    assert message.endswith("NameError: name 'W_xz' is not defined, in deep (far_helper_of_pasted.py, line 2)")
    cause = caught.value.__cause__
    assert isinstance(cause, NameError)
    assert traceback.extract_tb(cause.__traceback__)[-1].name == "deep"


def test_in_the_command_line_too(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import gatewise, torch\n\n@gatewise.cell(gates='Z R H')\ndef gru(X, H):\n"
        "    Z = torch.sigmoid(X @ W_xz + H @ W_hz + b_z)\n    return Z\n",
        encoding="utf-8",
    )
    code, out, err = run("equations", "mine.py:gru")
    assert (code, out) == (2, "")
    assert "write X.Z, which has the product with X and the bias in it, and H.Z" in err
    assert "Traceback" not in err
