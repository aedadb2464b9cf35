import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.fetch import FetchError, download
from harness.progress import SilentProgress

CONTENT = bytes(range(256)) * 4000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """/file: with ranges. /plain: without. /short: ends too early."""

    ranges: list[str | None]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.ranges.append(wanted)
        if self.path not in {"/file", "/plain", "/short"}:
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.path == "/file" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : 1000 if self.path == "/short" else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def running() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def server(running: str) -> str:
    Handler.ranges = []
    return running


def get(url: str, out: Path, sha256: str = SHA) -> None:
    download(url, sha256, out, SilentProgress())


def test_whole_file(server: str, tmp_path: Path) -> None:
    get(f"{server}/file", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_goes_on_where_it_stopped(server: str, tmp_path: Path) -> None:
    (tmp_path / "out.part").write_bytes(CONTENT[:70000])
    get(f"{server}/file", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert Handler.ranges == ["bytes=70000-"]


def test_a_server_without_ranges_starts_over(server: str, tmp_path: Path) -> None:
    (tmp_path / "out.part").write_bytes(CONTENT[:70000])
    get(f"{server}/plain", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_a_part_that_is_whole_already(server: str, tmp_path: Path) -> None:
    (tmp_path / "out.part").write_bytes(CONTENT)
    get(f"{server}/file", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_a_part_of_something_else_is_thrown_away(server: str, tmp_path: Path) -> None:
    (tmp_path / "out.part").write_bytes(b"x" * 70000)
    get(f"{server}/file", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert Handler.ranges == ["bytes=70000-", None]


def test_what_came_of_a_broken_connection_is_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="1000 of 1024000 bytes"):
        get(f"{server}/short", tmp_path / "out")
    assert (tmp_path / "out.part").read_bytes() == CONTENT[:1000]
    assert not (tmp_path / "out").exists()


def test_wrong_content_is_refused_and_not_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=f"has sha256 {SHA}, wanted {'0' * 64}"):
        get(f"{server}/file", tmp_path / "out", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_reasons(server: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="HTTP 404"):
        get(f"{server}/gone", tmp_path / "out")
    with pytest.raises(FetchError, match="refused"):
        get("http://127.0.0.1:1/file", tmp_path / "out")
