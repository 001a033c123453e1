"""Two cells side by side: what is marked, and what is said of them."""

from __future__ import annotations

import re

import pytest
import torch
from rich.console import Console

import gatewise
from gatewise import Graph, cells
from gatewise.inspect import compare


@gatewise.cell(gates="r z n")
def gru_z(x, h):
    """The GRU of arXiv 1412.3555: z is the share of the new."""
    r = torch.sigmoid(x.r + h.r)
    z = torch.sigmoid(x.z + h.z)
    n = torch.tanh(x.n + r * h.n)
    return (1 - z) * h + z * n


@gatewise.cell(gates="n z r")
def gru_rewritten(x, h):
    r = torch.sigmoid(h.r + x.r)
    z = torch.sigmoid(x.z + h.z)
    n = torch.tanh(r * h.n + x.n)
    return n + z * (h - n)


def test_the_two_grus_side_by_side() -> None:
    made = compare(cells.gru, cells.gru_reset_before)
    both, _, verdict = str(made).rpartition("\n\n")
    expected = """\
both              r_t = σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
both              z_t = σ(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
gru               n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h_{t-1} + b_hn))
                                                     ~~~~~                ~
gru_reset_before  n_t = tanh(W_in x_t + b_in + W_hn (r_t ⊙ h_{t-1}) + b_hn)
                                               ~~~~~~             ~
both              h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}"""
    assert both == expected
    assert made.same is False
    assert made.difference is not None
    assert made.difference > 0.1
    assert verdict == (
        "Not the same function: after 5 steps with the same random weights the states differ by up to "
        f"{made.difference:.2g}."
    )


def test_z_and_1_minus_z() -> None:
    for a, b in ((cells.gru, gru_z), (gru_z, cells.gru)):
        made = compare(a, b)
        assert (made.same, made.negated) == (False, ("z",))
        assert made.verdict.endswith(
            "The same function if z is replaced by 1 - z: negate the weights and biases of gate z."
        )
    # and so it is
    one, other = (gatewise.Recurrent(cell, 2, 3, dtype=torch.float64) for cell in (cells.gru, gru_z))
    other.load_state_dict(one.state_dict())
    x = torch.randn(4, 1, 2, dtype=torch.float64)
    assert not torch.allclose(one(x)[0], other(x)[0])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter[3:6].neg_()
    assert torch.allclose(one(x)[0], other(x)[0], atol=1e-12)


def test_a_gate_that_is_no_sigmoid_is_not_said_to_be_1_minus_itself() -> None:
    @gatewise.cell(gates="n")
    def rnn_negative(x, h):
        return torch.tanh(-x.n - h.n)

    made = compare(cells.rnn, rnn_negative)
    assert made.negated == ("n",)
    assert made.verdict.endswith("The same function if you negate the weights and biases of gate n.")


def test_the_same_function_in_other_words() -> None:
    made = compare(cells.gru, gru_rewritten)
    assert made.same is True
    assert made.difference is not None
    assert made.difference < 1e-12
    assert made.verdict.startswith("The same function to rounding: after 5 steps")
    assert compare(cells.gru, cells.gru).verdict == "The same equations."
    assert "~" not in str(compare(cells.gru, cells.gru))


@pytest.mark.parametrize(
    ("a", "b", "same", "verdict"),
    [
        (
            cells.gru, cells.lstm, None,
            "gru has the states h, lstm has the states h c; gru has the gates r z n, lstm has the gates i f g o.",
        ),
        (
            cells.lstm, cells.lstm_peephole, None,
            "lstm has no learned vectors, lstm_peephole has the learned vectors p_i p_f p_o.",
        ),
        (cells.lstm, cells.lstm_projected, None, "only lstm_projected projects its output."),
        (cells.rnn, cells.rnn_relu, False, "Not the same function: after"),
        (cells.gru, gatewise.zoneout(cells.gru, 0.1), False, "Not the same function in evaluation: after"),
        (
            cells.gru, gatewise.recurrent_dropout(cells.gru, 0.1), True,
            "in evaluation: .* In training their random masks differ.",
        ),
        (
            cells.gru, gatewise.clip_state_grad(cells.gru, 1.0), True,
            "the states are equal. Their gradients are clipped differently.",
        ),
        (gatewise.zoneout(cells.gru, 0.1), gatewise.zoneout(gru_rewritten, 0.1), True, "function to rounding: after"),
        (gatewise.layer_norm(cells.gru), gatewise.layer_norm(gru_z), False, "Not the same function: after"),
        (cells.lstm_projected, cells.lstm_projected, True, "The same equations."),
        (cells.lstm_peephole, gatewise.zoneout(cells.lstm_peephole, {"c": 0.5}), False, "Not the same"),
        (
            gatewise.zoneout(cells.lstm_projected, 0.1), gatewise.zoneout(cells.lstm_projected, 0.2), False,
            "Not the same",
        ),
    ],
)  # fmt: skip
def test_verdicts(a: Graph, b: Graph, same: bool | None, verdict: str) -> None:
    made = compare(a, b)
    assert made.same is same
    assert re.search(verdict, made.verdict)
    assert str(made).endswith(made.verdict)


def test_what_cannot_be_decided_is_said() -> None:
    @gatewise.cell(gates="n")
    def infinite(x, h):
        return torch.log(x.n + h.n)

    made = compare(infinite, cells.rnn)
    assert made.same is None
    assert "not known" in made.verdict


def test_lines_that_stand_elsewhere_are_not_marked() -> None:
    rows = compare(cells.lstm, cells.lstm_peephole).rows
    assert [(whose, text) for whose, text, _ in rows if text.startswith("c_t")] == [
        ("both", "c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t")
    ]


def test_comparing_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    compare(gatewise.zoneout(cells.gru, 0.1), gatewise.zoneout(gru_z, 0.1))
    assert torch.equal(torch.rand(1), expected)


def test_cells_of_one_name_are_told_apart() -> None:
    other = gatewise.cell(gates="n", name="rnn")(lambda x, h: torch.sigmoid(x.n + h.n))
    assert [whose for whose, _, _ in compare(cells.rnn, other).rows] == ["rnn", "rnn (2)"]


def test_colours_add_nothing_but_colours() -> None:
    made = compare(cells.gru, gru_z)
    console = Console(force_terminal=True, color_system="standard", width=200, highlight=False)
    with console.capture() as capture:
        console.print(made)
    assert re.sub(r"\x1b\[[\d;]*m", "", capture.get()).rstrip() == str(made)
    assert "\x1b[1;31mn_t\x1b[0m + z_t ⊙ \x1b[1;31mh_{t-1}\x1b[0m" in capture.get()


def test_what_is_no_cell_is_refused() -> None:
    with pytest.raises(TypeError, match="compare: got 'gru'"):
        compare(cells.gru, "gru")  # type: ignore[arg-type]
