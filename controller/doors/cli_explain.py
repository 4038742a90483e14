"""Why has this pull request a preview, or none? The deciding rule, and everything that it was decided from.

The same observation and the same decision as the worker's, as in `oroboros plan`; it changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from controller.decisions.admission import RESIDUAL_RISK, admission, approval_in_force
from controller.doors import tables, views
from controller.doors.cli_plan import look
from controller.doors.views import RunView
from controller.effects.store import Store
from controller.loop.reconcile import Decision
from controller.model.config import Settings
from controller.model.errors import Refused
from controller.model.names import Topology, pull_request_domain
from controller.model.nouns import CommandAnswer, PullRequest
from controller.model.world import Observed


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainView:
    """One open pull request, and why it previews or does not."""

    pull_request: int
    title: str
    author: str
    head: str
    head_fetched: bool
    base_branch: str
    labels: tuple[str, ...]
    draft: bool
    fork: bool
    #: "yes", "no", or "not decided yet".
    previews: str
    rule: str
    why: str
    #: "not needed", "needed", "given" or "void": what an approval says of this very commit.
    approval: str
    #: Why the last approval is void; "" when none is.
    void_because: str
    approved_by: str | None
    approved_at: datetime | None
    queue_position: int | None
    slot: str | None
    lease_ends_at: datetime | None
    url: str | None
    last_run: RunView | None
    #: The last command that somebody gave in a comment on it, and what became of it.
    last_command: CommandAnswer | None
    #: What remains when the code of an approved fork runs.
    warning: str


def read_explanation(settings: Settings, store: Store, topology: Topology, number: int) -> ExplainView:
    """Observe and decide, once; Refused when there is no such open pull request."""
    observed, decision = look(settings, topology)
    pull = next((pull for pull in observed.pulls if pull.number == number), None)
    if pull is None:
        raise Refused("PullUnknown", f"#{number} is not among the open pull requests, as last listed")
    run = views.read_last_run(store, domain=pull_request_domain(number))
    void = views.read_void_approval(store, number)
    return shape_explanation(pull, observed, decision, topology, last_run=run, void=void)


def shape_explanation(
    pull: PullRequest,
    observed: Observed,
    decision: Decision,
    topology: Topology,
    *,
    last_run: RunView | None,
    void: str,
) -> ExplainView:
    """Return a decision about one pull request as a view. Pure."""
    found = admission(pull, observed)
    approved = approval_in_force(pull, observed.preview_orders)
    state = "not needed" if pull.same_repository else "void" if void else "needed"
    lease = next((s.lease for s in observed.slots if s.lease is not None and s.lease.is_of(pull.number)), None)
    said = [one for one in observed.commands if one.pull_request == pull.number]
    runs_forks = observed.policy.permissions.accept_fork_risk and not pull.same_repository
    return ExplainView(
        pull_request=pull.number,
        title=pull.title,
        author=pull.author,
        head=pull.head_sha,
        head_fetched=pull.head is not None and pull.head.sha == pull.head_sha,
        base_branch=pull.base_branch,
        labels=pull.labels,
        draft=pull.is_draft,
        fork=not pull.same_repository,
        previews="yes" if found.admits else "not decided yet" if found.is_open else "no",
        rule=found.rule,
        why=found.why,
        approval=state if approved is None else "given",
        void_because="" if approved is not None or pull.same_repository else void,
        approved_by=None if approved is None else approved.actor,
        approved_at=None if approved is None else approved.at,
        queue_position=next(
            (p.position for p in decision.slots.queue if p.pull_request == pull.number and not p.in_queue), None
        ),
        slot=None if lease is None else lease.slot,
        lease_ends_at=None if lease is None else lease.expires_at,
        url=None if lease is None else topology.url(lease.slot),
        last_run=last_run,
        last_command=max(said, key=lambda one: one.decided_at, default=None),
        warning=RESIDUAL_RISK if runs_forks else "",
    )


def print_explanation(console: Console, found: ExplainView) -> None:
    """Print it, the deciding rule first."""
    lines = [("previews", f"{found.previews}: {found.rule}" + (f": {found.why}" if found.why else ""))]
    fetched = "" if found.head_fetched else ", not fetched"
    lines.append(("head", f"{found.head[:7]}{fetched}"))
    from_where = "a fork" if found.fork else "the repository itself"
    lines.append(("from", f"{from_where}, by {found.author}, to {found.base_branch}" + (", a draft" * found.draft)))
    if found.labels:
        lines.append(("labels", ", ".join(found.labels)))
    if found.approval != "not needed":
        by = "" if found.approved_by is None else f" by {found.approved_by}"
        lines.append(("approval", f"{found.approval}{by}" + (f": {found.void_because}" if found.void_because else "")))
    if found.queue_position is not None:
        lines.append(("queue", f"number {found.queue_position}"))
    if found.slot is not None and found.lease_ends_at is not None:
        lines.append(("lease", f"{found.slot} until {found.lease_ends_at:%Y-%m-%d %H:%M} UTC, {found.url}"))
    if found.last_run is not None:
        run = found.last_run
        why = ": ".join(part for part in (run.reason, run.message) if part)
        lines.append(("last run", f"{run.run} of {run.sha[:7]}: {run.state}" + (f": {why}" if why else "")))
    if found.last_command is not None:
        said = found.last_command
        why = ": ".join(part for part in (said.reason, said.message) if part)
        lines.append(("last command", f"{said.said} by {said.author} ({said.permission}): {said.state}: {why}"))
    if found.warning:
        lines.append(("warning", found.warning))
    console.print(Text(tables.plain(f"#{found.pull_request} {found.title}"), style="bold"))
    grid = Table.grid(padding=(0, 2))
    for name, text in lines:
        grid.add_row(Text(name, style="dim"), Text(tables.plain(text)))
    console.print(grid)
