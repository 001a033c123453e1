"""Downloads into a cache folder: resumed where they broke off, and refused where the sum is wrong."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from gatewise.errors import InputError

CACHE = Path.home() / ".cache" / "gatewise"
ATTEMPTS = 3
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 16


def fetch(url: str, sha1: str, folder: Path | None = None) -> Path:
    """The local copy of a file, downloaded where it is not there yet.

    What has arrived is kept in `NAME.part`, so that a download that broke off goes on from there, in the
    next attempt or in the next call; a server that cannot do so starts again.

    Args:
        url: the file's address; its last part is the local name.
        sha1: the SHA-1 of the right content, as hexadecimal digits.
        folder: where the file is or will be; None means `~/.cache/gatewise`.

    Raises:
        InputError: the server cannot be reached, the transfer keeps breaking off, or the content is not
            the right one, be it the server's or that of a file that was there.
        OSError: the folder cannot be written.
    """
    path = (folder or CACHE) / url.rpartition("/")[2]
    if path.exists():
        _check(path, sha1, f"delete it to download it anew, or name another folder than {path.parent}")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    _receive(url, part, path)
    try:
        _check(part, sha1, f"{url} does not serve the expected file; put the right one at {path}")
    except InputError:
        part.unlink()
        raise
    os.replace(part, path)
    return path


def _receive(url: str, part: Path, path: Path) -> None:
    """Fill `part` with all of the file, in as many attempts as it takes, up to `ATTEMPTS`."""
    reason: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            _transfer(url, part)
            return
        except urllib.error.HTTPError as error:
            reason = error
            error.close()
            if error.code == 416:  # what is there does not fit the server's file (any more)
                part.unlink(missing_ok=True)
            elif error.code < 500:
                break
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = error
    got = part.stat().st_size if part.exists() else 0
    raise InputError(
        f"downloading {url} failed ({reason}) after {got} bytes, which are kept: try again, or put the file at {path}"
    ) from reason


def _transfer(url: str, part: Path) -> None:
    """One attempt: ask for the bytes that are missing, append them."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        expected = response.headers.get("Content-Length")
        received = 0
        with open(part, "ab" if goes_on else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                received += len(chunk)
    if expected is not None and received != int(expected):  # read() in chunks does not notice a broken-off body
        raise http.client.IncompleteRead(b"", int(expected) - received)


def _check(path: Path, sha1: str, fix: str) -> None:
    found = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
    if found != sha1:
        raise InputError(f"{path} has the SHA-1 {found}, expected {sha1}: {fix}")
