"""What do we ask and tell about deployments? One for each run, in the environment of its slot.

A new deployment's success makes earlier ones of its environment inactive, but not where the environment is transient or
a production one, and ours are one or the other: so it is switched off, and we say ourselves what no longer serves.
https://docs.github.com/rest/deployments/statuses#create-a-deployment-status
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from controller.decisions.github.answers import raise_unless
from controller.decisions.github.wire import (
    Json,
    Object,
    Reply,
    Request,
    ask,
    read_json,
    read_list,
    read_number,
    read_object,
    tell,
    told,
)
from controller.model.errors import Stalled
from controller.model.names import Sha
from controller.model.reports import WantedDeployment

#: In a deployment's payload: which run of ours it shows.
RUN_KEY: Final = "oroboros_run"
DESCRIPTION_CHARS_MAX: Final = 140


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDeployment:
    """A deployment as the forge shows it; `run` is 0 for one that is not ours."""

    id: int
    run: int


def create_deployment(repository: str, wanted: WantedDeployment) -> Request:
    """Make a deployment of exactly this commit: nothing is merged into it, and no status is waited for."""
    no_contexts: list[Json] = []
    payload: Object = {RUN_KEY: wanted.generation}
    return tell(
        "POST",
        f"/repos/{repository}/deployments",
        {
            "ref": wanted.sha,
            "environment": wanted.environment,
            "auto_merge": False,
            "required_contexts": no_contexts,
            "payload": payload,
            "description": f"run {wanted.generation} of Oroboros",
            "transient_environment": not wanted.is_production,
            "production_environment": wanted.is_production,
        },
    )


def list_deployments(repository: str, sha: Sha, environment: str) -> Request:
    """Ask for the newest deployments of a commit in an environment."""
    query = f"sha={quote(sha, safe='')}&environment={quote(environment, safe='')}&per_page=100"
    return ask(f"/repos/{repository}/deployments?{query}")


def create_deployment_status(repository: str, number: int, wanted: WantedDeployment, *, log_url: str) -> Request:
    """Say how a deployment stands. The newest counts, so that saying it again changes nothing."""
    content: Object = {
        "state": str(wanted.state),
        "description": wanted.description,
        "log_url": log_url,
        "auto_inactive": False,
    }
    if wanted.environment_url is not None:
        content["environment_url"] = wanted.environment_url
    return tell("POST", f"/repos/{repository}/deployments/{number}/statuses", content)


def list_deployment_statuses(repository: str, number: int) -> Request:
    """Ask for the newest statuses of a deployment."""
    return ask(f"/repos/{repository}/deployments/{number}/statuses?per_page=10")


def read_created_deployment(reply: Reply, *, now: datetime) -> int:
    """Return the id of a deployment that was made; Stalled when the forge will never take it."""
    what = "make a deployment"
    if reply.status in (409, 422):
        raise Stalled("DeploymentRefused", f"the forge does not take the deployment: {told(reply)}")
    raise_unless(201, reply, what=what, permission="deployments: write", now=now)
    return read_number(read_object(read_json(reply, what), what), "id", what)


def read_created_deployment_status(reply: Reply, *, now: datetime) -> None:
    """Return when the forge took the status; Stalled when it never will."""
    what = "say how a deployment stands"
    if reply.status == 422:
        raise Stalled("DeploymentRefused", f"the forge does not take the deployment's status: {told(reply)}")
    raise_unless(201, reply, what=what, permission="deployments: write", now=now)


def read_deployments(reply: Reply, *, now: datetime) -> tuple[ShownDeployment, ...]:
    """Return the deployments of a commit in an environment."""
    what = "list the deployments"
    raise_unless(200, reply, what=what, permission="deployments: read", now=now)
    found: list[ShownDeployment] = []
    for one in read_list(read_json(reply, what), what):
        deployment = read_object(one, what)
        payload = deployment.get("payload")
        run = payload.get(RUN_KEY) if isinstance(payload, dict) else None
        number = read_number(deployment, "id", what)
        found.append(ShownDeployment(id=number, run=run if isinstance(run, int) else 0))
    return tuple(found)


def read_newest_deployment_status(reply: Reply, *, now: datetime) -> tuple[str, str] | None:
    """Return (state, description) of a deployment's newest status, None when it has none."""
    what = "list a deployment's statuses"
    raise_unless(200, reply, what=what, permission="deployments: read", now=now)
    shown = [read_object(one, what) for one in read_list(read_json(reply, what), what)]
    newest = max(shown, key=lambda one: read_number(one, "id", what), default=None)
    return None if newest is None else (str(newest.get("state")), str(newest.get("description") or ""))
