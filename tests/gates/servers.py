"""Backends that answer badly on purpose: `python servers.py KIND PORT`."""

import contextlib
import os
import socket
import sys
import time

kind, port = sys.argv[1], int(sys.argv[2])
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Oroboros-Release: %s\r\nX-Oroboros-Nonce: %s\r\n\r\nok"


def good() -> bytes:
    return GOOD % (os.environ.get("OROBOROS_RELEASE", "").encode(), os.environ.get("OROBOROS_NONCE", "").encode())


if kind == "never-binds":
    time.sleep(60)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", port))
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
        connection.recv(65536)
        if kind == "good" or (kind == "flapping" and count % 3):
            connection.sendall(good())
        elif kind == "flapping":
            connection.sendall(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
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
        elif kind == "not-http":
            connection.sendall(b"hello there\r\n\r\n")
        elif kind == "old":
            connection.sendall(GOOD % (b"f" * 40, b"0" * 32))
