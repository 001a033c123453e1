"""Files of HDF5 in a hundredth of the time: stands for `subprocess` in gatewise/convert/keras/apart.py.

There each file takes a Python that starts, with numpy and h5py: 0.25 s and more. Tests with hundreds of files fork off
one that has started. It runs the very same program on the same standard input and output, and can be killed as well.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any, BinaryIO

from gatewise.convert.keras import apart, hdf5

PIPE = subprocess.PIPE

SERVER = """
import importlib.util, json, os, socket, sys, traceback
there, program, folders = socket.socket(fileno=int(sys.argv[1])), sys.argv[2], json.loads(sys.argv[3])
sys.path += folders
import h5py, numpy
spec = importlib.util.spec_from_file_location("hdf5", program)
hdf5 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hdf5)
while True:
    length, files, _, _ = socket.recv_fds(there, 8, 3)
    if not length:
        break
    task = b""
    while len(task) < int.from_bytes(length, "little"):
        task += there.recv(1 << 16)
    child = os.fork()
    if not child:
        for k, file in enumerate(files):
            os.dup2(file, k)
        sys.argv = [program, task.decode()]
        try:
            hdf5.main()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    for file in files:
        os.close(file)
    there.sendall(child.to_bytes(8, "little"))
    there.recv(1)  # the child is to be reaped
    _, status = os.waitpid(child, 0)
    there.sendall((os.waitstatus_to_exitcode(status) + 1000).to_bytes(8, "little"))
"""


class Server:
    """The Python that has started, from the first use on."""

    connection: socket.socket | None = None

    @classmethod
    def get(cls) -> socket.socket:
        if cls.connection is None:
            ours, theirs = socket.socketpair()
            arguments = [str(theirs.fileno()), hdf5.__file__, json.dumps(apart._folders())]
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", SERVER, *arguments],
                pass_fds=[theirs.fileno()], env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            theirs.close()
            cls.connection = ours

            def stop() -> None:
                ours.close()
                process.wait()

            atexit.register(stop)
        return cls.connection


class Popen:
    """What apart.py uses of subprocess.Popen; one at a time."""

    def __init__(self, command: list[str], *, stdin: BinaryIO, stderr: BinaryIO, **_: Any) -> None:
        assert command[1:4] == ["-I", "-S", hdf5.__file__]
        self.server, self.code = Server.get(), None
        reading, writing = os.pipe()
        task = command[4].encode()
        socket.send_fds(self.server, [len(task).to_bytes(8, "little")], [stdin.fileno(), writing, stderr.fileno()])
        os.close(writing)
        self.server.sendall(task)
        self.pid = int.from_bytes(self.server.recv(8, socket.MSG_WAITALL), "little")
        self.stdout = os.fdopen(reading, "rb")

    def kill(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self.code is None:
            self.server.sendall(b".")
            self.code = int.from_bytes(self.server.recv(8, socket.MSG_WAITALL), "little") - 1000
        return self.code
