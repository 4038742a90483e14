"""A steady load on a host's edge, as a program that runs there: GETs and POSTs, each over a connection of its own.

    steady_load.py FILE

Asks until FILE is there, and prints one JSON object: how many were asked, which failed, and how long the slowest took.
Nothing is asked twice. The receiver's secret is read from the host's own configuration.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import sys
import threading
import time
from pathlib import Path

SECRETS = Path("/etc/oroboros/webhook-secrets")
EVERY_S = 0.03
TIMEOUT_S = 30.0


def main(end: Path) -> None:
    """Ask until told to end."""
    secret = SECRETS.read_text().split()[0].encode()
    failed: list[str] = []
    took_s: list[float] = []

    def webhook() -> tuple[bytes, dict[str, str]]:
        body = json.dumps({"zen": time.time()}).encode()
        signature = hmac.new(secret, body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "ping",
            "X-GitHub-Delivery": hashlib.sha256(body).hexdigest()[:32],
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        return body, headers

    def ask(host: str, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        begin = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", 8088, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body=body, headers={"Host": f"{host}.example.com", **headers})
            answer = connection.getresponse()
            answer.read()
            said = "" if answer.status in (200, 202) else str(answer.status)
        except (OSError, http.client.HTTPException) as error:
            said = repr(error)
        finally:
            connection.close()
        took_s.append(time.monotonic() - begin)
        if said:
            failed.append(f"{time.strftime('%H:%M:%S')} {method} {host}{path}: {said}")

    def line(host: str, method: str, path: str) -> None:
        while not end.exists():
            body, headers = webhook() if host == "api" else (b"posted" if method == "POST" else None, {})
            ask(host, method, path, body, headers)
            time.sleep(EVERY_S)

    lines = [(host, method, "/") for host in ("app", "preview1") for method in ("GET", "POST")]
    # The last one takes a second to answer, so that a restart meets a request under way.
    lines += [("api", "POST", "/webhooks/github"), ("app", "GET", "/do")]
    threads = [threading.Thread(target=line, args=words) for words in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"asked": len(took_s), "failed": failed, "slowest_s": round(max(took_s), 2)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
