"""A small app for tests, run as `python instance.py ADDRESS NAME LEDGER`: gives its name, applies each POST once.

ADDRESS is `127.0.0.1:PORT` or the path of a Unix socket. On TERM it stops accepting, ends what it is answering, closes
idle connections and exits: what a server that drains does.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import sys

NAME, LEDGER = sys.argv[2], sys.argv[3]
idle: set[asyncio.StreamWriter] = set()
busy = 0
stopping = asyncio.Event()


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body
    return await reader.readexactly(int(headers.get("content-length", "0")))


def answer(status: int, body: bytes, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: text/plain"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (b"" if status in (204, 304) else body)


async def echo_frames(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())  # noqa: S324
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    while block := await reader.read(4096):
        writer.write(NAME.encode() + b":" + block)
        await writer.drain()


async def respond(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str]
) -> bool:
    """Answer one request; False ends the connection."""
    if headers.get("upgrade") == "websocket":
        await echo_frames(reader, writer, headers["sec-websocket-key"])
        return False
    body = await read_body(reader, headers)
    if path.startswith("/slow"):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(8):
            writer.write(f"{len(NAME):x}\r\n{NAME}\r\n".encode())
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(b"0\r\n\r\n")
    elif path.startswith("/status/"):
        writer.write(answer(int(path.rsplit("/", 1)[1]), b"as you wish"))
    elif path == "/headers":
        writer.write(answer(200, json.dumps(headers).encode(), X_Oroboros_Release="r", X_Oroboros_Nonce="n"))
    elif path == "/length":
        writer.write(answer(200, str(len(body)).encode()))
    elif method == "POST":
        # One write in append mode: whole lines, whoever else writes.
        ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(ledger, body + b"\n")
        os.close(ledger)
        writer.write(answer(200, NAME.encode()))
    else:
        writer.write(answer(200, NAME.encode(), X_Path=path))
    await writer.drain()
    return True


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global busy
    try:
        while not stopping.is_set():
            idle.add(writer)
            line = await reader.readline()
            idle.discard(writer)
            if not line:
                break
            busy += 1
            try:
                method, path, _ = line.decode("latin-1").split(" ")
                headers: dict[str, str] = {}
                while (header := (await reader.readline()).decode("latin-1").strip()) != "":
                    key, _, value = header.partition(":")
                    headers[key.lower()] = value.strip()
                if not await respond(reader, writer, method, path, headers):
                    break
            finally:
                busy -= 1
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        idle.discard(writer)
        writer.close()


async def main() -> None:
    address = sys.argv[1]
    if address.startswith("/"):
        server = await asyncio.start_unix_server(serve, address)
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", int(address.rpartition(":")[2]), reuse_address=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    server.close()
    for _ in range(300):
        for writer in list(idle):
            writer.close()
        if busy == 0:
            break
        await asyncio.sleep(0.01)
    os._exit(0)


asyncio.run(main())
