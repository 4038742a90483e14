"""Which endpoints does a host have, and when is each well?"""

from __future__ import annotations

import pytest

from controller.decisions.health import Answered, Endpoint, endpoints, judge
from controller.model.names import Ports, Topology, preview_slot

FREE = '{"slot": "preview-1", "state": "free", "release": null, "healthy": true}\n'
LIVE = '{"slot": "preview-1", "state": "live", "release": "0123456789", "healthy": true}\n'
SURFACE = Endpoint(
    service="web-preview-1",
    unit="ouroboros-web@preview1.service",
    kind="http",
    address="127.0.0.1:3101",
    slot=preview_slot(1),
)
API = Endpoint(service="api", unit="ouroboros-api.service", kind="http", address="127.0.0.1:8000")


def test_the_endpoints_are_those_of_the_host_contract() -> None:
    found = {e.service: (e.unit, e.address) for e in endpoints(Topology(), postgres="pg", redis="r")}

    assert found == {
        "reverse-proxy": ("ouroboros-caddy.service", "127.0.0.1:8088"),
        "web-main": ("ouroboros-web@main.service", "127.0.0.1:3100"),
        "web-preview-1": ("ouroboros-web@preview1.service", "127.0.0.1:3101"),
        "web-preview-2": ("ouroboros-web@preview2.service", "127.0.0.1:3102"),
        "web-preview-3": ("ouroboros-web@preview3.service", "127.0.0.1:3103"),
        "api": ("ouroboros-api.service", "127.0.0.1:8000"),
        "api-preview-1": ("ouroboros-web@preview1.service", "127.0.0.1:8101"),
        "api-preview-2": ("ouroboros-web@preview2.service", "127.0.0.1:8102"),
        "api-preview-3": ("ouroboros-web@preview3.service", "127.0.0.1:8103"),
        "worker": ("ouroboros-worker.service", "127.0.0.1:8090"),
        "postgres": ("postgresql.service", "pg"),
        "redis": ("redis.service", "r"),
    }


def test_number_of_previews_and_ports_are_those_that_were_installed() -> None:
    found = endpoints(Topology(previews=1, ports=Ports(offset=100)), postgres="pg", redis="r")

    assert [e.service for e in found if e.slot == preview_slot(1)] == ["web-preview-1", "api-preview-1"]
    assert [e.address for e in found if e.slot == preview_slot(1)] == ["127.0.0.1:3201", "127.0.0.1:8201"]


@pytest.mark.parametrize(
    ("endpoint", "answered", "ok", "said"),
    [
        (SURFACE, Answered(status=200, said=FREE), True, "free"),
        (SURFACE, Answered(status=200, said=LIVE), True, "live 0123456"),
        (SURFACE, Answered(status=503, said=LIVE.replace("true", "false")), False, "live 0123456 not healthy"),
        (SURFACE, Answered(status=200, said="hello"), False, "another program"),
        (SURFACE, Answered(status=200, said=LIVE.replace("preview-1", "preview-2")), False, "another program"),
        (SURFACE, Answered(problem="nobody listens"), False, "nobody listens"),
        (API, Answered(status=200, said='{"status": "ok", "database": true}'), True, "ok"),
        (API, Answered(status=503, said='{"status": "unfit"}'), False, 'answers 503: {"status": "unfit"}'),
    ],
)
def test_an_endpoint_is_well_when_the_right_one_says_so(
    endpoint: Endpoint, answered: Answered, ok: bool, said: str
) -> None:
    found = judge(endpoint, answered, took_ms=7)

    assert (found.ok, said in found.said, found.took_ms) == (ok, True, 7)


def test_a_long_answer_is_cut() -> None:
    assert len(judge(API, Answered(status=500, said="x" * 9_000), took_ms=0).said) == 120
