import io
import random

import pytest
from rich.console import Console

from gatewise.tasks import progress, text

SETTINGS = {"hidden": 8, "steps": 8, "batch": 4, "epochs": 2}


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """What a training shows, at every batch and epoch, on a terminal or not."""

    def train(terminal, **limits):
        source = tmp_path / "text.txt"
        source.write_text("".join(random.Random(0).choices("[b] :smile:\n", k=600)))  # no markup, no emoji
        written = io.StringIO()
        console = Console(force_terminal=terminal, file=written, width=150, highlight=False, emoji=False)
        monkeypatch.setattr(progress, "Console", lambda **options: console)
        for pause in ("BAR_PAUSE", "LINE_PAUSE", "SAMPLE_PAUSE"):
            monkeypatch.setattr(progress, pause, 0.0)
        text.train(text.TextSettings.of(data=str(source), **{**SETTINGS, **limits}), tmp_path / "run")
        return written.getvalue()

    return train


def test_without_a_terminal_there_are_plain_lines(shown):
    out = shown(terminal=False)
    assert out.isprintable() or set(out) - {"\n"} == {c for c in out if c.isprintable()}
    lines = [line for line in out.splitlines() if " loss " in line]
    assert lines[0].startswith("  3 %  epoch 1/2  loss ")
    assert lines[-1].startswith("100 %  epoch 2/2  loss ")
    assert lines[-1].endswith(" characters/s  0:00 left")
    for word in ("perplexity ", "bits per char "):
        assert all(word in line for line in lines)
    assert out.count("  epoch 1: ") == out.count("  epoch 2: ") == 1  # the samples
    assert "text.txt: 540 characters to learn, 60 held out" in out


def test_on_a_terminal_there_is_one_bar(shown):
    out = shown(terminal=True)
    assert "\x1b[2K" in out  # the line is written anew
    assert " epoch 2/2  loss " in out
    assert out.count("━\x1b[0m epoch 2/2") >= 1
    assert out.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_minutes_are_counted_in_whole_epochs(shown):
    assert "100 %  epoch 1/1  loss " in shown(terminal=False, epochs=None, minutes=1e-6)


def test_the_clock():
    assert [progress._clock(seconds) for seconds in (0, 59.6, 61, 3661)] == ["0:00", "1:00", "1:01", "1:01:01"]
