"""An app whose behaviour is a file of its release: `ok`, `500`, `exit`, `exit-after:S`, `bad-after:S`, `slow:S`."""

import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

kind, _, number = Path("behaviour").read_text().strip().partition(":")
seconds = float(number or 0)
began = time.monotonic()

if kind == "exit":
    print("cannot go on: the frobnicator is missing", flush=True)
    sys.exit(3)
if kind == "slow":
    time.sleep(seconds)


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        age_s = time.monotonic() - began
        if kind == "exit-after" and age_s > seconds:
            print("the disk of the frobnicator is full", flush=True)
            os._exit(4)
        bad = kind == "500" or (kind == "bad-after" and age_s > seconds)
        body = os.environ["OROBOROS_RELEASE"].encode()
        self.send_response(500 if bad else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), App).serve_forever()
