"""Say who may see which path of api and worker: anyone, who signs, or the operator alone.

One table, which api, worker and edge follow. Where a request comes from proves nothing: behind the edge every peer is
127.0.0.1, and a Host header is whatever its sender wrote. So what is not for everybody needs the operator's token, on
loopback too, and the edge does not hand it on at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Access(StrEnum):
    """Who may see a path."""

    SIGNED = "signed"  # a POST by who knows a webhook secret: the receiver verifies it
    VERDICT = "verdict"  # anyone: well or not, and no more. The operator: why
    OPERATOR = "operator"  # who knows the operator's token


#: Every path of the api, and who may see it. A route that is not here is refused when the api starts.
API_ACCESS: Mapping[str, Access] = {
    "/webhooks/github": Access.SIGNED,
    "/health": Access.VERDICT,
    "/api/status": Access.OPERATOR,
    "/api/slots": Access.OPERATOR,
    "/api/runs": Access.OPERATOR,
    "/api/runs/{generation}": Access.OPERATOR,
    "/api/releases": Access.OPERATOR,
    "/api/deliveries": Access.OPERATOR,
}
#: Every path of the worker's port.
WORKER_ACCESS: Mapping[str, Access] = {"/health": Access.VERDICT}
