"""How many requests does a switch lose under load, and how many files does it mix: ours beside Caddy's usual ways?

    python tests/bench/bench_switch.py [--rounds 5]

Ours: the rename of `live`, read by a surface that is told nothing. Peers, the same Caddy binary in the same run:
its admin API (PATCH of the upstream) for instances, and a `file_server` through a link that is replaced, for files.
Same instances, same traffic (GETs and POSTs, kept and new connections), the old instance stopped 50 ms after the
switch (the default drain is 5 s), alternating order, medians. Exits 1 when a figure misses its target, 2 when there
is no peer to compare with.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from controller.development.parts import Part, prepare_caddy
from controller.model.errors import Unavailable
from controller.model.names import COLOURS, MAIN, Layout, Ports, Topology
from controller.model.nouns import Live
from tests.edge.host import Host
from tests.edge.load import Load

SWITCHES = 20
DRAIN_S = 0.05
FILE_SWITCHES = 300
BODY_BYTES = 50_000


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("127.0.0.1", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self._path))


def free_ports() -> Ports:
    for _ in range(100):
        ports = Ports(offset=random.randrange(10_000, 22_000))
        with contextlib.ExitStack() as probes:
            try:
                for _, port in ports.all_for((MAIN,)):
                    probe = probes.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return ports
    raise Unavailable("NoFreePorts", "no free range of ports in 100 attempts")


def make_host(folder: Path, name: str) -> Host:
    layout = Layout(folder / name, folder / name / "run")
    for path in (layout.run / "surfaces", folder / name / "logs"):
        path.mkdir(parents=True)
    return Host(folder=folder / name, layout=layout, topology=Topology(previews=0, ports=free_ports()))


def start_peer(host: Host, handler: object) -> tuple[Part, Path, int]:
    """Start a Caddy of the peer's kind; return it, its admin socket and its port."""
    admin, port = host.layout.run / "admin.sock", host.topology.ports.web(MAIN)
    config = {
        "admin": {"listen": f"unix/{admin}", "config": {"persist": False}},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "apps": {
            "http": {
                "servers": {
                    "peer": {
                        "listen": [f"127.0.0.1:{port}"],
                        "automatic_https": {"disable": True},
                        "routes": [{"handle": [handler]}],
                    }
                }
            }
        },
    }
    file = host.folder / "peer.json"
    file.write_text(json.dumps(config))
    spec = prepare_caddy(
        name="peer",
        config=file,
        home=host.folder / "caddy",
        log_file=host.folder / "peer.out",
        listens=(("127.0.0.1", port), admin),
    )
    return host.closing.enter_context(Part(spec)), admin, port


def patch_upstream(admin: Path, address: str) -> None:
    connection = _UnixConnection(admin)
    connection.request(
        "PATCH",
        "/id/proxy/upstreams",
        body=json.dumps([{"dial": address}]),
        headers={"Content-Type": "application/json"},
    )
    response = connection.getresponse()
    text = response.read()
    connection.close()
    if response.status != 200:
        raise Unavailable("PeerRefused", f"the admin API answered {response.status}: {text!r:.200}")


def switch_under_load(host: Host, port: int, switch: Callable[[str, int], None]) -> tuple[int, int]:
    """Switch forth and back between fresh instances; return (failed, all) requests. Lost or doubled POSTs count."""
    serving, address = host.instance(MAIN, "a", name="0")
    switch(address, 0)
    with Load(targets=(("localhost", port),)) as load:
        for generation in range(1, 2 * SWITCHES + 1):
            following, address = host.instance(MAIN, COLOURS[generation % 2], name=str(generation))
            switch(address, generation)
            time.sleep(DRAIN_S)
            serving.stop()
            serving = following
        time.sleep(0.2)
    applied = host.ledger.read_text().split()
    wrongly_applied = len(applied) - len(set(applied)) + len(set(load.posted) - set(applied))
    return max(len(load.failures), wrongly_applied), load.requests


def ours_under_load(folder: Path) -> tuple[int, int]:
    host = make_host(folder, "ours")
    with host.closing:
        host.switch(Live(slot=MAIN, state="free", generation=0))
        host.surface(MAIN)

        def switch(address: str, generation: int) -> None:
            host.serve(MAIN, address=address, generation=generation)

        return switch_under_load(host, host.topology.ports.web(MAIN), switch)


def peer_under_load(folder: Path) -> tuple[int, int]:
    host = make_host(folder, "peer")
    with host.closing:
        _, admin, port = start_peer(
            host,
            {
                "@id": "proxy",
                "handler": "reverse_proxy",
                "upstreams": [{"dial": "127.0.0.1:1"}],
                "load_balancing": {"try_duration": "5s", "try_interval": "25ms"},
            },
        )
        return switch_under_load(host, port, lambda address, _: patch_upstream(admin, address))


def read_files_during(port: int, switch: Callable[[int], None]) -> tuple[int, int]:
    """Replace what is served while three readers ask for it; return (answers cut, or whose entity tag belongs to
    the other release's body; all answers)."""
    seen: list[tuple[str, str]] = []
    stop = threading.Event()

    def read() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while not stop.is_set():
            try:
                connection.request("GET", "/page.txt")
                response = connection.getresponse()
                body = response.read().decode()
                seen.append((response.getheader("ETag", ""), "".join(sorted(set(body)))))
            except (OSError, http.client.HTTPException) as error:
                seen.append((type(error).__name__, ""))
                connection.close()
        connection.close()

    def settled(generation: int) -> tuple[str, str]:
        switch(generation)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/page.txt")
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.getheader("ETag", ""), "".join(sorted(set(body)))

    right = {settled(0), settled(1)}
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for generation in range(2, FILE_SWITCHES):
        switch(generation)
        time.sleep(0.002)
    stop.set()
    for reader in readers:
        reader.join(30)
    return sum(pair not in right for pair in seen), len(seen)


def _roots(host: Host) -> list[Path]:
    roots = [host.folder / "releases" / name for name in ("A", "B")]
    for number, root in enumerate(roots):
        root.mkdir(parents=True)
        (root / "page.txt").write_text(root.name * BODY_BYTES)
        os.utime(root / "page.txt", (1_700_000_000 + number, 1_700_000_000 + number))
    return roots


def ours_with_files(folder: Path) -> tuple[int, int]:
    host = make_host(folder, "ours-files")
    with host.closing:
        roots = _roots(host)
        host.switch(Live(slot=MAIN, state="free", generation=0))
        host.surface(MAIN)
        return read_files_during(
            host.topology.ports.web(MAIN), lambda n: host.serve(MAIN, static_root=roots[n % 2], generation=n)
        )


def peer_with_files(folder: Path) -> tuple[int, int]:
    host = make_host(folder, "peer-files")
    with host.closing:
        roots, current = _roots(host), host.folder / "current"
        _, _, port = start_peer(host, {"handler": "file_server", "root": str(current)})

        def switch(generation: int) -> None:
            temporary = current.with_name("current.new")
            temporary.symlink_to(roots[generation % 2])
            temporary.replace(current)

        return read_files_during(port, switch)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    arms: dict[str, Callable[[Path], tuple[int, int]]] = {
        "ours": ours_under_load,
        "peer": peer_under_load,
        "ours files": ours_with_files,
        "peer files": peer_with_files,
    }
    results: dict[str, list[tuple[int, int]]] = {name: [] for name in arms}
    try:
        for number in range(rounds):
            for name in arms if number % 2 == 0 else reversed(arms):
                folder = Path(tempfile.mkdtemp(prefix="oro-", dir="/tmp"))
                try:
                    results[name].append(arms[name](folder))
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
    except Unavailable as error:
        print(f"no peer, no figure: {error}")
        return 2
    print("peer: caddy run --config peer.json; PATCH /id/proxy/upstreams on its admin socket, try_duration 5s")
    print("peer files: the same caddy, file_server with root = a link that is replaced by rename")
    missed = False
    for what, ours, peer in (
        (f"failed requests in {SWITCHES} switches and {SWITCHES} back", "ours", "peer"),
        (f"answers of mixed releases in {FILE_SWITCHES} switches of files", "ours files", "peer files"),
    ):
        figures = {name: statistics.median(bad for bad, _ in results[name]) for name in (ours, peer)}
        total = {name: sum(every for _, every in results[name]) for name in (ours, peer)}
        worst = max(bad for bad, _ in results[ours])
        missed |= worst > 0
        print(
            f"{what}: ours {figures[ours]:g} (worst {worst}, of {total[ours]} in {rounds} rounds), "
            f"peer {figures[peer]:g} (of {total[peer]}); target 0: {'met' if worst == 0 else 'MISSED'}"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
