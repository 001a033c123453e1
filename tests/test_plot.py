import math

import pytest

from gatewise.tasks.plot import curves


@pytest.mark.parametrize("epochs", [1, 3, 500])
@pytest.mark.parametrize("held_out", [True, False])
def test_curves_are_a_figure_of_the_history(epochs, held_out):
    history = [{"epoch": e, "train_perplexity": 1 + 20 / e} for e in range(1, epochs + 1)]
    if held_out:
        history = [{**row, "held_out_perplexity": row["train_perplexity"] + 1} for row in history]
    png = curves(history, "perplexity", "gru")
    assert png.startswith(b"\x89PNG\r\n")
    assert png != curves(history, "perplexity", "lstm")


def test_a_dollar_is_a_dollar_and_what_the_font_lacks_is_no_warning():
    assert curves([{"epoch": 1, "train_loss": 2.0}], "loss", r"gru on a$^$b $\frac$ 単語.tsv").startswith(b"\x89PNG")


def test_infinite_values_leave_a_gap():
    rows = [{"epoch": 1, "train_perplexity": math.inf}, {"epoch": 2, "train_perplexity": 9.0}]
    assert curves(rows, "perplexity", "gru").startswith(b"\x89PNG")
