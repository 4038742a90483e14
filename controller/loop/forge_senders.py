"""How does each kind of report reach the forge? One sender a surface; the outbox decides what is sent, and when.

Safe to repeat: what may be at the forge already is looked up before it is made, and what was made is changed. A comment
is changed only if we wrote it. What the forge refuses for its content is said once more, in plainer words.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from controller.decisions.github.checks import ShownCheck
from controller.decisions.github.comments import BODY_CHARS_MAX, Author
from controller.decisions.markdown import plain
from controller.decisions.report_checks import (
    LOG_LINES_MAX,
    Story,
    plain_check,
    units_to_read,
    wants_log,
    write_check,
)
from controller.effects.github_http import Forge
from controller.effects.mirror import Mirror
from controller.effects.runtime import Runtime
from controller.effects.store import Store
from controller.loop.reporter import Outgoing, Sender
from controller.model.config import Recipe
from controller.model.deploy_toml import DEPLOY_TOML_BYTES_MAX, parse_policy, parse_recipe
from controller.model.errors import ConfigInvalid, Stalled, Unavailable
from controller.model.names import MAIN, Sha, status_context
from controller.model.redaction import redact
from controller.model.reports import (
    Surface,
    WantedCheck,
    WantedComment,
    WantedDeployment,
    WantedReaction,
    WantedStatus,
)
from controller.model.states import DeploymentState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Where the page of a check run comes from. Used by the sending thread alone."""

    store: Store
    runtime: Runtime
    open_mirror: Callable[[], Mirror]

    def story(self, generation: int) -> Story | None:
        """Return what was kept of a run, with the end of its log if it failed; None for none."""
        story = self.store.load_story(generation) if generation else None
        if story is None:
            return None
        story = replace(story, recipe=self._recipe(story.run.release))
        if not wants_log(story.run):
            return story
        for unit in units_to_read(story):
            try:
                lines = self.runtime.last_log_lines(unit, generation, lines=LOG_LINES_MAX)
            except Unavailable:
                continue  # the page is worth sending without
            if lines:
                # As one text: a key has many lines.
                shown = redact("\n".join(lines)).splitlines()
                return replace(story, log_unit=unit, log=tuple(shown))
        return story

    def _recipe(self, release: Sha) -> Recipe | None:
        """Return how a release is deployed, None when that cannot be read: the page is worth sending without."""
        try:
            body = self.open_mirror().read_file(release, b"deploy.toml", bytes_max=DEPLOY_TOML_BYTES_MAX)
            return None if body is None else parse_recipe(body)
        except (ConfigInvalid, Unavailable):
            return None

    def deploy_toml(self, sha: Sha, *, with_policy: bool) -> tuple[bytes, tuple[str, ...]]:
        """Return the deploy.toml of a commit, and what is wrong with it."""
        try:
            body = self.open_mirror().read_file(sha, b"deploy.toml", bytes_max=DEPLOY_TOML_BYTES_MAX) or b""
        except ConfigInvalid as error:
            return b"", error.problems
        found: dict[str, None] = {}
        for parse in (parse_recipe, parse_policy) if with_policy else (parse_recipe,):
            try:
                parse(body)
            except ConfigInvalid as error:
                found.update(dict.fromkeys(error.problems))
        return body, tuple(found)


def forge_senders(forge: Forge, archive: Archive, *, app_id: int | None) -> dict[Surface, Sender]:
    """Return the senders to the forge by surface, the most urgent first. Only an App may write check runs."""
    writer = CommentWriter(forge, app_id=app_id)
    senders: dict[Surface, Sender] = {
        "status": lambda outgoing: send_status(forge, outgoing),
        "reaction": lambda outgoing: send_reaction(forge, outgoing),
    }
    if app_id is not None:
        senders["check"] = lambda outgoing: send_check(forge, archive, outgoing, app_id=app_id)
    senders["deployment"] = lambda outgoing: send_deployment(forge, outgoing)
    senders["comment"] = writer.send
    return senders


def send_reaction(forge: Forge, outgoing: Outgoing) -> None:
    """React to a comment; the forge keeps one of a kind."""
    wanted = outgoing.wanted
    assert isinstance(wanted, WantedReaction)
    forge.react(wanted.comment_id, wanted.content)


def send_status(forge: Forge, outgoing: Outgoing) -> None:
    """Set a commit's status, unless the forge shows it already: of one context, the newest counts."""
    wanted = outgoing.wanted
    assert isinstance(wanted, WantedStatus)
    if outgoing.is_doubtful:
        shown = next((one for one in forge.statuses(wanted.sha) if one.context == wanted.context), None)
        if shown is not None and (shown.state, shown.description, shown.target_url) == (
            wanted.state,
            wanted.description,
            wanted.target_url,
        ):
            return
    try:
        forge.post_status(wanted)
    except Stalled as error:
        _note_plainer(outgoing, error)
        forge.post_status(replace(wanted, description=plain(wanted.description), target_url=None))


def _note_plainer(outgoing: Outgoing, error: Stalled) -> None:
    log.warning(
        "report: %s %s is sent again in plainer words: %s",
        outgoing.wanted.surface,
        outgoing.wanted.key,
        error,
        extra={"action": "report.plainer"},
    )


def send_check(forge: Forge, archive: Archive, outgoing: Outgoing, *, app_id: int) -> None:
    """Change the newest check run of a commit and context, or make one. Of one name the newest counts.

    One that is completed stays so at GitHub, whatever is said: what begins again is a new one. Annotations are sent
    once, since they add up."""
    wanted = outgoing.wanted
    assert isinstance(wanted, WantedCheck)
    body: bytes = b""
    problems: tuple[str, ...] = ()
    if wanted.blames_deploy_toml:
        # The policy counts at the production branch alone.
        body, problems = archive.deploy_toml(wanted.sha, with_policy=wanted.context == status_context(MAIN))
    check = write_check(wanted, archive.story(wanted.generation), problems=problems, deploy_toml=body)
    shown = _newest_check(forge, wanted, outgoing.made_id, app_id=app_id)
    if shown is not None:
        outgoing.remember(shown.id)
        said = (shown.external_id, shown.state, shown.title, shown.summary)
        if said == (check.external_id, check.state, check.title, check.summary):
            return
        if shown.annotations:
            check = replace(check, annotations=())
        if shown.state is not None and shown.state.is_completed and not check.state.is_completed:
            shown = None
    number = None if shown is None else shown.id
    try:
        made = forge.write_check(check, number=number)
    except Stalled as error:
        _note_plainer(outgoing, error)
        made = forge.write_check(plain_check(check), number=number)
    outgoing.remember(made)


def _newest_check(forge: Forge, wanted: WantedCheck, made_id: int | None, *, app_id: int) -> ShownCheck | None:
    """Return the newest check run: a worker that died may have made one without writing its id; a list may lag."""
    found = forge.checks(wanted.sha, name=wanted.context, app_id=app_id)
    newest = found[0] if found else None
    if made_id is not None and (newest is None or newest.id < made_id):
        return forge.check(made_id) or newest
    return newest


def send_deployment(forge: Forge, outgoing: Outgoing) -> None:
    """Make the deployment of a run, unless it was made, and say how it stands."""
    wanted = outgoing.wanted
    assert isinstance(wanted, WantedDeployment)
    number, shown = outgoing.made_id, None
    if number is not None and outgoing.is_doubtful:
        try:
            shown = forge.deployment_status(number)
        except Unavailable as error:
            if error.reason != "ForgeNotFound":
                raise
            number = None  # somebody removed it
    if number is None:
        number = forge.find_deployment(wanted)
        if number is None:
            if wanted.state is DeploymentState.INACTIVE:
                return  # nobody ever saw that it began
            number = forge.make_deployment(wanted)
        outgoing.remember(number)
        shown = forge.deployment_status(number) if outgoing.is_doubtful else None
    if shown == (str(wanted.state), wanted.description):
        return
    try:
        forge.post_deployment_status(number, wanted)
    except Stalled as error:
        _note_plainer(outgoing, error)
        plainer = replace(wanted, description=plain(wanted.description), environment_url=None)
        forge.post_deployment_status(number, plainer)


class CommentWriter:
    """Keeps the one comment at each pull request."""

    def __init__(self, forge: Forge, *, app_id: int | None) -> None:
        self._forge = forge
        self._us = None if app_id is None else Author(app_id=app_id, user_id=None)

    def send(self, outgoing: Outgoing) -> None:
        """Write the comment, or change it if it says something else; never one that is not ours."""
        wanted = outgoing.wanted
        assert isinstance(wanted, WantedComment)
        if self._us is None:
            self._us = Author(app_id=None, user_id=self._forge.user_id())
        shown = None if outgoing.made_id is None else self._forge.comment(outgoing.made_id)
        if shown is None or not shown.is_ours(self._us):
            shown = self._forge.find_comment(wanted.pull_request, self._us)
        if shown is None:
            if wanted.is_open or wanted.is_answer:
                outgoing.remember(self._write(outgoing, wanted, number=None))
            return
        outgoing.remember(shown.id)
        if shown.body.strip() != wanted.body.strip():
            self._write(outgoing, wanted, number=shown.id)

    def _write(self, outgoing: Outgoing, wanted: WantedComment, *, number: int | None) -> int:
        try:
            return self._forge.write_comment(wanted.pull_request, wanted.body, number=number)
        except Stalled as error:
            _note_plainer(outgoing, error)
            body = plain(wanted.body, chars_max=BODY_CHARS_MAX)
            return self._forge.write_comment(wanted.pull_request, body, number=number)
