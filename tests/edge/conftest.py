"""A small host for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.model.names import Layout, Ports, Topology

from .host import Host


@pytest.fixture
def host(short_dir: Path, free_port_offset: int) -> Iterator[Host]:
    layout = Layout(short_dir / "root", short_dir / "run")
    for folder in (layout.run / "surfaces", short_dir / "logs"):
        folder.mkdir(parents=True)
    made = Host(folder=short_dir, layout=layout, topology=Topology(previews=1, ports=Ports(offset=free_port_offset)))
    with made.closing:
        yield made
