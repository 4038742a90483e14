"""What does a step do that is repeated before its effect was seen? Nothing that the first did not do.

A whole story, with real effects, on a busy machine: production with a build of thousands of files, a migration and an
instance, a rollback, a preview from its lease to its wipe, a removed release. The first step of each class is done a
hundred times at once, with what was observed before any of them. And whatever a run has begun is begun again whenever
something about that run has changed: while a job runs, after it ended well, after its build was sealed. `HARMLESS` has
an entry for each class of steps, and so has the story.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from controller import failpoints
from controller.decisions.surroundings import free
from controller.development.embedded_runtime import EmbeddedRuntime
from controller.development.parts import Postgres
from controller.effects.database import AppDatabases
from controller.effects.judge_files import order_path
from controller.effects.live import SlotLock, write_live
from controller.effects.mirror import Mirror
from controller.effects.signatures import Signatures
from controller.effects.stack_files import write_private
from controller.effects.store import Store
from controller.loop.background import Background
from controller.loop.execute import Hands
from controller.loop.gate_threads import GateThreads
from controller.loop.observe import Sight, observe
from controller.loop.reconcile import decide
from controller.model.config import Settings, TreeLimits, read_settings
from controller.model.errors import OroborosError, Stalled
from controller.model.names import (
    MAIN,
    PRODUCTION,
    Layout,
    Sha,
    SlotName,
    database_name,
    instance_unit,
    job_unit,
    preview_slot,
)
from controller.model.nouns import PullRequest, Run, Verdict
from controller.model.states import RunState
from controller.model.steps import STEPS, DropBuild, HandOver, Prune, Step
from controller.model.world import Observed
from tests.edge.conftest import host
from tests.edge.host import Host
from tests.source.objects import git

__all__ = ["host"]

CHECKOUT = Path(__file__).resolve().parents[2]
PREVIEW = preview_slot(1)
TIMES = 100
FILES = 2_000
#: Why each class may be repeated before its effect is seen: the one place where a new class says it too.
HARMLESS: dict[str, str] = {
    "ClaimSlot": "one live lease for each slot and each pull request, by the schema",
    "EndLease": "an ended lease stays as it ended",
    "RenewLease": "the same end again",
    "ProvisionSlot": "its thread asks the store first whether the slot is ready for this lease",
    "WipeSlot": "its thread asks the store first whether the lease is wiped",
    "BeginRun": "one running run for each slot, by the schema",
    "AdvanceRun": "the same state again",
    "EndRun": "an ended run stays as it ended",
    "Quarantine": "one row for each tree",
    "Checkout": "a release that is there is kept",
    "EnsureDatabase": "a database of this lease is kept",
    "StartJob": "the runtime knows unit and generation before anything is made for it",
    "SealBuild": "a sealed build is left alone",
    "StartInstance": "the runtime knows unit and generation before anything is made for it",
    "StopUnit": "unknown and newer generations are left alone",
    "StartGate": "one thread for each run; the first verdict counts",
    "Switch": "`live` names this run already",
    "StartWatch": "one thread for each run; the first verdict counts",
    "SwitchBack": "`live` names the fallback already",
    "HandOver": "the same order replaces itself",
    "FreeSlot": "says the same again",
    "RepairCurrent": "the same link again",
    "EndOverride": "an ended order stays as it ended",
    "Prune": "a release that is out of use stays so",
    "DropBuild": "a build that has lost its name is left alone",
}
#: What a run has begun, and may therefore be asked for again as long as it runs.
BEGUN_AGAIN = frozenset({"Checkout", "EnsureDatabase", "StartJob", "SealBuild", "StartInstance", "StartGate"})

RECIPE = """
[build]
command = "sh build.sh"
[api]
command = "python3 app.py $PORT {turned}"
[database]
migrate = "sh -c 'echo migrated'"
[gate]
path = "/page"
window_s = 1
start_timeout_s = 60
"""
BUILD = """
echo building; sleep 0.2; cp page made; mkdir -p deep
git rev-parse HEAD; git config oroboros.case set
cd deep && git rev-parse HEAD
echo "is $GIT_COMMIT, $SOURCE_VERSION of $GIT_BRANCH"
"""
APP = """
import http.server, os, subprocess, sys
for folder in (".", os.environ["OROBOROS_DATA"], os.environ["OROBOROS_DATA"] + "/../../.."):
    subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder)
print("is", os.environ["GIT_COMMIT"], "of", os.environ["GIT_BRANCH"], flush=True)
page = open("made").read()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        bad = os.path.exists(sys.argv[2]) and page == open(sys.argv[2]).read()
        self.send_response(500 if bad else 200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page.encode())
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeating(Hands):
    """Does each step as often as a plan could ask for it that sees nothing of what was done."""

    seen: dict[str, int] = field(default_factory=dict)
    begun: list[tuple[Step, Observed]] = field(default_factory=list)

    def execute(self, step: Step, observed: Observed, *, now: datetime) -> None:
        name = type(step).__name__
        for _ in range(TIMES if name not in self.seen else 2):
            Hands.execute(self, step, observed, now=now)
        self.seen[name] = self.seen.get(name, 0) + 1
        if name in BEGUN_AGAIN:
            self.begun.append((step, observed))

    def begin_again(self, run: Run, *, now: datetime) -> None:
        """Do again what this run has begun."""
        for step, observed in self.begun:
            if getattr(step, "generation", None) == run.generation:
                with contextlib.suppress(OroborosError):
                    Hands.execute(self, step, observed, now=now)


@dataclass(slots=True, kw_only=True)
class Story:
    """One stack, driven tick by tick, at once."""

    host: Host
    clone: Path
    store: Store
    mirror: Mirror
    runtime: EmbeddedRuntime
    settings: Settings
    databases: AppDatabases
    bell: threading.Event = field(default_factory=threading.Event)
    pulls: tuple[PullRequest, ...] = ()
    #: What was last seen of each slot's run.
    last: dict[SlotName, object] = field(default_factory=dict)
    hands: Repeating = field(init=False)

    @property
    def layout(self) -> Layout:
        return self.host.layout

    @property
    def turned(self) -> Path:
        return self.host.folder / "turned"

    def start_worker(self) -> None:
        """What a worker that was killed and started again has: the store, the host, and no thread."""
        before = getattr(self, "hands", None)
        self.end_threads()
        self.store.register(slots=self.host.topology.slots, boot_id=os.urandom(4).hex(), now=datetime.now(UTC))
        side = self.store.shared()

        def record(verdict: Verdict, proof: str, _took_s: float) -> None:
            side.record_verdict(verdict, proof=proof, now=datetime.now(UTC))
            self.bell.set()

        background, gates = Background(self.bell.set), GateThreads(record)
        sight = Sight(
            store=self.store,
            mirror=self.mirror,
            runtime=self.runtime,
            databases=self.databases,
            signatures=Signatures(self.layout.mirror, self.settings.config_dir),
            layout=self.layout,
            topology=self.host.topology,
            config_dir=self.settings.config_dir,
            background=background,
            gate_activities=gates.running,
        )
        self.hands = Repeating(
            settings=self.settings,
            sight=sight,
            store=self.store,
            side=side,
            gates=gates,
            background=background,
            clock=lambda: datetime.now(UTC),
            open_mirror=lambda: Mirror(self.layout.mirror, f"file://{self.clone}", allow_file_url=True),
            record_verdict=record,
            seen={} if before is None else before.seen,
            begun=[] if before is None else before.begun,
        )

    def end_threads(self) -> None:
        """Wait until nothing of the worker, if there was one, runs any more."""
        hands = getattr(self, "hands", None)
        if hands is None:
            return
        hands.background.wait(timeout_s=60)
        while running := hands.gates.running():
            for _, slot, generation in running:
                hands.gates.cancel(slot, generation)
            time.sleep(0.01)
        hands.side.close()

    def commit(self, page: str) -> Sha:
        (self.clone / "page").write_text(page)
        git("add", "-A", cwd=self.clone)
        git("commit", "-qm", page, cwd=self.clone)
        return Sha(git("rev-parse", "HEAD", cwd=self.clone))

    def look(self) -> None:
        """What the forge has now: branch and open pull requests."""
        now = datetime.now(UTC)
        self.mirror.fetch(branch="main", pulls=[pull.number for pull in self.pulls])
        self.store.record_branch("main")
        self.store.record_listing(self.pulls, began_at=now)
        head = self.mirror.production_head()
        self.store.record_fetch(production=head, ref="refs/heads/main", refused=(), began_at=now)

    def tick(self) -> Observed:
        self.hands.background.raise_bugs()
        now = datetime.now(UTC)
        observed, _ = observe(self.hands.sight)
        if observed.production_head is not None:
            self.store.record_head(observed.production_head.sha, refused=None, force_push=None, now=now)
        decision = decide(observed, now=now)
        for steps in (decision.slots.steps, *(one.steps for one in decision.each)):
            with contextlib.suppress(OroborosError):
                for step in steps:
                    self.hands.execute(step, observed, now=now)
        for slot in observed.slots:
            states = [(process.unit, process.generation, process.state) for process in slot.processes]
            seen = (slot.run, slot.verdicts, slot.build_sealed, states)
            if slot.run is not None and self.last.get(slot.slot) != seen:
                self.hands.begin_again(slot.run, now=now)
            self.last[slot.slot] = seen
        return observed

    def tick_until(self, there: Callable[[Observed], bool], *, what: str) -> Observed:
        deadline = time.monotonic() + 180
        while True:
            self.bell.clear()
            observed = self.tick()
            if there(observed):
                return observed
            told = [(s.slot, s.run, s.verdicts, s.recent_runs[:1]) for s in observed.slots if s.run or s.recent_runs]
            assert time.monotonic() < deadline, f"{what}: {told}"
            self.bell.wait(0.02)

    def await_run(self, sha: Sha, state: RunState, *, slot: SlotName = MAIN) -> Run:
        """Tick until the run of a commit has ended; it ended so."""

        def ended(observed: Observed) -> Run | None:
            return next((run for run in observed.slot(slot).recent_runs if run.release == sha), None)

        observed = self.tick_until(lambda observed: ended(observed) is not None, what=f"{sha[:7]} is to end")
        run = ended(observed)
        assert run is not None
        assert run.state is state, f"{run.reason}: {run.message}; {self.log(job_unit('build', slot), run)}"
        return run

    def log(self, unit: str, run: Run) -> str:
        path = self.layout.log_file(unit, run.generation)
        return path.read_text() if path.exists() else ""

    def serves(self, slot: SlotName) -> str:
        return self.host.web(slot, "/page").body


@pytest.fixture
def story(host: Host, postgres_url: str, postgres_server: Postgres) -> Iterator[Story]:
    folder, layout = host.folder, host.layout
    (folder / "real").mkdir()
    layout.root.symlink_to("real")
    for slot in host.topology.slots:
        layout.slot(slot).mkdir(parents=True)
        with SlotLock(layout, slot) as held:
            write_live(layout, free(slot), held=held)
        host.surface(slot)
    host.edge()
    # The root lies in somebody's repository, as that of `oroboros up` in a project's folder does.
    git("init", "-q", cwd=folder)
    git("commit", "-q", "--allow-empty", "-m", "outer", cwd=folder)
    clone = folder / "clone"
    clone.mkdir()
    git("init", "-q", "-b", "main", cwd=clone)
    for name, text in (("build.sh", BUILD), ("app.py", APP), ("deploy.toml", RECIPE.format(turned=folder / "turned"))):
        (clone / name).write_text(text)
    secrets = folder / "secrets"
    secrets.touch(mode=0o600)
    secrets.write_text("s" * 40 + "\n")
    settings = read_settings(
        {
            "DATABASE_URL": postgres_url,
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "OROBOROS_ROOT": str(layout.root),
            "OROBOROS_RUN": str(layout.run),
            "OROBOROS_REPOSITORY": "team/app",
            "OROBOROS_FORGE_URL": "http://127.0.0.1:1",
            "OROBOROS_FORGE_TOKEN_FILE": str(secrets),
            "OROBOROS_WEBHOOK_SECRETS_FILE": str(secrets),
            "OROBOROS_CONFIG_DIR": str(folder),
        }
    )
    databases = AppDatabases(
        postgres_server.url(), file_of=lambda slot: folder / f"database-{slot}", write_private=write_private
    )
    store = Store(postgres_url, repository="team/app", host="host-1")
    mirror = Mirror(layout.mirror, f"file://{clone}", allow_file_url=True)
    mirror.ensure()
    runtime = EmbeddedRuntime(folder / "s", layout)
    made = Story(
        host=host, clone=clone, store=store, mirror=mirror, runtime=runtime, settings=settings, databases=databases
    )
    argv = (sys.executable, "-m", "controller.development.supervisor")
    where = ("--socket", str(folder / "s"), "--state", str(folder / "state"))
    with contextlib.ExitStack() as ends:
        ends.callback(store.close)
        ends.callback(failpoints.disarm)
        ends.callback(databases.close)
        ends.callback(databases.drop, PREVIEW)
        ends.callback(drop_production, postgres_server.url())
        supervisor = ends.enter_context(subprocess.Popen([*argv, *where], cwd=CHECKOUT))
        ends.callback(supervisor.terminate)
        for _ in range(2):
            busy = ends.enter_context(subprocess.Popen(("sh", "-c", "while :; do :; done")))
            ends.callback(busy.kill)
        runtime.watch(made.bell.set)
        assert made.bell.wait(30)
        made.start_worker()
        ends.callback(made.end_threads)
        yield made


def drop_production(admin_url: str) -> None:
    """Remove production's database, which the product never does."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        name = sql.Identifier(database_name(MAIN))
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))


def assert_begun_once(story: Story, run: Run) -> None:
    """Each job of a run began once, and its instance has the nonce that its gate asks for."""
    assert story.log(job_unit("build", run.slot), run).count("building") == 1
    assert story.log(job_unit("migrate", run.slot), run).count("migrated") == 1
    assert run.colour is not None
    unit = instance_unit(run.slot, run.colour)
    pids = story.runtime.process_ids(unit, run.generation)
    environments = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in pids]
    wanted = f"OROBOROS_NONCE={story.runtime.environment(unit)['OROBOROS_NONCE']}".encode()
    assert environments
    assert all(wanted in environment for environment in environments)


def assert_alone_with_its_commit(story: Story, run: Run) -> None:
    """git finds no repository around the stack's root, wherever it is asked; the commit is in the environment."""
    assert run.colour is not None
    build, app = story.log(job_unit("build", MAIN), run), story.log(instance_unit(MAIN, run.colour), run)
    outer = git("rev-parse", "HEAD", cwd=story.host.folder)
    assert (outer in build, outer in app) == (False, False)
    assert (build.count("not a git repository"), app.count("not a git repository")) == (2, 3)
    assert "oroboros" not in (story.host.folder / ".git" / "config").read_text()
    assert f"is {run.release}, {run.release} of main" in build
    assert f"is {run.release} of main" in app


def change_when(story: Story, failpoint: str, release: Sha) -> None:
    """Have somebody change a file of a release on the disk right before a step."""

    def change() -> None:
        failpoints.disarm()
        page = story.layout.release(release) / "page"
        page.chmod(0o644)
        page.write_text("changed on the disk")
        page.chmod(0o444)

    failpoints.arm(failpoint, change)


def test_every_class_of_steps_says_why_it_may_be_repeated() -> None:
    assert set(HARMLESS) == set(STEPS)


def test_a_step_that_is_repeated_before_its_effect_is_seen_does_nothing_twice(story: Story) -> None:
    """Budget: 20 s on a machine that does nothing else."""
    for number in range(FILES):
        path = story.clone / "many" / str(number % 10) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
    # A worker that is killed in the middle of a build, and its successor, which knows no thread.
    first = story.commit("first")
    story.look()
    story.tick_until(
        lambda observed: (run := observed.slot(MAIN).run) is not None and run.state is RunState.BUILDING,
        what="the build is to begin",
    )
    story.hands.background.wait(timeout_s=60)
    story.start_worker()
    run = story.await_run(first, RunState.LIVE)
    assert_begun_once(story, run)
    assert_alone_with_its_commit(story, run)
    assert story.serves(MAIN) == "first"

    # One that turns bad while it is watched: back to the one before.
    bad = story.commit("bad")
    story.look()
    story.tick_until(lambda observed: (live := observed.slot(MAIN).live) is not None and live.release == bad, what="")
    story.turned.write_text("bad")
    bad_tree = story.await_run(bad, RunState.ROLLED_BACK).head.tree
    assert story.serves(MAIN) == "first"

    # A preview, from its lease to its wipe.
    git("update-ref", "refs/pull/1/head", first, cwd=story.clone)
    story.pulls = (
        PullRequest(
            number=1, head_sha=first, head_branch="topic", title="", author="ann", same_repository=True,
            opened_at=datetime.now(UTC),
        ),
    )  # fmt: skip
    story.look()
    assert_begun_once(story, story.await_run(first, RunState.LIVE, slot=PREVIEW))
    kept = story.layout.slot_data(PREVIEW) / "kept"
    kept.write_text("of this lease")
    observed = story.tick()
    lease = observed.slot(PREVIEW).lease
    assert lease is not None
    story.pulls = ()
    story.look()
    assert kept.exists()
    story.tick_until(lambda observed: observed.slot(PREVIEW).wiped_fence == lease.fence, what="the preview is wiped")
    assert not kept.exists()

    # What people put right, and ordered.
    order = story.store.record_override
    head = story.mirror.production_head()
    assert head is not None
    order(
        slot=MAIN, kind="deploy", head=head, ordered_at_head=first, accept_migrations=False, actor="ann",
        reason="", now=datetime.now(UTC),
    )  # fmt: skip
    story.layout.current.unlink()
    observed = story.tick_until(lambda observed: observed.slot(MAIN).current == first, what="current is put right")
    story.tick_until(lambda observed: observed.overrides == (), what="the order is over")

    last = story.commit("last")
    story.look()
    _hand_over_again(story, last)
    assert_begun_once(story, story.await_run(last, RunState.LIVE))
    assert story.serves(MAIN) == "last"

    # A release that nothing needs any more, and what was built of it.
    observed = story.tick()
    spent = next(build for build in observed.builds if (build.domain, build.tree) == (PRODUCTION, bad_tree))
    for step in (Prune(release=bad), DropBuild(slot=MAIN, domain=spent.domain, name=spent.name)):
        story.hands.execute(step, observed, now=datetime.now(UTC))
    observed = story.tick()
    assert bad not in {release.sha for release in observed.releases}
    assert spent not in observed.builds
    assert story.serves(MAIN) == "last"
    assert set(story.hands.seen) == set(STEPS)


def test_a_release_that_was_changed_on_the_disk_is_mended_before_it_is_built_from_or_serves(story: Story) -> None:
    """Also one that only the policy's own limits let in, and whatever the gate says first."""
    deep = story.clone.joinpath(*["d"] * (TreeLimits().depth_max + 6))
    deep.mkdir(parents=True)
    (deep / "file").write_text("")
    recipe = (story.clone / "deploy.toml").read_text() + f"[limits]\ndepth_max = {TreeLimits().depth_max + 20}\n"
    (story.clone / "deploy.toml").write_text(recipe)
    built = story.commit("built")
    story.look()
    change_when(story, "step.before.StartJob", built)
    story.await_run(built, RunState.LIVE)
    assert story.serves(MAIN) == "built"

    static = recipe.replace(recipe[recipe.index("[build]") : recipe.index("[gate]")], '[web]\nstatic = "."\n')
    (story.clone / "deploy.toml").write_text(static)
    served = story.commit("served")
    story.look()
    change_when(story, "step.before.StartGate", served)
    run = story.await_run(served, RunState.FAILED)
    assert run.reason == "ReleaseDamaged"
    story.tick_until(lambda observed: (r := observed.slot(MAIN).live_run) is not None and r.release == served, what="")
    assert story.serves(MAIN) == "served"


def _hand_over_again(story: Story, release: Sha) -> None:
    """On one machine there is no judge: what one would find is the same order each time."""
    observed = story.tick_until(
        lambda observed: (verdict := observed.slot(MAIN).verdict("gate")) is not None and verdict.release == release,
        what="the release is to pass its gate",
    )
    run = observed.slot(MAIN).run
    assert run is not None
    step = HandOver(slot=MAIN, generation=run.generation, release=release, colour=run.colour)
    order_path(story.layout).parent.mkdir()
    orders = set()
    for _ in range(TIMES):
        with pytest.raises(Stalled, match="NoJudge"):
            Hands.execute(story.hands, step, observed, now=datetime.now(UTC))
        orders.add(order_path(story.layout).read_bytes())
    assert len(orders) == 1
    story.hands.seen["HandOver"] = 1
