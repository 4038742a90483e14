"""Does the outbox say everything once, whoever dies, and does one thing that is refused hold up nothing else?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller import failpoints
from controller.decisions.github.comments import MARKER
from controller.development.embedded_runtime import EmbeddedRuntime
from controller.effects.github_http import Client, Forge
from controller.effects.github_identity import TokenFile
from controller.effects.mirror import Mirror
from controller.effects.store import Store, migrate
from controller.loop.background import Background
from controller.loop.forge_senders import Archive, forge_senders, send_status
from controller.loop.reporter import ATTEMPTS_AT_PACE, RETRY_SLOWLY_S, Outgoing, Reporter, Sender
from controller.model.errors import Unavailable
from controller.model.names import MAIN, Layout, Sha, parse_sha
from controller.model.reports import Surface, WantedCheck, WantedComment, WantedDeployment, WantedReport, WantedStatus
from controller.model.states import CheckState, DeploymentState, StatusState
from tests.forge.our_app import Ours
from tests.forge_fixture import REPOSITORY


class Died(BaseException):
    """A worker that is killed: nothing after it runs."""


def die() -> None:
    raise Died


@dataclass
class Clock:
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now


@dataclass
class World:
    """The outbox of one stack, and the forge."""

    ours: Ours
    store: Store
    sha: Sha
    archive: Archive
    clock: Clock = field(default_factory=Clock)
    rung: threading.Event = field(default_factory=threading.Event)
    background: Background = field(init=False)

    def __post_init__(self) -> None:
        self.background = Background(self.rung.set)

    def senders(self) -> dict[Surface, Sender]:
        forge = Forge(self.ours.client, REPOSITORY, self.ours.identity())
        return forge_senders(forge, self.archive, app_id=self.ours.created.app_id)

    def restart(self) -> Reporter:
        """Begin to send with a new worker."""
        self.clock.now += timedelta(seconds=1)
        return Reporter(self.store, self.senders(), clock=self.clock)

    def want(self, *reports: WantedReport) -> None:
        self.clock.now += timedelta(seconds=1)
        self.store.record_tick(reports, done=[], now=self.clock.now)

    def get(self, path: str) -> Any:
        return self.ours.forge.api.get(path).json()

    def counts(self) -> tuple[int, int, int, int, int]:
        """Return how many statuses, check runs, deployments, their statuses and comments there are."""
        deployments = self.get("/deployments")
        return (
            len(self.get(f"/commits/{self.sha}/statuses")),
            int(self.get(f"/commits/{self.sha}/check-runs?filter=all")["total_count"]),
            len(deployments),
            sum(len(self.get(f"/deployments/{one['id']}/statuses")) for one in deployments),
            len(self.get("/issues/1/comments")),
        )

    def unsent(self) -> set[str]:
        rows = self.store.load_rows("SELECT surface FROM reports WHERE sent_generation < generation")
        return {str(row["surface"]) for row in rows}

    def all_four(self, *, is_over: bool = False) -> Sequence[WantedReport]:
        return (
            WantedStatus(
                sha=self.sha,
                context="oroboros/production",
                state=StatusState.SUCCESS if is_over else StatusState.PENDING,
                description="live" if is_over else "building",
                target_url=None,
                generation=7,
            ),
            WantedCheck(
                sha=self.sha,
                context="oroboros/production",
                state=CheckState.SUCCESS if is_over else CheckState.IN_PROGRESS,
                title="live" if is_over else "building",
                details_url=None,
                generation=7,
            ),
            WantedDeployment(
                sha=self.sha,
                environment="production",
                generation=7,
                state=DeploymentState.SUCCESS if is_over else DeploymentState.IN_PROGRESS,
                description="live" if is_over else "under way",
                environment_url=None,
            ),
            WantedComment(pull_request=1, body=f"{MARKER}\n{'Live' if is_over else 'Building'}.", is_open=True),
        )


@pytest.fixture
def world(ours: Ours, postgres_url: str, tmp_path: Path) -> Iterator[World]:
    clone = ours.forge.clone()
    sha = parse_sha(clone.commit("Begin"))
    clone.push()
    clone.commit("Change", page="one")
    clone.push("topic")
    ours.forge.open_pull("topic")
    migrate(postgres_url)
    store = Store(postgres_url, repository=REPOSITORY, host="host-1")
    store.register(slots=(MAIN,), boot_id="boot-1", now=datetime.now(UTC))
    archive = Archive(
        store=store,
        runtime=EmbeddedRuntime(tmp_path / "supervisor.sock", Layout(tmp_path)),
        open_mirror=lambda: Mirror(tmp_path / "mirror", ours.forge.url),
    )
    yield World(ours=ours, store=store, sha=sha, archive=archive)
    failpoints.disarm()
    store.close()


def reporter_of(world: World, senders: Mapping[Surface, Sender]) -> Reporter:
    return Reporter(world.store, senders, clock=world.clock)


def drain(reporter: Reporter) -> None:
    while reporter.send_next():
        pass


def kill_while_sending(world: World) -> None:
    """Let a worker die after each thing that it told, before it wrote so, until nothing is left to tell."""
    failpoints.arm("report.before_ack", die)
    with pytest.raises(Died):
        drain(world.restart())
    failpoints.disarm()


def test_all_surfaces_are_told_once_and_changed_where_they_are(world: World) -> None:
    reporter = world.restart()
    world.want(*world.all_four())
    drain(reporter)
    assert world.counts() == (1, 1, 1, 1, 1)
    world.want(*world.all_four(is_over=True))
    drain(reporter)
    assert world.counts() == (2, 1, 1, 2, 1)
    (check,) = world.get(f"/commits/{world.sha}/check-runs")["check_runs"]
    assert (check["status"], check["conclusion"], check["external_id"]) == ("completed", "success", "7")
    (comment,) = world.get("/issues/1/comments")
    assert comment["body"].endswith("Live.")
    assert world.unsent() == set()
    drain(world.restart())
    assert world.counts() == (2, 1, 1, 2, 1)


def test_t_c13_a_worker_that_dies_before_it_wrote_that_it_told_repeats_nothing(world: World) -> None:
    """Of what a dead worker told, the next one reads what is there; so nothing is said twice."""
    world.want(*world.all_four())
    failpoints.arm("report.before_ack", die)
    for _ in range(3):
        for surface in ("status", "check", "deployment", "comment"):
            with pytest.raises(Died):
                reporter_of(world, {surface: world.senders()[surface]}).send_next()
    failpoints.disarm()
    assert world.unsent() == {"status", "check", "deployment", "comment"}
    drain(world.restart())
    assert world.unsent() == set()
    assert world.counts() == (1, 1, 1, 1, 1)


def test_t_g14_fifty_restarts_post_at_most_two_statuses_for_one_commit(world: World) -> None:
    for count in range(50):
        world.want(*world.all_four(is_over=count > 25))
        kill_while_sending(world)
    statuses, checks, deployments, _, comments = world.counts()
    assert statuses <= 2
    assert (checks, deployments, comments) == (0, 0, 0) or (checks, deployments, comments) == (1, 1, 1)
    drain(world.restart())
    assert world.counts() == (2, 1, 1, 1, 1)
    assert world.get(f"/commits/{world.sha}/statuses")[0]["state"] == "success"


@pytest.mark.parametrize("surface", ["check", "deployment", "comment"])
def test_what_was_made_is_found_again_when_its_id_was_never_written(world: World, surface: Surface) -> None:
    wanted = next(one for one in world.all_four() if one.surface == surface)
    send = world.senders()[surface]

    def forget(_made: int) -> None:
        raise Died

    lost = Outgoing(wanted=wanted, made_id=None, is_doubtful=False, remember=forget)
    with pytest.raises(Died):
        send(lost)
    before = world.counts()
    remembered: list[int] = []
    send(Outgoing(wanted=wanted, made_id=None, is_doubtful=True, remember=remembered.append))
    after = world.counts()
    assert len(remembered) == 1
    assert (after[1], after[2], after[4]) == (before[1], before[2], before[4])


def test_t_g14_what_is_refused_for_good_is_not_tried_again_and_holds_up_nothing(world: World) -> None:
    status, *others = world.all_four()
    assert isinstance(status, WantedStatus)
    unknown = WantedStatus(
        sha=Sha("f" * 40),
        context=status.context,
        state=status.state,
        description="x",
        target_url=None,
        generation=0,
    )
    reporter = world.restart()
    world.want(unknown, status, *others)
    drain(reporter)
    assert world.unsent() == {"status"}
    writes = world.ours.forge.knobs.get("/_development/seen").json()["writes"]
    for _ in range(5):
        drain(world.restart())
    assert world.ours.forge.knobs.get("/_development/seen").json()["writes"] == writes
    ((stalled, error),) = (
        (row["stalled"], str(row["error"]))
        for row in world.store.load_rows("SELECT stalled, error FROM reports WHERE sent_generation < generation")
    )
    assert stalled
    assert "StatusRefused" in error or "does not take" in error


def test_what_the_forge_refuses_for_its_characters_is_said_in_plainer_words(world: World) -> None:
    reporter = world.restart()
    odd = "the build says \N{BUG}"
    status, _, deployment, _ = world.all_four()
    assert isinstance(status, WantedStatus)
    assert isinstance(deployment, WantedDeployment)
    world.want(replace(status, description=odd), replace(deployment, description=odd))
    drain(reporter)
    assert world.unsent() == set()
    (told,) = world.get(f"/commits/{world.sha}/statuses")
    assert told["description"] == "the build says ?"
    (made,) = world.get("/deployments")
    (told,) = world.get(f"/deployments/{made['id']}/statuses")
    assert told["description"] == "the build says ?"


@pytest.fixture
def statuses(world: World) -> Iterator[Reporter]:
    """A sender of statuses alone, whose client goes by the outbox's clock."""
    with Client(world.ours.forge.url, clock=world.clock, write_pause_s=0) as client:
        forge = Forge(client, REPOSITORY, TokenFile(world.ours.forge.token_file))
        yield reporter_of(world, {"status": lambda outgoing: send_status(forge, outgoing)})


def status_of(world: World, context: str, description: str) -> WantedStatus:
    return WantedStatus(
        sha=world.sha,
        context=context,
        state=StatusState.SUCCESS,
        description=description,
        target_url=None,
        generation=1,
    )


@pytest.mark.parametrize(
    ("knob", "content"),
    [("outage", {}), ("limit", {"shape": "secondary", "status": 429})],
    ids=["outage", "limit"],
)
def test_t_g12_nothing_is_given_up_for_an_outage_or_a_limit_however_long(
    world: World, statuses: Reporter, knob: str, content: dict[str, object]
) -> None:
    world.ours.forge.knob(knob, seconds=600, **content)
    world.want(status_of(world, "kept", "only"), status_of(world, "one", "first"))
    for _ in range(ATTEMPTS_AT_PACE + 5):
        drain(statuses)
        world.clock.now += timedelta(seconds=RETRY_SLOWLY_S + 1)
    world.want(status_of(world, "one", "last"), status_of(world, "two", "last"))
    drain(statuses)
    assert world.unsent() == {"status"}
    world.ours.forge.knob(knob, seconds=0, **content)
    for _ in range(3):
        world.clock.now += timedelta(seconds=RETRY_SLOWLY_S + 1)
        drain(statuses)
    assert world.unsent() == set()
    shown = world.get(f"/commits/{world.sha}/statuses")
    assert sorted((one["context"], one["description"]) for one in shown) == [
        ("kept", "only"),
        ("one", "last"),
        ("two", "last"),
    ]


def test_while_the_forge_is_away_one_report_asks_for_all(world: World, statuses: Reporter) -> None:
    world.ours.forge.knob("outage", seconds=600)
    world.want(*(status_of(world, f"context-{number}", "live") for number in range(20)))
    before = world.ours.forge.knobs.get("/_development/seen").json()["used"]
    drain(statuses)
    assert world.ours.forge.knobs.get("/_development/seen").json()["used"] - before <= 1


def test_a_report_that_makes_the_forge_fail_holds_up_no_other(world: World, statuses: Reporter) -> None:
    path = f"/repos/{REPOSITORY}/statuses/{'e' * 40}"
    world.ours.forge.knob("fail", status=502, count=1000, path=path)
    world.want(replace(status_of(world, "one", "live"), sha=Sha("e" * 40)))
    world.want(*(status_of(world, f"context-{number}", "live") for number in range(5)))
    drain(statuses)
    world.clock.now += timedelta(seconds=2)
    drain(statuses)
    assert len(world.get(f"/commits/{world.sha}/statuses")) == 5


def test_a_surface_that_we_may_not_write_waits_alone_and_is_not_asked_for_each_report(world: World) -> None:
    def refuse(path: str) -> Callable[[], object]:
        return lambda: world.ours.forge.knob("fail", status=403, count=1, path=f"/repos/{REPOSITORY}{path}")

    reporter = world.restart()
    refuse("/deployments")()
    _, _, deployment, _ = world.all_four()
    assert isinstance(deployment, WantedDeployment)
    second = WantedDeployment(
        sha=deployment.sha,
        environment="preview-1",
        generation=8,
        state=deployment.state,
        description="",
        environment_url=None,
    )
    world.want(second, *world.all_four())
    drain(reporter)
    assert world.unsent() == {"deployment"}
    assert world.counts() == (1, 1, 0, 0, 1)
    world.clock.now += timedelta(seconds=400)
    drain(reporter)
    assert world.unsent() == set()
    assert world.counts() == (1, 1, 2, 2, 1)


def test_what_begins_again_is_a_new_check_run_which_a_death_does_not_double(world: World) -> None:
    _, begun, _, _ = world.all_four()
    _, over, _, _ = world.all_four(is_over=True)
    reporter = world.restart()
    world.want(over)
    drain(reporter)
    world.want(begun)
    for _ in range(3):
        kill_while_sending(world)
    drain(world.restart())
    newest, first = sorted(
        world.get(f"/commits/{world.sha}/check-runs?filter=all")["check_runs"], key=lambda one: -int(one["id"])
    )
    assert (first["conclusion"], newest["status"]) == ("success", "in_progress")
    world.want(over)
    drain(world.restart())
    (shown,) = world.get(f"/commits/{world.sha}/check-runs")["check_runs"]
    assert (shown["id"], shown["conclusion"]) == (newest["id"], "success")


def test_a_deployment_that_somebody_removed_is_made_anew(world: World) -> None:
    reporter = world.restart()
    world.want(world.all_four()[2])
    drain(reporter)
    (first,) = world.get("/deployments")
    world.ours.forge.api.delete(f"/deployments/{first['id']}")
    world.want(world.all_four(is_over=True)[2])
    drain(reporter)  # it is not there: looked up at the next attempt
    world.clock.now += timedelta(seconds=400)
    drain(reporter)
    (second,) = world.get("/deployments")
    assert second["id"] != first["id"]
    assert world.unsent() == set()


def test_a_comment_that_somebody_removed_is_written_anew_and_one_that_is_over_is_not(world: World) -> None:
    reporter = world.restart()
    world.want(world.all_four()[3])
    drain(reporter)
    (first,) = world.get("/issues/1/comments")
    world.ours.forge.api.delete(f"/issues/comments/{first['id']}")
    world.want(WantedComment(pull_request=1, body=f"{MARKER}\nLive.", is_open=True))
    drain(reporter)
    (second,) = world.get("/issues/1/comments")
    assert second["id"] != first["id"]
    world.ours.forge.api.delete(f"/issues/comments/{second['id']}")
    world.want(WantedComment(pull_request=1, body=f"{MARKER}\nEnded.", is_open=False))
    drain(reporter)
    assert world.get("/issues/1/comments") == []
    assert world.unsent() == set()


@dataclass(frozen=True)
class Fast:
    """The clock of a forge whose limits run faster than time."""

    began_s: float
    speed: float

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(self.began_s + (time.time() - self.began_s) * self.speed, UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self.speed)


def strict(world: World, *, speed: float) -> Fast:
    """Enforce all limits, and begin to count; answers take long enough for two of them to be at once."""
    world.ours.forge.knob("slow", seconds=0.004)
    told = world.ours.forge.knob("strict", speed=speed)
    return Fast(began_s=told["began_at"], speed=speed)


def seen(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.ours.forge.knobs.get("/_development/seen").json()
    return found


#: After so many reports that were sent, the forge limits us so.
LIMITED = {
    20: {"shape": "retry-after", "status": 403, "seconds": 30},
    40: {"shape": "reset", "status": 403, "seconds": 25},
    60: {"shape": "secondary", "status": 403, "seconds": 50},
    80: {"shape": "secondary", "status": 429, "seconds": 50},
}
#: A second between writes must be more than they take by themselves.
SPEED = 25


def test_t_g11_two_hundred_reports_arrive_at_a_strict_forge_without_one_violation(world: World) -> None:
    """One request at a time, a second between writes, limits obeyed in each of their shapes, while others read."""
    statuses = [
        WantedStatus(
            sha=world.sha,
            context=f"oroboros/{number}",
            state=StatusState.SUCCESS,
            description="live",
            target_url=None,
            generation=number,
        )
        for number in range(200)
    ]
    world.want(*statuses, *world.all_four(is_over=True))
    identity = world.ours.identity()
    identity.token()  # minted through another client, whose writes are not those that are counted
    clock = strict(world, speed=SPEED)
    talking = Client(world.ours.forge.url, clock=clock, sleep=clock.sleep)
    forge = Forge(talking, REPOSITORY, identity)
    senders = forge_senders(forge, world.archive, app_id=world.ours.created.app_id)
    reporter = Reporter(world.store, senders, clock=clock)
    is_over = threading.Event()
    limited: list[Unavailable] = []

    def read() -> None:
        while not is_over.wait(0.02):
            try:
                forge.open_pulls()
            except Unavailable as error:
                limited.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        deadline_s, sent = time.monotonic() + 120, 0
        while world.unsent():
            assert time.monotonic() < deadline_s, (world.unsent(), seen(world))
            if not reporter.send_next():
                time.sleep(0.01)
                continue
            sent += 1
            if sent in LIMITED:
                world.ours.forge.knob("limit", **LIMITED[sent])
    finally:
        is_over.set()
        reader.join()
        talking.close()
    counted = seen(world)
    world.ours.forge.knob("strict", enforced=False)
    world.ours.forge.knob("limit", seconds=0)
    assert (counted["violations"], counted["refused"], counted["in_flight_max"]) == ([], 0, 1)
    assert counted["write_gap_min_s"] >= 0.99
    assert {error.reason for error in limited} == {"ForgeLimited"}
    shown = [
        one["context"]
        for page in (1, 2, 3)
        for one in world.get(f"/commits/{world.sha}/statuses?per_page=100&page={page}")
    ]
    assert sorted(shown) == sorted(
        one.context for one in (*statuses, world.all_four()[0]) if isinstance(one, WantedStatus)
    )
    assert world.counts()[1:] == (1, 1, 1, 1)


def test_after_five_thousand_requests_all_goes_on_when_the_hour_ends_with_what_matters_first(world: World) -> None:
    """Nothing is asked meanwhile; then production's head comes first, and the newest before the older ones."""
    clone = world.ours.forge.clone("limited")
    shas = [world.sha, *(parse_sha(clone.commit(f"Change {number}", page=f"{number}")) for number in range(4))]
    clone.push()
    head = shas[2]
    for sha in shas:
        status = world.all_four(is_over=True)[0]
        assert isinstance(status, WantedStatus)
        world.want(replace(status, sha=sha))
    world.store.record_head(head, refused=None, force_push=None, now=world.clock.now)
    identity = world.ours.identity()
    identity.token()
    told = world.ours.forge.knob("strict", per_hour=5_000, used=5_000, speed=2_000)
    clock = Fast(began_s=told["began_at"], speed=told["speed"])
    talking = Client(world.ours.forge.url, clock=clock, sleep=clock.sleep)
    forge = Forge(talking, REPOSITORY, identity)
    sent: list[Sha] = []

    def send(outgoing: Outgoing) -> None:
        assert isinstance(outgoing.wanted, WantedStatus)
        send_status(forge, outgoing)
        sent.append(outgoing.wanted.sha)

    reporter = Reporter(world.store, {"status": send}, clock=clock)
    with pytest.raises(Unavailable) as limited:
        forge.open_pulls()
    ends_at = limited.value.retry_at
    assert ends_at is not None
    assert ends_at > clock()
    try:
        deadline_s = time.monotonic() + 60
        while "status" in world.unsent():
            assert time.monotonic() < deadline_s, (world.unsent(), seen(world))
            if clock() < ends_at:
                assert sent == []
            if not reporter.send_next():
                time.sleep(0.005)
        assert forge.open_pulls()
    finally:
        talking.close()
    counted = seen(world)
    world.ours.forge.knob("strict", enforced=False)
    assert (counted["refused"], counted["violations"]) == (1, [])
    newest_first = [sha for sha in reversed(shas) if sha != head]
    assert sent == [head, *newest_first]


def test_the_forge_counts_who_forgets_his_manners(world: World) -> None:
    strict(world, speed=1)
    forge = world.ours.forge
    forge.client.post_status(world.all_four()[0])
    forge.client.post_status(world.all_four(is_over=True)[0])
    forge.knob("limit", shape="retry-after", seconds=30)
    for _ in range(2):
        assert forge.api.get("/pulls").status_code == 403
    forge.knob("slow", seconds=0.2)
    threads = [
        threading.Thread(target=lambda: httpx.get(f"{forge.url}/api/v3/user", trust_env=False)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = " | ".join(seen(world)["violations"])
    assert "after the write before it" in told
    assert "before the limit ended" in told
    assert "2 requests at once" in told


def test_a_bug_in_a_sender_is_kept_for_the_worker_to_end_by_and_is_not_met_again_at_once(world: World) -> None:
    met: list[Outgoing] = []

    def stumble(outgoing: Outgoing) -> None:
        met.append(outgoing)
        raise KeyError("a bug")

    world.want(status_of(world, "one", "live"))
    reporter, before = reporter_of(world, {"status": stumble}), threading.excepthook
    threading.excepthook = world.background.keep_bug
    reporter.start()
    assert world.rung.wait(5)
    reporter.stop(timeout_s=5)
    threading.excepthook = before
    with pytest.raises(KeyError):
        world.background.raise_bugs()
    assert not reporter_of(world, {"status": stumble}).send_next()
    assert len(met) == 1
    world.clock.now += timedelta(seconds=2)
    drain(world.restart())
    assert world.unsent() == set()
