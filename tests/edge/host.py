"""A host in small: surfaces and an edge as real Caddy processes, and instances to switch between."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from controller.decisions.edge import edge_listens, public_ports, render_edge, render_public_edge
from controller.decisions.live_files import Assets
from controller.decisions.surfaces import (
    read_surface_environment,
    render_surface,
    surface_environment,
    surface_listens,
)
from controller.development.parts import Part, PartSpec, listens_at, prepare_caddy
from controller.effects.live import NO_ASSETS, SlotLock, write_live
from controller.model.names import Colour, Layout, Sha, SlotName, Topology, TreeId
from controller.model.nouns import Live

RELEASE = Sha("a" * 40)
#: The release before still answers for its hashed assets.
IN_TIME = Assets(until=datetime(2999, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: str
    headers: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Host:
    """Everything of one small host; whatever it started ends with the test."""

    folder: Path
    layout: Layout
    topology: Topology
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    surface_parts: dict[SlotName, Part] = field(default_factory=dict)

    @property
    def web_root(self) -> Path:
        """Where the page of a free slot lies, if a test puts one there."""
        return self.folder / "web"

    @property
    def our_pages(self) -> Path:
        """Where the page lies that comes with us, if a test puts one there."""
        return self.folder / "ours"

    @property
    def credentials(self) -> Path:
        """Where the edge finds a certificate that came with the installation."""
        return self.folder / "credentials"

    def surface(self, slot: SlotName) -> Part:
        told = read_surface_environment(surface_environment(self.topology, slot, web_root=self.web_root))
        config = self.folder / f"surface-{slot}.json"
        rendered = render_surface(self.layout, slot, told, log_dir=self.folder / "logs", our_pages=self.our_pages)
        config.write_text(json.dumps(rendered))
        self.surface_parts[slot] = self._caddy(
            f"surface-{slot}", config, listens=surface_listens(self.layout, slot, told)
        )
        return self.surface_parts[slot]

    def edge(self) -> Part:
        config = self.folder / "Caddyfile"
        config.write_text(render_edge(self.topology, log_dir=self.folder / "logs"))
        edge = self._caddy("edge", config, listens=edge_listens(self.topology))
        if self.topology.tls != "off":
            public = self.folder / "Caddyfile.public"
            public.write_text(render_public_edge(self.topology, log_dir=self.folder / "logs"))
            listens = tuple(("127.0.0.1", port) for port in public_ports(self.topology))
            self._caddy("edge-public", public, listens=listens)
        return edge

    def _caddy(self, name: str, config: Path, *, listens: tuple[tuple[str, int] | Path, ...]) -> Part:
        spec = prepare_caddy(
            name=name, config=config, home=self.folder / "caddy", log_file=self.folder / f"{name}.out", listens=listens
        )
        environment = {**spec.environment, "CREDENTIALS_DIRECTORY": str(self.credentials)}
        return self.closing.enter_context(Part(dataclasses.replace(spec, environment=environment)))

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    def instance(self, slot: SlotName, colour: Colour, *, name: str, unix: bool = False) -> tuple[Part, str]:
        """Start an instance; return it and its address in Caddy's spelling."""
        where: Path | tuple[str, int]
        if unix:
            where = self.layout.instance_socket(slot, colour)
            where.parent.mkdir(parents=True, exist_ok=True)
            where.unlink(missing_ok=True)
            word, address = str(where), f"unix/{where}"
        else:
            where = ("127.0.0.1", self.topology.ports.instance(slot, colour))
            word = address = f"127.0.0.1:{where[1]}"
        spec = PartSpec(
            name=f"{slot}-{colour}",
            argv=(sys.executable, str(Path(__file__).with_name("instance.py")), word, name, str(self.ledger)),
            log_file=self.folder / f"{slot}-{colour}.out",
            is_ready=lambda: listens_at(where),
            environment=dict(os.environ),
        )
        return self.closing.enter_context(Part(spec)), address

    def switch(self, live: Live, *, assets: Assets = NO_ASSETS) -> None:
        with SlotLock(self.layout, live.slot) as held:
            write_live(self.layout, live, held=held, assets=assets)

    def serve(
        self,
        slot: SlotName,
        *,
        address: str | None = None,
        static_root: Path | None = None,
        previous: Path | None = None,
        assets: Assets = IN_TIME,
        fallback: str | None = None,
        api_prefix: str = "/",
        health_path: str = "/",
        health_status: int | None = 200,
        generation: int = 1,
    ) -> None:
        self.switch(
            Live(
                slot=slot,
                state="live",
                generation=generation,
                release=RELEASE,
                tree=TreeId("b" * 40),
                address=address,
                static_root=None if static_root is None else str(static_root),
                previous_static_root=None if previous is None else str(previous),
                fallback=fallback,
                api_prefix=api_prefix,
                health_path=health_path,
                health_status=health_status,
            ),
            assets=assets,
        )

    def files(self, name: str, **contents: str) -> Path:
        """Write a folder of static files: `__` is a slash and `_` a dot in the name of a keyword."""
        root = self.folder / "static" / name
        for key, text in contents.items():
            path = root / key.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    def ask(
        self,
        path: str,
        *,
        port: int,
        method: str = "GET",
        host: str = "localhost",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        try:
            connection.request(method, path, body=body, headers={"Host": host, **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode()
            return Answer(
                status=response.status,
                body=text,
                headers={key.lower(): value for key, value in response.getheaders()},
            )
        finally:
            connection.close()

    def web(self, slot: SlotName, path: str, *, method: str = "GET", body: bytes | None = None) -> Answer:
        return self.ask(path, port=self.topology.ports.web(slot), method=method, body=body)

    def through_edge(self, host: str, path: str, *, method: str = "GET", body: bytes | None = None) -> Answer:
        return self.ask(path, port=self.topology.ports.edge, host=host, method=method, body=body)
