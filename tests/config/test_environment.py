"""What does a process refuse to start with?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from controller.effects.stack_files import write_topology
from controller.model.config import read_settings
from controller.model.errors import ConfigInvalid
from controller.model.names import CONTRACT, Layout

ENVIRONMENT = {"DATABASE_URL": "postgresql:///x", "OROBOROS_REPOSITORY": "acme/shop"}


@pytest.mark.parametrize(
    "url", ["https://github.com", "https://git.example.org:8443/forge/", "http://127.0.0.1:8070", "http://[::1]:8070"]
)
def test_forge_is_an_address(url: str) -> None:
    assert read_settings({**ENVIRONMENT, "OROBOROS_FORGE_URL": url}).forge_url == url


@pytest.mark.parametrize(
    "url",
    ["https://ada:canary@git.example.org", "https://canary@github.com", "ssh://canary/x", "https://h/?token=canary"],
)
def test_forge_address_with_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigInvalid, match="OROBOROS_FORGE_TOKEN_FILE") as caught:
        read_settings({**ENVIRONMENT, "OROBOROS_FORGE_URL": url})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WORKER_HEALTH_PORT", "many", "not a port"),
        ("WORKER_POLL_INTERVAL_SECONDS", "86400", "between 0.05 and 300"),
        ("OROBOROS_RESYNC_SECONDS", "86401", "between 0.05 and 86400"),
        ("WORKER_ARTIFACT_ROOT", "/elsewhere", "artifacts lie in /srv/oroboros/artifacts/runs"),
    ],
)
def test_a_value_of_the_worker_that_cannot_be_followed_is_refused(name: str, value: str, told: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"{name}: .*{told}"):
        read_settings({**ENVIRONMENT, name: value})


def test_the_contracts_values_of_the_worker_are_taken() -> None:
    values = {"WORKER_HEALTH_PORT": "8090", "WORKER_ARTIFACT_ROOT": "/srv/oroboros/artifacts/runs"}
    assert read_settings({**ENVIRONMENT, **values}).worker_health_port == 8090


def test_a_worker_does_not_start_to_be_asked_where_nobody_asks(tmp_path: Path) -> None:
    write_topology(Layout(tmp_path), CONTRACT)
    environ = {**ENVIRONMENT, "OROBOROS_ROOT": str(tmp_path), "WORKER_HEALTH_PORT": "9999", "PATH": os.environ["PATH"]}
    argv = [sys.executable, "-m", "controller.doors.cli", "worker"]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "WORKER_HEALTH_PORT: is 9999, and the proxy and the health checks ask 8090" in done.stderr
