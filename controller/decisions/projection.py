"""What should all surfaces say? The one projection from what was observed to every report.

The same look twice gives the same reports, and what changed is what is sent: nothing reports from inside a step.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from controller.decisions.notifications import project_notifications
from controller.decisions.report import say
from controller.decisions.report_comments import project_comments
from controller.decisions.report_deployments import project_deployments
from controller.decisions.slots import QueuePlace
from controller.model.names import Topology
from controller.model.reports import Surface, WantedReport
from controller.model.world import Observed


def project_all(
    observed: Observed,
    queue: tuple[QueuePlace, ...],
    topology: Topology,
    *,
    surfaces: Collection[Surface],
    now: datetime,
) -> tuple[WantedReport, ...]:
    """Return every report that is wanted on these surfaces."""
    said = say(observed, queue, topology, now=now)
    found: list[WantedReport] = []
    if "status" in surfaces:
        found += (one.status for one in said)
    if "check" in surfaces:
        found += (check for one in said if (check := one.as_check()) is not None)
    if "deployment" in surfaces:
        found += project_deployments(observed, topology, now=now)
    if "comment" in surfaces:
        found += project_comments(observed, said, topology)
    if "notification" in surfaces:
        found += project_notifications(observed, topology, now=now)
    return tuple(found)
