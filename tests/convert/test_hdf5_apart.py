"""HDF5 is read in a process of its own: what hangs, crashes or babbles there is told in one line, and in time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_keras_files import PLAIN, sequential, weights, write

from gatewise import convert
from gatewise.convert.keras import apart, hdf5
from gatewise.errors import InputError

h5py = pytest.importorskip("h5py")
os.environ.setdefault("KERAS_BACKEND", "torch")  # read when Keras is first imported

MODELS = Path(__file__).parents[3] / "shared" / "data" / "models"
CHARS2VEC = MODELS / "chars2vec" / "eng_50_weights.h5"
CONFIG = sequential(("LSTM", PLAIN | {"units": 3, "name": "l"}))


@pytest.fixture
def honest(tmp_path: Path) -> Path:
    return write(tmp_path / "honest.h5", {"l": weights(4, 4, 3)}, CONFIG)


def hanging(path: Path, number: int = 0) -> Path:
    """The file, with the bytes of the issue in the header of one of its heaps of strings."""
    data = bytearray(path.read_bytes())
    start = -1
    for _ in range(number + 1):
        start = data.index(b"GCOL", start + 1)
    data[start + 6 : start + 10] = b"\xff\xff\xff\x7f"
    path.write_bytes(data)
    return path


def with_strings(path: Path) -> Path:
    """A file whose names lie in a heap, which those of h5py's bytes do not."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["l"]
        group = file.create_group("l")
        group.attrs["weight_names"] = list(weights(4, 4, 3))
        for name, array in weights(4, 4, 3).items():
            group[name] = array
        file["room"] = np.zeros(1 << 16, "u1")  # for the heap's new size, which is to end in the file
    return path


def refused(path: Path, match: str) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=match) as caught:
        convert.load(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    assert time.monotonic() - started < 30


# --- what the HDF5 library does on damaged files -----------------------------------------------------


@pytest.mark.parametrize("ending", [".h5", ".keras"])
def test_a_heap_that_hangs_is_told_in_time(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "SILENCE", 1.0)
    path = with_strings(tmp_path / "weights.h5")
    assert list(convert.layers(path)) == ["l"]
    hanging(path)
    if ending == ".keras":
        with zipfile.ZipFile(tmp_path / "model.keras", "w") as file:
            file.writestr("config.json", "{}")
            file.write(path, "model.weights.h5")
        path = tmp_path / "model.keras"
    refused(path, r"not read within 1 seconds, .* the HDF5 library hangs")


@pytest.mark.skipif(not CHARS2VEC.exists(), reason="../shared/data/models/chars2vec is absent")
def test_chars2vec_with_four_bytes_changed(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    shutil.copyfile(CHARS2VEC, path)
    data = bytearray(path.read_bytes())
    data[2054:2058] = b"\xff\xff\xff\x7f"
    path.write_bytes(data)
    refused(path, "not read within 5 seconds")


def test_keras_is_given_no_file_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute that gatewise does not read, and Keras does, in a heap of its own."""
    pytest.importorskip("keras")
    monkeypatch.setattr(apart, "SILENCE", 1.0)
    path = write(tmp_path / "m.h5", {"l": weights(4, 4, 3)}, CONFIG)
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["backend"] = "tensorflow" * 600
        file["room"] = np.zeros(1 << 16, "u1")
    found = convert.read(path)
    assert convert.prove(found, path).differences
    hanging(path, path.read_bytes().count(b"GCOL") - 1)
    convert.read(path)
    proof = convert.prove(found, path)
    assert not proof.differences
    assert "not read within" in "".join(proof.unproved)


def test_what_keras_is_given_is_the_same_file(tmp_path: Path) -> None:
    bfloat16 = np.array([0x3FC0, 0xC000], "<u2").view("V2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = [b"l", b"mm"]
        file.attrs["keras_version"] = "3.0.0"
        file.attrs["count"] = np.arange(3)
        file.attrs["long"] = "x" * 100_000
        file["layers/lstm/cell/vars/0"] = np.arange(6, dtype=">f4").reshape(2, 3)
        file["layers/lstm/cell/vars/1"] = np.float64(3)
        file["layers/lstm/cell/vars/2"] = np.zeros((0, 3), "i8")
        file["layers/lstm/cell/vars"].attrs["name"] = "l"
        file["half"] = bfloat16
        file["half"].attrs["dtype"] = "bfloat16"
        file.create_dataset("packed", data=np.ones((300, 30), "f4"), compression="gzip", shuffle=True)
        file.create_group("empty")
    with open(tmp_path / "a.h5", "rb") as source:
        apart.copy(source, "a.h5", tmp_path / "b.h5")

    def content(path: Path) -> dict[str, Any]:
        made: dict[str, Any] = {}

        def visit(name: str, item: Any) -> None:
            array = np.asarray(item[()]) if isinstance(item, h5py.Dataset) else None
            attributes = {k: (type(v), np.asarray(v).tolist()) for k, v in item.attrs.items()}
            made[name] = (None if array is None else (array.shape, array.dtype.name, array.tolist()), attributes)

        with h5py.File(path) as file:
            visit("", file)
            file.visititems(visit)
        return made

    assert content(tmp_path / "a.h5") == content(tmp_path / "b.h5")
    assert len(content(tmp_path / "a.h5")) == 11


@pytest.mark.parametrize(
    ("fill", "match"),
    [
        (lambda f: f.attrs.create("at", f.ref, dtype=h5py.ref_dtype), "at is of object, expected text or numbers"),
        (lambda f: f.attrs.__setitem__("at", np.zeros(1, [("a", "f4")])), "expected text or numbers"),
        (lambda f: f.__setitem__("text", "hello"), "text is of object, expected numbers"),
        (lambda f: f.__setitem__("link", h5py.SoftLink("/l")), "a soft link"),
    ],
)
def test_what_is_not_copied_is_refused(fill: Callable[[Any], None], match: str, honest: Path, tmp_path: Path) -> None:
    with h5py.File(honest, "a") as file:
        fill(file)
    with open(honest, "rb") as source, pytest.raises(InputError, match=match):
        apart.copy(source, honest.name, tmp_path / "copy.h5")


# --- what a process may do ---------------------------------------------------------------------------

READY = "print('{\"ready\": true}', flush=True)\n"
HEAD = READY + 'print(\'{"config": null, "version": "", "flat": true}\', flush=True)\n'
OWNER = HEAD + 'print(\'{"owner": "l", "label": ""}\', flush=True)\n'


def array(dtype: str, shape: str, data: str = "") -> str:
    return (
        f'{OWNER}print(\'{{"array": "kernel", "dtype": "{dtype}", "shape": {shape}}}\', {data!r}, sep="\\n", end="")\n'
    )


@pytest.mark.parametrize(
    ("program", "match"),
    [
        ("import time; time.sleep(60)", "not read within|started none within 1 seconds"),
        ("raise SystemExit(3)", "started none"),
        ("import nothing_of_that_name", "started none: .*nothing_of_that_name"),
        ("print('usage: a program')", "started none"),
        (READY + "import time; time.sleep(60)", "not read within 1 seconds"),
        (OWNER + "import time; time.sleep(60)", "not read within 1 seconds"),
        (HEAD + 'while True: print(\'{"group": "a"}\', flush=True)', "not read within 2 seconds"),
        (READY, "crashed on it, with code 0"),
        (OWNER + "import os; os.abort()", "crashed on it, with code"),
        (OWNER + "import os; os.kill(os.getpid(), 11)", "crashed on it, with code"),
        (READY + "raise ValueError('a\\nreason')", "crashed on it, with code 1: .*a reason"),
        (READY + "print('hello')", "says what it should not"),
        (READY + "import sys; sys.stdout.buffer.write(b'\\xff\\x00\\n')", "says what it should not"),
        (READY + "print('[' * 100_000)", "says what it should not"),
        (READY + "print([])", "says what it should not"),
        (READY + 'print(\'{"config": 3, "version": "", "flat": true}\')', "says what it should not"),
        (READY + "print('{\"end\": true}')", "says what it should not"),
        (HEAD + 'print(\'{"array": "a", "dtype": "float32", "shape": []}\')', "says what it should not"),
        (HEAD + "print('{\"else\": 1}')", "says what it should not"),
        (OWNER + 'print(\'{"owner": "l", "label": ""}\')', "two layers of it are called l"),
        (array("object", "[2]", "12345678"), "says what it should not"),
        (array("float32", "[-2]"), "says what it should not"),
        (array("float32", "[true]"), "says what it should not"),
        (array("float32", "[2.0]"), "says what it should not"),
        (array("float32", "[1099511627776]"), "says what it should not"),
        (array("float32", f"{[1] * 60}"), "says what it should not"),
        (array("float32", "[2]", "1234"), "crashed on it"),
        (READY + 'print(\'{"refused": "a\\\\nb \\\\udcff"}\')', r"honest.h5: a b .udcff$"),
    ],
)
def test_a_process_that_hangs_dies_or_babbles(
    program: str, match: str, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stub.py").write_text(program)
    monkeypatch.setattr(hdf5, "__file__", str(tmp_path / "stub.py"))
    monkeypatch.setattr(apart, "SILENCE", 1.0)
    monkeypatch.setattr(apart, "ALL", 2.0)
    if "time" in program:
        monkeypatch.setattr(apart, "START", 1.0 if program.startswith("import time") else 60.0)
    refused(honest, match)


def test_no_more_memory_than_fits_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("no limit of memory here")
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"], file.attrs["keras_version"] = [b"l"], b"2.2.4"
        file.create_group("l").attrs["weight_names"] = [b"kernel"]
        file["l"].create_dataset("kernel", data=np.zeros((4000, 4000), "f4"), compression="gzip")
    with open(path, "rb") as source:
        assert apart.read(source, "w.h5").arrays["l"][0][1].shape == (4000, 4000)
        monkeypatch.setattr(hdf5, "FLOOR", 1 << 22)  # in this process alone: the other one is told what it may take
        with pytest.raises(InputError, match=r"needs more memory than|cannot be read"):
            apart.read(source, "w.h5")


def test_nothing_is_left_behind(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(apart, "SILENCE", 1.0)
    bad = hanging(with_strings(tmp_path / "bad.h5"))
    cut = tmp_path / "cut.h5"
    cut.write_bytes(honest.read_bytes()[:2000])
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as file:
        file.writestr("config.json", "{}")
        file.write(honest, "model.weights.h5")

    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def counted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", counted)

    def state() -> tuple[int, int, list[str]]:
        files = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
        return files, threading.active_count(), os.listdir(folder)

    convert.load(honest)
    before = state()
    for path in (honest, bad, cut, tmp_path / "m.keras"):
        if path == honest:
            convert.load(path)
        else:
            with pytest.raises(InputError):
                convert.load(path)
        assert state() == before, path
    assert len(started) == 5
    if os.name == "posix":
        for process in started:
            with pytest.raises(ChildProcessError):  # it was waited for
                os.waitpid(process.pid, os.WNOHANG)


# --- where it is called ------------------------------------------------------------------------------


def test_nothing_of_the_working_folder_is_imported(
    honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    evil = f"open({str(tmp_path / 'imported')!r}, 'w')"
    for name in ("h5py", "numpy", "json", "faulthandler", "gatewise", "sitecustomize", "usercustomize"):
        (folder / f"{name}.py").write_text(evil)
    for name in ("h5py", "numpy"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(evil)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", ".", str(folder), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHONSTARTUP", str(folder / "json.py"))
    assert isinstance(convert.load(honest), torch.nn.Module)
    assert not (tmp_path / "imported").exists()


SCRIPT = """
import io, os, signal, sys
with open({log!r}, "a") as file:
    file.write("run\\n")
from gatewise import convert

def load(what):
    os.write(1, f"{{what}}: {{type(convert.load({path!r})).__name__}}\\n".encode())

load("as it is")
sys.stdin = None
load("no stdin")
sys.stdin = sys.stdout = io.StringIO()
load("as a notebook has it")
os.close(0)
load("closed")
if os.name == "posix":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    load("children that nobody waits for")
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")
load("no working folder")
"""


def test_a_script_without_a_guard_runs_once(honest: Path, tmp_path: Path) -> None:
    log, script = tmp_path / "log", tmp_path / "script.py"
    script.write_text(SCRIPT.format(log=str(log), path=str(honest)))
    done = subprocess.run(
        [sys.executable, script], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == ["Sequential"] * 6
    assert log.read_text() == "run\n"


def test_threads(honest: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(honest.read_bytes()[:2000])
    results: list[Any] = [None] * 6

    def work(k: int) -> None:
        try:
            results[k] = convert.load(cut if k % 2 else honest)
        except InputError as error:
            results[k] = error

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [isinstance(r, InputError) for r in results] == [False, True] * 3, results


@pytest.mark.parametrize("executable", [None, "", "/usr/sbin/uwsgi", "/nowhere/python3", "frozen"])
def test_without_a_python_it_says_so(executable: Any, honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if executable == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", executable)
    refused(honest, "read in a process of its own, and .*(sys.executable|does not start)")


def test_the_program_imports_no_torch() -> None:
    """Python, numpy and h5py start in tenths of a second, torch in seconds."""
    code = (
        f"import runpy, sys; sys.path += sys.argv[1:]; import h5py; runpy.run_path({hdf5.__file__!r}); "
        "print([m for m in sys.modules if m.partition('.')[0] in ('torch', 'gatewise')])"
    )
    command = [sys.executable, "-I", "-S", "-c", code, *apart._folders()]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- honest files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u2", "i8", ">i4", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_come_as_they_are(dtype: str, shape: tuple[int, ...], tmp_path: Path, warm_reader: None) -> None:
    numbers = np.asarray(np.random.default_rng(0).normal(0, 9, shape))
    expected = torch.tensor(numbers if dtype == "bfloat16" else numbers.astype(dtype).astype("f8"))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if dtype == "bfloat16":
            expected = expected.bfloat16()
            file["lstm/vars/0"] = expected.view(torch.int16).numpy()
            file["lstm/vars/0"].attrs["dtype"] = "bfloat16"
        else:
            file["lstm/vars/0"] = numbers.astype(dtype)
            names = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64}
            expected = expected.to(names.get(dtype.lstrip(">"), torch.get_default_dtype()))
    with open(tmp_path / "a.h5", "rb") as source:
        ((name, found),) = apart.read(source, "a.h5").arrays["lstm"]
    assert name == "0"
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def big(path: Path, rows: int) -> list[np.ndarray[Any, Any]]:
    arrays = [np.random.default_rng(k).random((rows, 1024), np.float32) for k in range(4)]
    with h5py.File(path, "w") as file:
        for k, numbers in enumerate(arrays):
            file[f"lstm/vars/{k}"] = numbers
    return arrays


def test_a_large_file_comes_whole(tmp_path: Path) -> None:
    arrays = big(tmp_path / "a.h5", 2560)  # 40 MB
    with open(tmp_path / "a.h5", "rb") as source:
        found = apart.read(source, "a.h5").arrays["lstm"]
    assert all(np.array_equal(f.numpy(), a) for (_, f), a in zip(found, arrays, strict=True))


@pytest.mark.slow
def test_a_large_file_takes_about_as_long_as_in_this_process(tmp_path: Path) -> None:
    big(tmp_path / "a.h5", 12800)  # 200 MB

    def here() -> None:
        with h5py.File(tmp_path / "a.h5") as file:
            for k in range(4):
                torch.from_numpy(file[f"lstm/vars/{k}"][()])

    def there() -> None:
        with open(tmp_path / "a.h5", "rb") as source:
            apart.read(source, "a.h5")

    times: dict[Callable[[], None], list[float]] = {here: [], there: []}
    for _ in range(5):
        for read, seconds in times.items():
            started = time.monotonic()
            read()
            seconds.append(time.monotonic() - started)
    assert min(times[there]) < 10 * min(times[here]) + 2
    # The limit is a hundred times what it takes.
    assert min(times[there]) < (apart.SILENCE + 200) / 20


@pytest.mark.slow
def test_many_small_layers_are_no_hang(tmp_path: Path) -> None:
    """A group's names were listed once for each of them: 5000 layers took minutes."""
    layers = {f"d{k}": {"kernel": np.ones((1, 1), "f4")} for k in range(5000)}
    path = write(tmp_path / "m.h5", {**layers, "l": weights(4, 4, 3)}, split=True)
    assert list(convert.layers(path)) == ["l"]
