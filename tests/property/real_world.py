"""What is a world whose forge, store, mirror, receiver and reporter are real, and whose host is the one in memory?

Everything that decides who may run and what is said of it is the product's own code: the receiver stores deliveries in
Postgres, `Reconciler` looks at the forge and reads comments when it finds it is time, git fetches, `observe` reads
store and mirror, `Answering` answers, `Reporter` sends what the projection wants. The forge is the development forge,
asked in this process, and each exchange is held against what GitHub publishes. Only slots, releases and runs are those
of `tests/world.py`: no process starts. The world in between loses, doubles and shuffles deliveries.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import psycopg
import pygit2
from psycopg import sql
from starlette.types import ASGIApp

from controller.decisions.admission import judge_admission
from controller.decisions.holds import held_run
from controller.development import forge_events
from controller.development.forge_doors import build_app
from controller.development.forge_events import Problem
from controller.development.forge_git import GitRepository
from controller.development.forge_records import Records
from controller.development.forge_shapes import Delivery, Shapes
from controller.doors.api_server import build_app as build_api
from controller.effects.github_http import Client, Forge
from controller.effects.github_identity import TokenFile
from controller.effects.live import SlotLock, write_live
from controller.effects.mirror import Mirror
from controller.effects.runtime import Runtime
from controller.effects.signatures import Signatures
from controller.effects.store import History, Store
from controller.loop.answering import Answering
from controller.loop.background import Background, Key
from controller.loop.execute import Hands
from controller.loop.forge_senders import Archive, forge_senders
from controller.loop.gate_threads import GateThreads
from controller.loop.housekeeping import Housekeeping
from controller.loop.observe import Sight, observe
from controller.loop.reconcile import Health, Reconciler, decide
from controller.loop.reporter import Reporter
from controller.loop.troubles import Troubles
from controller.model.config import Api, Recipe, Settings, read_settings
from controller.model.errors import Unavailable, Waiting
from controller.model.names import MAIN, Sha, SlotName, TreeId
from controller.model.nouns import Head, PortFact, ProcessFact
from controller.model.reports import WantedReport, WantedStatus, report_from_json
from controller.model.states import StatusState
from controller.model.steps import BeginRun, EndOverride, Step, Switch
from controller.model.world import Observed
from tests.hooks.deliveries import REPOSITORY, SECRET
from tests.published import Published
from tests.world import Broken, Commit, FakeHost, live_content, previews_served

TOKEN = "ghs_property." + "Tk0" * 20
BASE_URL = "http://127.0.0.1:8070"
RESYNC_S = 300.0
#: Longer than any pause before a retry.
PATIENCE_S = 400.0
DELIVERIES_MAX = 100
TICKS_MAX = 4
#: Each commit of the repository by its parent; 5 and 6 leave the line of 1 to 4, 7 too, and 8 is another history.
PARENTS = {1: 0, 2: 1, 3: 2, 4: 3, 5: 2, 6: 5, 7: 1, 8: 0}
DEPLOY_TOML = b"""
[api]
command = "app"

[previews]
slots = 4
exclude_labels = ["no-preview"]
drafts = false

[permissions]
accept_fork_risk = true
commands = "write"
"""
WRITER, STRANGER = "ann", "stranger"


@dataclass(frozen=True, slots=True, kw_only=True)
class RealCommit(Commit):
    """A commit of a real repository."""

    made: Head

    @property
    def head(self) -> Head:
        return self.made


class AtOnce(Background):
    """Does beside the tick what belongs there, but before the tick goes on: stories are the same each time."""

    def start(self, key: Key, work: Callable[[], None]) -> bool:
        del key
        work()
        return True


class NoProcesses:
    """What a service manager tells where the host is in memory."""

    def observe(self) -> tuple[ProcessFact, ...]:
        return ()

    def environment(self, unit: str) -> dict[str, str]:
        del unit
        return {}

    def taken_ports(self) -> tuple[PortFact, ...]:
        return ()


class InProcess(httpx.BaseTransport):
    """Asks an application of this process."""

    def __init__(self, app: ASGIApp, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = httpx.ASGITransport(app)
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._loop.run_until_complete(self._ask(request))

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        content = b"".join([piece async for piece in answer.stream])
        return httpx.Response(answer.status_code, headers=answer.headers, content=content)


@dataclass(slots=True, repr=False)
class Ground:
    """What all stories of a test stand on: a repository whose commits are made once, a database, a receiver."""

    folder: Path
    settings: Settings
    loop: asyncio.AbstractEventLoop
    receiver: httpx.Client
    git: GitRepository
    commits: dict[int, RealCommit]
    violations: Path
    stories: int = 0

    def _repr_pretty_(self, printer: Any, is_cycle: bool) -> None:
        """Be short where Hypothesis shows a story that failed."""
        del is_cycle
        printer.text("<Ground>")

    @property
    def repository(self) -> pygit2.Repository:
        return pygit2.Repository(str(self.git.path))

    def descends(self, newer: Sha, older: Sha) -> bool:
        return self.git.contains(newer, older)

    def clear(self) -> None:
        """Forget the last story: no row, no ref, no mirror."""
        self.stories += 1
        with psycopg.connect(self.settings.database_url, autocommit=True) as connection:
            tables = [
                sql.Identifier(str(row[0]))
                for row in connection.execute(
                    "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations'"
                )
            ]
            connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join(tables)))
        repository = self.repository
        for name in list(repository.references):
            if name != "HEAD":
                repository.references.delete(name)
        for kept in (self.settings.layout.mirror, self.settings.layout.root / "slots"):
            shutil.rmtree(kept, ignore_errors=True)


@contextlib.contextmanager
def prepare(folder: Path, *, database_url: str, redis_url: str, violations: Path) -> Iterator[Ground]:
    """Make the commits, and start the receiver."""
    for name, secret in (("webhook-secrets", SECRET.decode()), ("token", TOKEN)):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(f"{secret}\n")
    settings = read_settings(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "OROBOROS_ROOT": str(folder / "root"),
            "OROBOROS_RUN": str(folder / "run"),
            "OROBOROS_REPOSITORY": REPOSITORY,
            "OROBOROS_FORGE_URL": BASE_URL,
            "OROBOROS_FORGE_TOKEN_FILE": str(folder / "token"),
            "OROBOROS_WEBHOOK_SECRETS_FILE": str(folder / "webhook-secrets"),
            "OROBOROS_CONFIG_DIR": str(folder),
        }
    )
    for made in (folder / "forge", settings.layout.root, folder / "run"):
        made.mkdir()
    with psycopg.connect(database_url, autocommit=True) as connection:
        # Nothing crashes here, and a story commits some hundred times.
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
    git = GitRepository(folder / "forge", "shop")
    loop = asyncio.new_event_loop()
    api = build_api(settings)
    lifespan = api.router.lifespan_context(api)
    loop.run_until_complete(lifespan.__aenter__())
    try:
        yield Ground(
            folder=folder,
            settings=settings,
            loop=loop,
            receiver=httpx.Client(transport=InProcess(api, loop), base_url="http://receiver"),
            git=git,
            commits=make_commits(pygit2.Repository(str(git.path))),
            violations=violations,
        )
    finally:
        loop.run_until_complete(lifespan.__aexit__(None, None, None))
        loop.close()


def make_commits(repository: pygit2.Repository) -> dict[int, RealCommit]:
    """Make every commit of `PARENTS`, each with content of its own."""
    found: dict[int, RealCommit] = {}
    who = pygit2.Signature("Ann", "ann@example.com", 1_700_000_000, 0)
    for number, parent in PARENTS.items():
        builder = repository.TreeBuilder()
        for name, body in (("deploy.toml", DEPLOY_TOML), ("page", str(number).encode())):
            builder.insert(name, repository.create_blob(body), pygit2.enums.FileMode.BLOB)
        tree = builder.write()
        parents = [pygit2.Oid(hex=found[parent].made.sha)] if parent else []
        sha = repository.create_commit(None, who, who, f"Commit {number}", tree, parents)
        head = Head(sha=Sha(str(sha)), tree=TreeId(str(tree)), title=f"Commit {number}")
        found[number] = RealCommit(number=number, content=number, recipe=Recipe(api=Api(command=("app",))), made=head)
    return found


class RealWorld(FakeHost):
    """One story's forge, store, mirror and reporter, and its host."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(previews=4, commits=tuple(ground.commits.values()))
        ground.clear()
        self.ground = ground
        # Ahead of Postgres' own clock for good: what a story calls later is later.
        self.now = datetime.now(UTC) + timedelta(seconds=2)
        settings, folder = ground.settings, ground.folder
        self.forge = forge_events.Forge(
            git=ground.git,
            records=Records(folder / "forge" / f"{ground.stories}.sqlite"),
            shapes=Shapes(BASE_URL, REPOSITORY, created_at=forge_events.utc_text()),
            webhook_url="http://receiver/webhooks/github",
            webhook_secret_file=folder / "webhook-secrets",
            token_file=folder / "token",
        )
        transport = InProcess(Published(build_app(self.forge), ground.violations), ground.loop)
        self.people = httpx.Client(
            transport=transport, base_url=BASE_URL, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
        )
        self.client = Client(BASE_URL, clock=self.clock, write_pause_s=0, transport=transport)
        self.api = Forge(self.client, REPOSITORY, TokenFile(folder / "token"))
        self.store = Store(settings.database_url, repository=REPOSITORY, host="host-1")
        self.store.register(slots=self.topology.slots, boot_id="boot-1", now=self.now)
        self.mirror = self.open_mirror()
        self.mirror.ensure()
        self.reconciler, self.reporter = self._wire()
        #: What some writer's comment may be taken to have approved and when, by the forge's own record; a listing after
        #: it that shows another head ends it.
        self.allowed: dict[tuple[int, Sha], datetime] = {}
        #: Commits that production was ordered to.
        self.ordered: set[Sha] = set()
        self.late: list[Delivery] = []
        self.numbers: dict[int, int] = {}
        self.tick_saw = self.observe()
        self._sync()

    def _wire(self) -> tuple[Reconciler, Reporter]:
        settings, runtime, background = self.ground.settings, cast("Runtime", NoProcesses()), AtOnce(lambda: None)
        gates = GateThreads(lambda _verdict, _proof: None)
        sight = Sight(
            store=self.store,
            mirror=self.mirror,
            runtime=runtime,
            databases=None,
            signatures=Signatures(settings.layout.mirror, settings.config_dir),
            layout=settings.layout,
            topology=self.topology,
            config_dir=settings.config_dir,
            background=background,
            gate_activities=gates.running,
        )
        hands = Hands(
            settings=settings,
            sight=sight,
            store=self.store,
            side=self.store,
            gates=gates,
            background=background,
            clock=self.clock,
            open_mirror=self.open_mirror,
            record_verdict=lambda _verdict, _proof: None,
        )
        archive = Archive(store=self.store, runtime=runtime, open_mirror=self.open_mirror)
        senders = forge_senders(self.api, archive, app_id=None)
        reconciler = Reconciler(
            hands=hands,
            forge=self.api,
            answering=Answering(
                forge=self.api,
                store=self.store,
                open_mirror=self.open_mirror,
                clock=self.clock,
                wake_reports=lambda: None,
            ),
            housekeeping=Housekeeping(
                layout=settings.layout,
                topology=sight.topology,
                store=self.store,
                runtime=runtime,
                clock=self.clock,
            ),
            production_branch=None,
            poll_interval_s=5.0,
            resync_s=RESYNC_S,
            surfaces=tuple(senders),
            wake_reports=lambda: None,
            tell_alive=lambda: None,
            clock=self.clock,
            health=Health(started_at=self.now),
            troubles=Troubles(self.store.load_troubles(), clock=self.clock),
            hears_bell=lambda: True,
        )
        return reconciler, Reporter(self.store, senders, clock=self.clock)

    def close(self) -> None:
        self.store.close()
        self.forge.records.close()

    def clock(self) -> datetime:
        return self.now

    def open_mirror(self) -> Mirror:
        return Mirror(self.ground.settings.layout.mirror, f"file://{self.ground.git.path}", allow_file_url=True)

    def elapse(self, seconds: float = 6.0) -> None:
        super().elapse(seconds)
        self._sync()

    def _sync(self) -> None:
        """Let the forge's clock go with ours."""
        self.forge.knobs.clock_ahead_s = (self.now - datetime.now(UTC)).total_seconds()

    # -- what people do -----------------------------------------------------------------------------------------------

    def sha(self, commit: int) -> Sha:
        return self.ground.commits[commit].made.sha

    def move(self, branch: str, commit: int | None) -> None:
        """Push a branch, by force if it must be; None removes it."""
        repository, ref = self.ground.repository, f"refs/heads/{branch}"
        old = self.ground.git.branch_head(branch)
        if commit is None:
            repository.references.delete(ref)
        else:
            repository.references.create(ref, pygit2.Oid(hex=self.sha(commit)), force=True)
        new = self.ground.git.branch_head(branch)
        before, after = ({ref: one} if one else {} for one in (old, new))
        self.forge.note_ref_moves(before, after)

    def number(self, pull: int) -> int | None:
        """Return the number of a pull request of the story that is open."""
        number = self.numbers.get(pull)
        found = None if number is None else self.forge.records.load_pull(number)
        return number if found is not None and found.is_open else None

    def push_own(self, pull: int, commit: int) -> None:
        self.move(f"topic-{pull}", commit)
        if self.number(pull) is None:
            with contextlib.suppress(Problem):  # it adds nothing to main
                opened = self.forge.open_pull(title="T", body=None, branch=f"topic-{pull}", base="main", origin="own")
                self.numbers[pull] = opened.number

    def push_fork(self, pull: int, commit: int) -> None:
        branch, number = f"fork-{pull}", self.number(pull)
        self.ground.repository.references.create(f"refs/heads/{branch}", pygit2.Oid(hex=self.sha(commit)), force=True)
        if number is None:
            opened = self.forge.open_pull(title="F", body=None, branch=branch, base="main", origin="fork")
            self.numbers[pull] = opened.number
        else:
            self.knob("fork_push", number=number, branch=branch)

    def knob(self, name: str, **content: object) -> dict[str, Any]:
        answer = self.people.post(f"/_development/{name}", json=content)
        assert answer.status_code in (200, 201), answer.text
        found: dict[str, Any] = answer.json()
        return found

    def say(self, number: int, text: str, *, author: str, means: Sha | None = None) -> None:
        """Comment; `means` is the commit that its author has in mind."""
        self.knob("comment", pull=number, author=author, body=text)
        if author == WRITER and means is not None:
            self.allowed[number, means] = self.now

    def head_of(self, number: int) -> Sha:
        return Sha(self.forge.records.read_pull(number).head_sha)

    # -- what becomes of deliveries -----------------------------------------------------------------------------------

    def hand_over(self, fate: str) -> None:
        """Let what the forge has to tell come, once or twice, late, or never."""
        for delivery in self.forge.records.load_unsent(at_most=DELIVERIES_MAX):
            if fate in ("comes", "twice"):
                for _ in range(2 if fate == "twice" else 1):
                    self.deliver(delivery)
            elif fate == "late":
                self.late.append(delivery)
            self.forge.records.record_sent(
                delivery, at=self.forge.now_text(), duration_s=0.0, status="OK", status_code=202
            )

    def let_late_ones_come(self, seed: int) -> None:
        random.Random(seed).shuffle(self.late)
        for delivery in self.late:
            self.deliver(delivery)
        self.late.clear()

    def deliver(self, delivery: Delivery) -> None:
        headers = self.forge._delivery_headers(delivery)
        answer = self.ground.receiver.post("/webhooks/github", content=delivery.body, headers=headers)
        # A machine that is busy may let the inbox miss its deadline: then this one is lost.
        assert answer.status_code in (202, 503), answer.text
        # The story's time, not Postgres' own.
        with psycopg.connect(self.ground.settings.database_url, autocommit=True) as connection:
            connection.execute(
                "UPDATE deliveries SET armed_at = %(now)s, received_at = least(received_at, %(now)s) WHERE id = %(id)s",
                {"now": self.now, "id": delivery.guid},
            )

    # -- one tick, as the loop does it --------------------------------------------------------------------------------

    def see(self) -> tuple[Observed, History]:
        """Observe store and mirror as the loop does, and the host in memory."""
        real, history = observe(self.reconciler.hands.sight)
        self.policy, self.overrides, self.holds = real.policy, list(real.overrides), list(real.holds)
        self.stops = list(real.stops)
        heads, listed_at = {pull.number: pull.head_sha for pull in history.pulls}, history.repository.listed_at
        for (number, sha), said_at in list(self.allowed.items()):
            if listed_at is not None and said_at < listed_at and heads.get(number) != sha:
                del self.allowed[number, sha]
        host = super().observe()
        return replace(
            real,
            slots=host.slots,
            releases=host.releases,
            proven=host.proven,
            quarantined=host.quarantined,
            waiting_since=host.waiting_since,
        ), history

    def observe(self) -> Observed:
        return self.see()[0]

    def tick(self, *, crash_after: int | None = None) -> tuple[Step, ...]:
        assert crash_after is None
        for _ in range(TICKS_MAX):
            # As the loop does it: what a busy database did not answer in time is done again.
            with contextlib.suppress(Unavailable):
                return self._tick()
        raise Broken(f"{TICKS_MAX} ticks in a row ended without an end")

    def _tick(self) -> tuple[Step, ...]:
        observed, history = self.see()
        self.tick_saw = observed
        self.reconciler._refresh(history, observed.policy, now=self.now)
        self.reconciler._read_comments(history, observed, now=self.now)
        decision = decide(observed, now=self.now)
        self.reconciler._note_head(observed, history, now=self.now)
        for place in decision.slots.queue:
            self.waiting_since.setdefault(place.pull_request, self.now)
        self._apply_line(decision.slots.steps)
        for one in decision.each:
            self._apply_line(one.steps)
        self._apply_line(decision.prune)
        self.ordered |= {order.head.sha for order in observed.overrides}
        self.reconciler._report(observed, decision, now=self.now)
        self.send()
        return decision.steps

    def send(self) -> None:
        while self.reporter.send_next():
            pass

    def _apply_line(self, steps: Sequence[Step]) -> None:
        """Apply one line of steps; what its executor refuses ends it, and no other."""
        with contextlib.suppress(Waiting):
            for step in steps:
                self.apply(step)

    def _check_not_held(self, step: Step, slot: SlotName, generation: int) -> None:
        """No plan may hold what its tick saw forbidden; what was forbidden since then its executor refuses."""
        run, fresh = self._running(slot, generation), self.observe()
        if run is None or (held := held_run(fresh, fresh.slot(slot), run, now=self.now)) is None:
            return
        if held_run(self.tick_saw, self.tick_saw.slot(slot), run, now=self.now) is not None:
            raise Broken(f"{step} but {slot} is held")
        raise Waiting(held.reason, held.why)

    def apply(self, step: Step) -> None:
        match step:
            case BeginRun() if step.domain.startswith("pr-"):
                number = int(step.domain.removeprefix("pr-"))
                is_own = self.forge.records.read_pull(number).origin == "own"
                if not is_own and (number, step.head.sha) not in self.allowed:
                    raise Broken(f"a stranger's commit runs that nobody approved: {step}")
            case Switch() if step.slot == MAIN:
                self._check_order(step)
            case EndOverride():
                self.store.end_override(step.id, reason=step.reason, now=self.now)
            case _:
                pass
        super().apply(step)
        if isinstance(step, Switch) and step.slot == MAIN:
            self._write_live(MAIN)

    def _check_order(self, step: Switch) -> None:
        run, live = self.slots[MAIN].run, self.slots[MAIN].live
        if run is None or live is None or live.release is None:
            return
        if self.ground.descends(live.release, run.release) and run.release not in {live.release, *self.ordered}:
            raise Broken(f"production moves back to {run.release[:7]} and nobody ordered it: {step}")

    def _write_live(self, slot: SlotName) -> None:
        """Tell on the disk what is served, where the judgement of force-pushes reads it."""
        live = self.slots[slot].live
        assert live is not None
        layout = self.ground.settings.layout
        layout.slot(slot).mkdir(parents=True, exist_ok=True)
        with SlotLock(layout, slot) as held:
            write_live(layout, replace(live, address="127.0.0.1:1"), held=held)

    # -- how it ends --------------------------------------------------------------------------------------------------

    def settle_all(self) -> None:
        """Let all that was lost be found: the resync repeats every hint, and what failed is tried again."""
        self.forge.knobs.failures = (0, 500, "")
        self.elapse(PATIENCE_S)
        self.tick()
        self.elapse(PATIENCE_S)
        self.settle()
        self.send()

    def reports_wanted(self) -> list[WantedReport]:
        rows = self.store.load_rows("SELECT surface, wanted FROM reports")
        return [report_from_json(row["surface"], row["wanted"]) for row in rows]


def check_end(world: RealWorld) -> None:
    """Hold the end of a story against the truth at the forge."""
    observed, history = world.see()
    _check_previews(world, observed)
    _check_production(world, observed)
    _check_statuses(world)
    _check_words(world)
    assert history.pending == (), "every delivery was looked at"
    assert not any(world.reconciler.health.trouble)


def _check_previews(world: RealWorld, observed: Observed) -> None:
    orders = world.store.load_preview_orders()
    truth = {
        pull.number: next(c.made.tree for c in world.ground.commits.values() if c.made.sha == pull.head_sha)
        for pull in world.api.open_pulls()
        if judge_admission(pull, observed.policy, orders).admits
    }
    assert previews_served(world) == truth
    for pull in world.api.open_pulls():
        if pull.number in truth and not pull.same_repository:
            assert (pull.number, pull.head_sha) in world.allowed


def _check_production(world: RealWorld, observed: Observed) -> None:
    head = world.ground.git.branch_head("main")
    assert head is not None
    assert observed.production_head is not None
    assert observed.production_head.sha == head
    live = world.slots[MAIN].live
    assert live is not None
    assert live.release is not None
    if observed.overrides:
        assert live.release == observed.overrides[-1].head.sha
    elif world.ground.descends(Sha(head), live.release):
        assert live.release == head
    else:
        assert observed.head_refused is not None
        assert observed.head_refused.reason == "ForcePushed"
    assert live_content(world) is not None


def _check_statuses(world: RealWorld) -> None:
    """Of each commit and context, the forge's last status is what the store wants; and it has no other of ours."""
    wanted = {(one.sha, one.context): one for one in world.reports_wanted() if isinstance(one, WantedStatus)}
    shown: dict[tuple[Sha, str], tuple[StatusState, str, str | None]] = {}
    for commit in world.ground.commits.values():
        for status in world.api.statuses(commit.made.sha):
            shown.setdefault((commit.made.sha, status.context), (status.state, status.description, status.target_url))
    assert shown == {key: (one.state, one.description, one.target_url) for key, one in wanted.items()}
    unsent = world.store.load_rows("SELECT surface, key, error FROM reports WHERE sent_generation < generation")
    assert unsent == []


def _check_words(world: RealWorld) -> None:
    """Only who may write has ordered anything."""
    actors = {row["actor"] for row in world.store.load_rows("SELECT actor FROM preview_orders")}
    assert actors <= {WRITER}
    ordered = {row["actor"] for row in world.store.load_rows("SELECT actor FROM overrides")}
    assert {actor.partition(" ")[0] for actor in ordered} <= {WRITER}
    held = {row["actor"] for row in world.store.load_rows("SELECT actor FROM holds")}
    assert held <= {WRITER}
