import hashlib
import http.server
import threading

import pytest

from gatewise.errors import InputError
from gatewise.tasks import download
from gatewise.tasks.download import fetch

CONTENT = bytes(range(256)) * 2000
SHA1 = hashlib.sha1(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `ranges` says whether it honours Range, `breaks` after how many bytes each answer breaks off."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges, self.content, self.status = True, CONTENT, None
        self.breaks: list[int] = []
        self.asked: list[str | None] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/folder/file.txt"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.status:
            self.send_error(server.status)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if wanted and server.ranges else 200)
        if wanted and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_downloaded_once(server, tmp_path):
    for _ in range(2):
        assert fetch(server.url, SHA1, tmp_path / "new").read_bytes() == CONTENT
    assert server.asked == [None]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.txt"]


def test_a_transfer_that_breaks_off_goes_on_from_there(server, tmp_path):
    server.breaks = [100_000, 50_000]
    assert fetch(server.url, SHA1, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.ranges, server.breaks = False, [100_000]
    assert fetch(server.url, SHA1, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]


def test_what_came_is_kept_for_the_next_call(server, tmp_path):
    server.breaks = [1000] * download.ATTEMPTS
    with pytest.raises(InputError, match=r"failed .* after 3000 bytes, which are kept"):
        fetch(server.url, SHA1, tmp_path)
    assert fetch(server.url, SHA1, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=3000-"


def test_a_rest_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "file.txt.part").write_bytes(b"x" * (len(CONTENT) + 1))
    assert fetch(server.url, SHA1, tmp_path).read_bytes() == CONTENT


def test_a_wrong_file_is_refused_and_not_kept(server, tmp_path):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(InputError, match=f"expected {SHA1}: .* does not serve the expected file"):
        fetch(server.url, SHA1, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_in_the_folder_is_refused_and_left_alone(server, tmp_path):
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(InputError, match="delete it to download it anew"):
        fetch(server.url, SHA1, tmp_path)
    assert (tmp_path / "file.txt").read_text() == "mine"
    assert server.asked == []


def test_refusals_are_not_asked_again_but_overload_is(server, tmp_path):
    for status, attempts in [(404, 1), (503, download.ATTEMPTS)]:
        server.asked, server.status = [], status
        with pytest.raises(InputError, match=f"HTTP Error {status}"):
            fetch(server.url, SHA1, tmp_path)
        assert len(server.asked) == attempts


def test_no_server_at_all_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"downloading http://127\.0\.0\.1:9/file failed"):
        fetch("http://127.0.0.1:9/file", SHA1, tmp_path)
