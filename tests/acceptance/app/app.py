"""An app whose behaviour is a file of its release: `ok`, `500`, `exit`, `waits:FILE`, `turns-bad`, `turns-exit`.

One starts once a file is there, two are good until a POST turns them: what a test waits for depends on no clock.
"""

import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

kind, _, file = Path("behaviour").read_text().strip().partition(":")
turned = threading.Event()

if kind == "exit":
    print("cannot go on: the frobnicator is missing", flush=True)
    sys.exit(3)
while kind == "waits" and not Path(file).exists():
    time.sleep(0.02)


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        if kind == "turns-exit" and turned.is_set():
            print("the disk of the frobnicator is full", flush=True)
            os._exit(4)
        bad = kind == "500" or (kind == "turns-bad" and turned.is_set())
        self.answer(500 if bad else 200)

    def do_POST(self) -> None:
        turned.set()
        self.answer(200)

    def answer(self, status: int) -> None:
        body = os.environ["OROBOROS_RELEASE"].encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), App).serve_forever()
