"""A small shop: counts its visits in Postgres. It knows nothing of Oroboros but three environment values."""

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

RELEASE = os.environ["OROBOROS_RELEASE"]
NONCE = os.environ["OROBOROS_NONCE"]

lock = threading.Lock()
connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)


def visits(*, add: bool) -> int:
    """Count the visits, after adding one if asked."""
    with lock:
        if add:
            connection.execute("INSERT INTO visits DEFAULT VALUES")
        row = connection.execute("SELECT count(*) FROM visits").fetchone()
        return row[0] if row is not None else 0


class Shop(BaseHTTPRequestHandler):
    """GET /api/health, GET and POST /api/visits."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        if self.path in ("/api/health", "/api/visits"):
            self.answer(200, {"visits": visits(add=False), "release": RELEASE})
        else:
            self.answer(404, {"error": "no such page"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/visits":
            self.answer(201, {"visits": visits(add=True), "release": RELEASE})
        else:
            self.answer(404, {"error": "no such page"})

    def answer(self, status: int, value: dict[str, object]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        # Proof that this very process of this very release answers; the surface takes it off again.
        self.send_header("X-Oroboros-Release", RELEASE)
        self.send_header("X-Oroboros-Nonce", NONCE)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The surface writes the access log."""


server = ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Shop)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("shop open", flush=True)
server.serve_forever()
