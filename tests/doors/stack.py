"""A stack in small for commands: real mirror, real store, real links on the disk; the worker is played by the test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pygit2
from click.testing import CliRunner, Result

from controller.doors.cli import main
from controller.effects.live import SlotLock, point_current, write_live
from controller.effects.mirror import PRODUCTION_REF, Mirror
from controller.effects.publish import publish_release
from controller.effects.stack_files import write_private, write_stack, write_topology
from controller.effects.store import Store
from controller.model.config import Settings, TreeLimits, read_settings
from controller.model.names import MAIN, PRODUCTION, Layout, Ports, Sha, SlotName, Topology, TreeId
from controller.model.nouns import Head, Live
from controller.model.states import Cause, RunState

REPOSITORY = "acme/shop"
SECRET = "a-canary-secret-that-must-not-be-seen-9f8e7d"
OPERATOR_TOKEN = "the-operators-token-of-a-small-stack-0f1e2d3c"
DEPLOY_TOML = '[api]\ncommand = "python3 app.py"\n'


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Small:
    """One small stack."""

    layout: Layout
    topology: Topology
    settings: Settings
    store: Store
    mirror: Mirror
    repository: pygit2.Repository
    commits: list[Head] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.layout.root

    def run(self, *words: str) -> Result:
        """Call a command in this process."""
        return CliRunner().invoke(main, ["--root", str(self.root), *words])

    def json(self, *words: str) -> dict[str, object]:
        result = self.run(*words, "--json")
        value = json.loads(result.stdout)
        assert isinstance(value, dict)
        return value

    def commit(self, title: str, *, files: dict[str, str] | None = None, production: bool = True) -> Head:
        """Commit on top of the last one; by default the production branch moves to it."""
        builder = self.repository.TreeBuilder()
        everything = {"deploy.toml": DEPLOY_TOML, "app.py": f"# {title}\n", **(files or {})}
        for name, body in everything.items():
            builder.insert(name, self.repository.create_blob(body.encode()), pygit2.enums.FileMode.BLOB)
        who = pygit2.Signature("Test", "test@example.org", 1_700_000_000 + len(self.commits), 0)
        parents = [pygit2.Oid(hex=self.commits[-1].sha)] if self.commits and production else []
        made = self.repository.create_commit(None, who, who, f"{title}\n\nbody\n", builder.write(), parents)
        head = self.mirror.head(Sha(str(made)))
        assert head is not None
        if production:
            self.commits.append(head)
            self.repository.references.create(PRODUCTION_REF, made, force=True)
        return head

    def begin(
        self,
        head: Head,
        *,
        slot: SlotName = MAIN,
        cause: Cause = Cause.PUSH,
        fence: int = 0,
        domain: str = PRODUCTION,
        migrations: str = "",
    ) -> int:
        generation = self.store.begin_run(
            slot=slot,
            domain=PRODUCTION if domain == PRODUCTION else type(PRODUCTION)(domain),
            fence=fence,
            head=head,
            release=head.sha,
            cause=cause,
            colour="a",
            fallback=None,
            migration_head=migrations,
            now=utc_now(),
        )
        assert generation is not None
        return generation

    def publish(self, head: Head) -> None:
        publish_release(self.mirror, self.layout, head.sha, limits=TreeLimits(), neighbour=None)
        self.store.record_release(
            sha=head.sha, tree=head.tree, path=str(self.layout.release(head.sha)), files=2, size_bytes=40, now=utc_now()
        )

    def switch(self, generation: int, head: Head, *, slot: SlotName = MAIN, fence: int = 0) -> None:
        now = utc_now()
        self.store.advance_run(generation, RunState.WATCHING, now=now, watch_until=now)
        self.store.record_step(generation, "switched", began_at=now, ended_at=now)
        with SlotLock(self.layout, slot) as held:
            live = Live(
                slot=slot,
                state="live",
                generation=generation,
                fence=fence,
                release=head.sha,
                tree=head.tree,
                colour="a",
                address="127.0.0.1:1",
            )
            write_live(self.layout, live, held=held)
            point_current(self.layout, slot, head.sha, held=held)

    def end(self, generation: int, state: RunState, *, reason: str = "", message: str = "") -> None:
        self.store.end_run(
            generation, state, reason=reason, message=message, proven=state is RunState.LIVE, now=utc_now()
        )

    def serve(self, head: Head, *, cause: Cause = Cause.PUSH, migrations: str = "") -> int:
        """Have production serve a commit, proven, as the worker would leave it; of migrations, also migrated."""
        self.publish(head)
        generation = self.begin(head, cause=cause, migrations=migrations)
        if migrations:
            for state in (RunState.MIGRATING, RunState.GATING):
                self.store.advance_run(generation, state, now=utc_now())
        self.switch(generation, head)
        self.end(generation, RunState.LIVE)
        return generation

    def worker_thread(self, act: Callable[[Small, Head], None]) -> threading.Thread:
        """Play the worker: wait for an order of production, then `act` on its commit."""

        def play() -> None:
            mine = Small(
                layout=self.layout,
                topology=self.topology,
                settings=self.settings,
                store=self.store.shared(),
                mirror=self.mirror,
                repository=self.repository,
                commits=self.commits,
            )
            mine.store._boot_id = self.store._boot_id
            try:
                deadline = time.monotonic() + 20
                while time.monotonic() < deadline:
                    found = mine.store.load_rows("SELECT sha, tree, title FROM overrides WHERE ended_at IS NULL")
                    if found:
                        row = found[0]
                        act(mine, Head(sha=Sha(row["sha"]), tree=TreeId(row["tree"]), title=row["title"]))
                        return
                    time.sleep(0.01)
            finally:
                mine.store.close()

        thread = threading.Thread(target=play, name="played worker")
        thread.start()
        return thread


def make_small(folder: Path, *, database_url: str, redis_url: str, offset: int) -> Small:
    root, run = folder / "root", folder / "run"
    layout = Layout(root, run)
    for made in (layout.releases, layout.artifacts, run, root / "etc"):
        made.mkdir(parents=True, mode=0o700)
    topology = Topology(ports=Ports(offset=offset), public_port=Ports(offset=offset).edge)
    write_topology(layout, topology)
    write_private(root / "etc" / "webhook-secrets", SECRET + "\n")
    write_private(root / "etc" / "forge-token", SECRET + "-token\n")
    write_private(root / "etc" / "operator-token", OPERATOR_TOKEN + "\n")
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "OROBOROS_ROOT": str(root),
        "OROBOROS_RUN": str(run),
        "OROBOROS_HOST": "host-1",
        "OROBOROS_REPOSITORY": REPOSITORY,
        "OROBOROS_FORGE_URL": f"http://127.0.0.1:{topology.ports.forge}",
        "OROBOROS_FORGE_TOKEN_FILE": str(root / "etc" / "forge-token"),
        "OROBOROS_WEBHOOK_SECRETS_FILE": str(root / "etc" / "webhook-secrets"),
        "OROBOROS_OPERATOR_TOKEN_FILE": str(root / "etc" / "operator-token"),
        "OROBOROS_CONFIG_DIR": str(root / "etc"),
    }
    write_private(root / "environment.json", json.dumps(environment))
    write_stack(layout, {"version": 1, "pid": 0})
    settings = read_settings(environment)
    store = Store(database_url, repository=REPOSITORY, host="host-1")
    store.register(slots=topology.slots, boot_id="boot-1", now=utc_now())
    store.record_branch("trunk")
    mirror = Mirror(layout.mirror, f"{settings.forge_url}/{REPOSITORY}.git")
    mirror.ensure()
    return Small(
        layout=layout,
        topology=topology,
        settings=settings,
        store=store,
        mirror=mirror,
        repository=pygit2.Repository(str(layout.mirror)),
    )
