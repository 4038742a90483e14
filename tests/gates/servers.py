"""Backends that answer badly on purpose: `python servers.py KIND PORT`, or a path instead of the port."""

import contextlib
import os
import socket
import sys
import time

kind, where = sys.argv[1], sys.argv[2]
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Oroboros-Release: %s\r\nX-Oroboros-Nonce: %s\r\n\r\nok"


def good() -> bytes:
    return GOOD % (os.environ.get("OROBOROS_RELEASE", "").encode(), os.environ.get("OROBOROS_NONCE", "").encode())


if kind == "never-binds":
    time.sleep(60)
if where.startswith("/"):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
else:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind == "shared":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", int(where)))
listener.listen(64)
print("listening", flush=True)
if kind == "binds-then-exits":
    time.sleep(0.2)
    print("cannot find the frobnicator", flush=True)
    sys.exit(7)
count = 0
while True:
    connection, _ = listener.accept()
    count += 1
    with contextlib.suppress(OSError), connection:
        request = connection.recv(65536).decode("latin-1")
        if kind in ("good", "shared") or (kind == "flapping" and count % 3):
            connection.sendall(good())
        elif kind == "flapping":
            connection.sendall(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
        elif kind == "echo-204":
            connection.sendall(good().replace(b"200 OK\r\nContent-Length: 2", b"204 X").removesuffix(b"ok"))
        elif kind == "earlier-surface":
            said = b'{"slot": "main", "state": "live", "release": "%s", "healthy": true}'
            body = said % os.environ["OROBOROS_RELEASE"].encode() if " /health " in request else b"page"
            status = b"404 X" if "/.well-known/" in request else b"200 OK"
            connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        elif kind == "allowed-hosts":
            said = dict(line.lower().split(": ", 1) for line in request.split("\r\n")[1:] if line)
            scheme, _, host = os.environ["OROBOROS_URL"].partition("://")
            if (said["host"], said["x-forwarded-host"]) != (host, host):
                connection.sendall(b"HTTP/1.1 400 DisallowedHost\r\nContent-Length: 0\r\n\r\n")
            elif said["x-forwarded-proto"] != scheme:
                connection.sendall(b"HTTP/1.1 301 X\r\nContent-Length: 0\r\nLocation: /\r\n\r\n")
            else:
                connection.sendall(good())
        elif kind.isdigit():
            connection.sendall(f"HTTP/1.1 {kind} X\r\nContent-Length: 0\r\nLocation: /elsewhere\r\n\r\n".encode())
        elif kind == "hang":
            time.sleep(60)
        elif kind == "endless":
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(b"x" * 65536)
        elif kind == "endless-chunked":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        elif kind == "huge":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
            time.sleep(60)
        elif kind == "drip":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                connection.sendall(b"x")
                time.sleep(0.05)
        elif kind == "drip-head":
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                connection.sendall(b"x")
                time.sleep(0.02)
        elif kind == "endless-head":
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                connection.sendall(b"X: " + b"x" * 60000 + b"\r\n")
        elif kind == "announced":
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + good())
        elif kind == "only-announced":
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20)
        elif kind == "chunked":
            head, _, _ = (
                good().replace(b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n").partition(b"\r\n\r\n")
            )
            connection.sendall(head + b"\r\n\r\n7;x=y\r\n0\r\n\r\nab\r\n")
            time.sleep(0.02)
            connection.sendall(b"3\r\ncde\r\n0\r\nX-Trailer: t\r\n\r\n")
            time.sleep(0.1)  # the connection stays open: the end is in the bytes
        elif kind == "cut":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        elif kind == "doubled":
            connection.sendall(
                good().replace(b"\r\nX-Oroboros-Nonce", b"\r\nX-Oroboros-Release: f\r\nX-Oroboros-Nonce")
            )
        elif kind == "not-http":
            connection.sendall(b"hello there\r\n\r\n")
        elif kind == "old":
            connection.sendall(GOOD % (b"f" * 40, b"0" * 32))
