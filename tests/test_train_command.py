"""The commands `gatewise train TASK`: their options are the settings'."""

import re

import pytest
import typer

from gatewise.cli import app
from gatewise.cli.train import COMMON, Flag, train_command
from gatewise.tasks.text.settings import TextSettings

train = next(group.typer_instance for group in app.registered_groups if group.name == "train")
COMMANDS = {command.name: command.callback for command in train.registered_commands}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_with_a_flag_has_an_option_with_its_default(run, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, _ = run("train", name, "--help")
    settings = COMMANDS[name].settings
    defaults = settings.of()
    assert code == 0
    for flag in [*settings.FLAGS, "out", "resume"]:
        (line,) = re.findall(rf"│ \*?\s*--{flag}\s.*(?:\n│ {{12,}}.*)*", out)
        if flag not in ("out", "resume"):
            value = defaults.flag(flag)
            expected = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            if value in (None, (), ""):
                assert re.search(r"\[default: \S+", line), flag  # in words
                continue
            assert f"[default: {expected}]" in line, flag


def test_values_have_the_types_of_the_settings(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("train", "text", "--hidden", "many")
    assert code == 2
    assert "Invalid value for '--hidden'" in err
    code, _, err = run("train", "text", "--holdout", "1.5")
    assert (code, err) == (2, "gatewise: holdout must be a share from 0 to below 1; got 1.5\n")


def test_a_flag_without_a_setting_is_an_error_of_ours():
    with pytest.raises(KeyError, match="colour"):
        train_command("text", TextSettings, {"colour": Flag("Data", "")}, None, "")


def test_the_common_flags_are_the_settings_common_flags():
    from gatewise.tasks.settings import TaskSettings

    assert set(COMMON) == set(TaskSettings.FLAGS)
    assert isinstance(app, typer.Typer)
