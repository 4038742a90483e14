"""Does `oroboros surface` become the Caddy that its environment asks for, and refuse what makes no sense?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from controller.decisions.surfaces import read_surface_environment, render_surface_environment, surface_listens
from controller.development.parts import Part, PartSpec, caddy_binary, listens_at
from controller.model.names import SlotName, preview_slot
from controller.model.nouns import Live

from .host import Host

PREVIEW = preview_slot(1)
CHECKOUT = Path(__file__).resolve().parents[2]


def argv(host: Host, slot: SlotName, *, caddy: Path | None = None) -> tuple[str, ...]:
    root, program = str(host.layout.root), str(caddy or caddy_binary())
    return (
        *(sys.executable, "-m", "controller.doors.cli", "surface", slot, "--json"),
        *("--root", root, "--caddy", program),
    )


def environment(host: Host, slot: SlotName) -> dict[str, str]:
    """What systemd would hand to the unit: its file, and the folders that it made."""
    runtime, logs = host.folder / "runtime", host.folder / "logs"
    runtime.mkdir(exist_ok=True)
    lines = render_surface_environment(host.layout, host.topology, slot).splitlines()
    return {
        **dict(line.split("=", 1) for line in lines),
        "WEB_ROOT": str(host.web_root),
        "OROBOROS_RUN": str(host.layout.run),
        "RUNTIME_DIRECTORY": str(runtime),
        "LOGS_DIRECTORY": str(logs),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(CHECKOUT),
    }


def test_it_becomes_the_surface_of_the_slot(host: Host) -> None:
    host.web_root.mkdir()
    (host.web_root / "free.html").write_text("free page")
    host.switch(Live(slot=PREVIEW, state="free", generation=0))
    environ = environment(host, PREVIEW)
    told = read_surface_environment(environ)
    assert (told.web_port, told.backend_port) == (
        host.topology.ports.web(PREVIEW),
        host.topology.ports.backend(PREVIEW),
    )
    spec = PartSpec(
        name="surface",
        argv=argv(host, PREVIEW),
        log_file=host.folder / "surface.out",
        is_ready=lambda: all(listens_at(address) for address in surface_listens(host.layout, PREVIEW, told)),
        environment=environ,
    )
    with Part(spec) as surface:
        command = (Path("/proc") / str(surface.pid) / "cmdline").read_bytes().split(b"\0")
        assert command[:3] == [os.fsencode(caddy_binary()), b"run", b"--config"]
        free = host.web(PREVIEW, "/")
        assert (free.status, free.body, free.headers["x-oroboros-slot"]) == (503, "free page", "free")
        _, address = host.instance(PREVIEW, "a", name="app")
        host.serve(PREVIEW, address=address)
        assert host.web(PREVIEW, "/").body == "app"
        assert host.ask("/", port=host.topology.ports.backend(PREVIEW)).body == "app"
    config = host.folder / "runtime" / "surface.json"
    assert config.stat().st_mode & 0o777 == 0o600
    assert (host.folder / "logs" / "surface-preview1.access.log").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"WEB_PORT": "http"}, "WEB_PORT"),
        ({"WEB_PORT": ""}, "WEB_PORT"),
        ({"WEB_API_PROXY_TARGET": "http://10.0.0.1:8101"}, "WEB_API_PROXY_TARGET"),
        ({"RUNTIME_DIRECTORY": ""}, "RUNTIME_DIRECTORY"),
        ({"LOGS_DIRECTORY": "logs"}, "LOGS_DIRECTORY"),
    ],
)
def test_a_wrong_value_ends_it_before_it_listens(host: Host, changed: dict[str, str], said: str) -> None:
    done = subprocess.run(
        argv(host, PREVIEW),
        env={**environment(host, PREVIEW), **changed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    value = json.loads(done.stdout)
    assert (done.returncode, value["error"], value["exit_code"]) == (2, "EnvironmentInvalid", 2)
    assert said in value["message"]
    assert not listens_at(("127.0.0.1", host.topology.ports.web(PREVIEW)))


def test_a_slot_that_is_none_and_a_caddy_that_is_not_there_are_told_apart(host: Host) -> None:
    ran = [
        subprocess.run(words, env=environment(host, PREVIEW), capture_output=True, text=True, timeout=60, check=False)
        for words in (argv(host, SlotName("staging")), argv(host, PREVIEW, caddy=host.folder / "no-caddy"))
    ]

    assert [(done.returncode, json.loads(done.stdout)["error"]) for done in ran] == [(2, "Usage"), (4, "PartMissing")]


def test_a_host_s_surface_starts_with_the_standard_library_alone() -> None:
    """After an upgrade of Debian there is nothing else until somebody installs again."""
    words = [sys.executable, "-S", "-m", "controller.doors.surface", "nonsense"]
    done = subprocess.run(
        words, cwd=CHECKOUT, env={"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr.startswith("<3>oroboros: surface of nonsense: "), done.stderr
    assert done.returncode == 1
