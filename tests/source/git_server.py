"""A tiny git server on loopback for tests: smart HTTP by `git http-backend`, and servers that misbehave."""

from __future__ import annotations

import base64
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from tests.source.objects import GIT_ENVIRONMENT, git


class GitServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.backend = Path(git("--exec-path")) / "git-http-backend"
        #: What misbehaves: "redirect", "drip", "endless", "500"; "" serves.
        self.mode = ""
        self.location = ""
        self.token = ""
        self.requests: list[str] = []
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/app.git"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: GitServer
    modes: ClassVar[tuple[str, ...]] = ("redirect", "drip", "endless", "500")

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        return

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self._chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        self.server.requests.append(self.path)
        try:
            self._respond(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _respond(self, body: bytes) -> None:
        match self.server.mode:
            case "redirect":
                self._plain(302, {"Location": self.server.location})
            case "500":
                self._plain(500, {})
            case "drip":
                self._stream(b"0", pause_s=0.05)
            case "endless" if self.path.endswith("git-upload-pack") and b"command=fetch" in body:
                self._stream_pack()
            case _:
                self._serve(body)

    def _plain(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _start_stream(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def _stream(self, part: bytes, *, pause_s: float) -> None:
        self._start_stream("application/x-git-upload-pack-advertisement")
        until = time.monotonic() + 60
        while time.monotonic() < until and not self.server.stopping.wait(pause_s):
            self.wfile.write(part)
            self.wfile.flush()

    def _stream_pack(self) -> None:
        """A pack that says it has many objects and whose first blob never ends."""
        self._start_stream("application/x-git-upload-pack-result")
        self._packet(b"packfile\n")
        # PACK, version 2, 10,000 objects; a stored (not deflated) blob of a very large size.
        self._packet(b"\x01PACK\0\0\0\x02\0\0\x27\x10")
        self._packet(b"\x01\xbf\xff\xff\xff\xff\x07\x78\x01")
        stored = b"\x00\xff\xff\x00\x00" + b"x" * 65535
        until = time.monotonic() + 60
        while time.monotonic() < until and not self.server.stopping.is_set():
            for start in range(0, len(stored), 60_000):
                self._packet(b"\x01" + stored[start : start + 60_000])

    def _packet(self, body: bytes) -> None:
        self.wfile.write(b"%04x" % (len(body) + 4) + body)

    def _serve(self, body: bytes) -> None:
        expected = "Basic " + base64.b64encode(f"x-access-token:{self.server.token}".encode()).decode()
        if self.server.token and self.headers.get("Authorization") != expected:
            self._plain(401, {"WWW-Authenticate": 'Basic realm="git"'})
            return
        path, _, query = self.path.partition("?")
        environment = {
            **GIT_ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(self.server.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run([str(self.server.backend)], input=body, capture_output=True, env=environment, timeout=30)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        status = 200
        headers: dict[str, str] = {}
        for line in head.decode().split("\r\n"):
            name, _, value = line.partition(": ")
            if name == "Status":
                status = int(value.split()[0])
            else:
                headers[name] = value
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
