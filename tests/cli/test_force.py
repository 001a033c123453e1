"""Every command that writes a file which the user names: it is refused before anything is read, unless --force."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[Any, str, str]]

# A command without the name of its file, and that name. What it would read is not there, or no model: a refusal that
# names the file has read nothing.
COMMANDS = {
    "convert": (["convert", "absent.pt"], "taken.npz"),
    "diagram": (["diagram", "no such cell"], "taken.svg"),
    "explore": (["explore", "absent", "--out"], "taken.html"),
    "forecast": (["forecast", "absent", "--out"], "taken.csv"),
    "forecast, the picture": (["forecast", "absent", "--out"], "picture.csv"),
    "translate": (["translate", ".", "a sentence", "--attention-map"], "taken.png"),
    "classify": (["classify", "absent", "absent.csv", "--out"], "taken.csv"),
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_is_there_is_refused_first(name: str, run: Run) -> None:
    pytest.importorskip("pandas")
    arguments, out = COMMANDS[name]
    taken = Path("picture.png" if out == "picture.csv" else out)
    taken.write_text("mine")
    code, shown, err = run(*arguments, out)
    assert (code, shown) == (2, "")
    assert err == f"gatewise: {taken} exists already: name another file, or overwrite it with --force (force=True)\n"
    code, _, err = run(*arguments, out, "--force")
    assert code == 2
    assert taken.name not in err  # what is refused now is what it reads
    assert taken.read_text() == "mine"
    assert [path.name for path in Path().iterdir()] == [taken.name]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to("nowhere"), "is a link to nowhere, which is not there: name another file"),
        (lambda path: path.mkdir(), "is a folder, expected a file to write"),
    ],
)
def test_other_things_of_that_name(name: str, make: Callable[[Path], None], message: str, run: Run) -> None:
    pytest.importorskip("pandas")
    arguments, out = COMMANDS[name]
    make(Path(out))
    code, shown, err = run(*arguments, out)
    assert (code, shown) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_is_not_there(name: str, run: Run) -> None:
    pytest.importorskip("pandas")
    arguments, out = COMMANDS[name]
    code, _, err = run(*arguments, f"no/{out}")
    assert (code, err) == (2, f"gatewise: there is no folder no to write {out} into: make it, or name another\n")


def test_a_diagram_is_drawn_anew_with_force(run: Run) -> None:
    pytest.importorskip("matplotlib")
    assert run("diagram", "rnn", "cell.svg")[0] == 0
    first = Path("cell.svg").read_bytes()
    assert run("diagram", "gru", "cell.svg")[0] == 2
    assert Path("cell.svg").read_bytes() == first
    assert run("diagram", "gru", "cell.svg", "--force")[0] == 0
    assert Path("cell.svg").read_bytes() != first
