import errno
import os

import pytest

from gatewise.errors import InputError
from gatewise.tasks.run import Run, write


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write(file, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(file, "new")
    assert caught.value.filename == str(file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_next_free_folder_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(Run.create(None, "text").path) for _ in range(2)] == ["runs/text-1", "runs/text-2"]
    (tmp_path / "runs" / "text-9").mkdir()
    (tmp_path / "runs" / "text-mine").mkdir()
    assert str(Run.create(None, "text").path) == "runs/text-10"


def test_nothing_is_overwritten(tmp_path):
    run = Run.create(tmp_path / "run", "text")
    run.write_settings("text", {"a": 1})
    with pytest.raises(InputError, match=r"already holds a run: choose another folder with --out, or .*--resume"):
        Run.create(tmp_path / "run", "text")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.csv").touch()
    for path in ("mine", "mine/metrics.csv"):
        with pytest.raises(InputError, match="is not an empty folder"):
            Run.create(tmp_path / path, "text")


def test_a_run_is_opened_by_its_task(tmp_path):
    run = Run.create(tmp_path / "run", "text")
    with pytest.raises(InputError, match="holds no run"):
        Run.open(run.path, "text")
    run.write_settings("text", {"a": [1, 2]})
    assert Run.open(run.path, "text").settings()["a"] == [1, 2]
    with pytest.raises(InputError, match="a run of the task 'text', expected 'forecast'"):
        Run.open(run.path, "forecast")
    with pytest.raises(InputError, match="there is no folder"):
        Run.open(tmp_path / "absent", "text")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"task": "text"}', b'{"task": 1, "format": 1}', b"\xff"])
def test_damaged_settings_are_told(tmp_path, content):
    run = Run.create(tmp_path / "run", "text")
    (run.path / "settings.json").write_bytes(content)
    with pytest.raises(InputError, match=r"settings\.json"):
        Run.open(run.path, "text")
