"""A file that a user names is not overwritten unasked, whatever has the name, and whenever it came."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewise.errors import InputError
from gatewise.tasks.run import free, write


def a_file(path: Path) -> None:
    path.write_bytes(b"mine")


def a_link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"mine")
    path.symlink_to("elsewhere")


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


FORCED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file": (a_file, "exists already: name another file, or overwrite it with --force"),
    "a link": (a_link, "is a link to elsewhere: name another file, or replace the link with --force"),
    "a link to nowhere": (a_link_to_nowhere, "is a link to nowhere, which is not there: name another file, or replace"),
}
NEVER: dict[str, tuple[Callable[[Path], None], str]] = {
    "a folder": (Path.mkdir, "is a folder, expected a file to write"),
    "a pipe": (os.mkfifo, "is a device or a pipe, expected a file to write"),
    "a link to a folder": (lambda path: path.symlink_to("."), "is a folder, expected a file to write"),
    "a device": (lambda path: path.symlink_to(os.devnull), "is a device or a pipe, expected a file to write"),
}


def there(folder: Path) -> dict[str, tuple[bool, bytes]]:
    """Every name of a folder: whether it is a link, and what a file has."""
    return {p.name: (p.is_symlink(), p.read_bytes() if p.is_file() else b"") for p in folder.iterdir()}


@pytest.mark.parametrize("name", FORCED)
def test_what_is_there_stays_unless_forced(name: str, tmp_path: Path) -> None:
    make, message = FORCED[name]
    path = tmp_path / "out"
    make(path)
    before = there(tmp_path)
    for refusal in (lambda: free(path), lambda: write(path, "new", force=False)):
        with pytest.raises(InputError, match=message) as caught:
            refusal()
        assert "\n" not in str(caught.value)
        assert there(tmp_path) == before
    free(path, force=True)
    write(path, "new", force=True)
    # What a link leads to is somebody's file, too.
    assert there(tmp_path) == before | {"out": (False, b"new")}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", NEVER)
def test_what_is_no_file_stays(name: str, force: bool, tmp_path: Path) -> None:
    make, message = NEVER[name]
    make(tmp_path / "out")
    with pytest.raises(InputError, match=message):
        free(tmp_path / "out", force)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_not_there_or_not_ones_own(
    force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(tmp_path / "out", force)
    with pytest.raises(InputError, match=r"there is no folder .*/no to write out into"):
        free(tmp_path / "no" / "out", force)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root, whom these tests may run as, is never told
    with pytest.raises(InputError, match="nothing may be written into the folder"):
        free(tmp_path / "out", force)


@pytest.mark.parametrize("name", FORCED)
def test_what_comes_while_it_is_written_stays(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message = FORCED[name]
    path = tmp_path / "out"
    sync = os.fsync

    def slow(file: int) -> None:
        sync(file)
        make(path)

    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(InputError, match=message):
        write(path, "new", force=False)
    left = there(tmp_path)
    left.pop("elsewhere", None)
    assert left == {"out": (name != "a file", b"" if "nowhere" in name else b"mine")}


def test_a_new_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    write(path, b"first", force=False)
    assert there(tmp_path) == {"out": (False, b"first")}
    path.unlink()

    def failing(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="No space left"):
        write(path, b"second", force=False)
    assert there(tmp_path) == {}
