"""The doctor: each check has a test that breaks that very thing, and sees it named with the remedy."""

from __future__ import annotations

import dataclasses
import http.server
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from controller.decisions.leftovers import Leftover
from controller.decisions.remedies import Fault, Place
from controller.development.parts import Part, PartSpec, listens_at
from controller.doors import doctor, doctor_host
from controller.doors.doctor import DatabaseFacts, Finding, HealthFacts, Outcome, PortOwner, RootFacts, SecretFile
from controller.doors.stacks import find_stack
from controller.effects.publish import Damage, Problem
from controller.effects.store import migrate
from controller.model.config import Edge, Permissions, Policy, Previews, Production
from controller.model.names import CONTRACT, MAIN, Topology, preview_slot
from controller.model.options import Options
from tests.doors.stack import Small

TOPOLOGY = Topology()
LIVE = Path("/srv/x/live")
ROOT = RootFacts(path=Path("/srv/x"), writable=True, hard_links=True, free_bytes=1 << 40, free_inodes=1 << 30)
DATABASE = DatabaseFacts(problem="", applied={"1.sql": "x"}, wanted={"1.sql": "x"}, clock_ahead_s=0.0)
SURFACE = HealthFacts(what="surface", url="http://127.0.0.1:3100/health", status=200, slot="main")
PART = HealthFacts(what="worker", url="http://127.0.0.1:8090/health", status=200)
OURS = PortOwner(what="edge", port=8088, pid=7, process="caddy", ours=True)

#: (what is broken, the check of it, the name under which it is found, a word of what was found, a word of the remedy)
BROKEN: list[tuple[str, Callable[[], Finding | tuple[Finding, ...]], str, str, str]] = [
    ("old python", lambda: doctor.check_python((3, 10, 9)), "python", "3.10.9", "upgrade Debian"),
    ("no git", lambda: doctor.check_git(None), "git", "no git", "apt-get install -y git"),
    ("old git", lambda: doctor.check_git("git version 2.30.2\n"), "git", "2.30.2", "git 2.34 or newer"),
    ("odd git", lambda: doctor.check_git("hello"), "git", "no version", "apt-get install"),
    (
        "nobody may sign",
        lambda: doctor.check_signatures(["gpg is not installed on this host"]),
        "signatures",
        "gpg is not installed",
        "allowed-signers",
    ),
    ("old starlette", lambda: doctor.check_starlette("1.5.0"), "starlette", "1.5.0", "scripts/install.sh"),
    (
        "no settings",
        lambda: doctor.check_environment(["DATABASE_URL: is not set"], root=Path("/srv/x")),
        "environment",
        "DATABASE_URL",
        "oroboros install",
    ),
    (
        "read-only root",
        lambda: doctor.check_root_writable(dataclasses.replace(ROOT, writable=False, problem="Read-only file system")),
        "root",
        "Read-only",
        "dmesg",
    ),
    (
        "no links",
        lambda: doctor.check_hard_links(dataclasses.replace(ROOT, hard_links=False)),
        "hard links",
        "no hard links",
        "ext4",
    ),
    (
        "full disk",
        lambda: doctor.check_free_space(dataclasses.replace(ROOT, free_bytes=1 << 20)),
        "disk space",
        "less than 1 GiB",
        "keep",
    ),
    (
        "no inodes",
        lambda: doctor.check_free_space(dataclasses.replace(ROOT, free_inodes=12)),
        "disk space",
        "12 inodes",
        "inodes",
    ),
    (
        "open secret",
        lambda: doctor.check_secret_modes([SecretFile(path=Path("/etc/x"), mode=0o644)]),
        "secret files",
        "/etc/x (0644)",
        "chmod 600 /etc/x",
    ),
    (
        "no secret named",
        lambda: doctor.check_webhook_secret(None, exists=False, problems=()),
        "webhook secret",
        "not set",
        "openssl rand",
    ),
    (
        "secret gone",
        lambda: doctor.check_webhook_secret(Path("/etc/x"), exists=False, problems=()),
        "webhook secret",
        "not there",
        "sudo rm -f /etc/x; then sudo oroboros install",
    ),
    (
        "short secret",
        lambda: doctor.check_webhook_secret(Path("/etc/x"), exists=True, problems=["secret 1 is shorter"]),
        "webhook secret",
        "shorter",
        "enter it at the forge's webhook",
    ),
    (
        "no operator",
        lambda: doctor.check_operator_token(Path("/etc/x"), problem="/etc/x cannot be read"),
        "operator token",
        "answers nobody: /etc/x cannot be read",
        "sudo oroboros install",
    ),
    (
        "mirror broken",
        lambda: doctor.check_mirror(Path("/x/repo.git"), problem="cannot be opened", head=None),
        "mirror",
        "cannot be opened",
        "sudo rm -rf /x/repo.git",
    ),
    (
        "token refused",
        lambda: doctor.check_forge("https://github.com", problem="TokenRefused: 401", branch=""),
        "forge",
        "401",
        "see that the network lets us out",
    ),
    (
        "database away",
        lambda: doctor.check_database(dataclasses.replace(DATABASE, problem="does not answer: refused")),
        "database",
        "refused",
        "restart postgresql",
    ),
    (
        "database refuses",
        lambda: doctor.check_database(dataclasses.replace(DATABASE, problem="failed: FATAL:  password refused")),
        "database",
        "password refused",
        "sudo oroboros install",
    ),
    (
        "not migrated",
        lambda: doctor.check_migrations(dataclasses.replace(DATABASE, applied=None)),
        "migrations",
        "1.sql not applied",
        "restart ouroboros-worker.service",
    ),
    (
        "migration changed",
        lambda: doctor.check_migrations(dataclasses.replace(DATABASE, applied={"1.sql": "y"})),
        "migrations",
        "other content",
        "restore the file",
    ),
    (
        "clock off",
        lambda: doctor.check_clock(dataclasses.replace(DATABASE, clock_ahead_s=-42.0)),
        "clock",
        "-42.0 s",
        "set-ntp",
    ),
    (
        "reports late",
        lambda: doctor.check_reports(3, 0, error="ForgeUnreachable: no answer"),
        "reports",
        "3 not sent for over 15 minutes",
        "deploys go on",
    ),
    (
        "a fetch in vain",
        lambda: doctor.check_troubles(["fetch fails since 2026-03-01 12:00 UTC (9 tries): ObjectsRefused: no"]),
        "troubles",
        "fetch fails since 2026-03-01 12:00 UTC",
        "docs/reasons.md",
    ),
    ("redis away", lambda: doctor.check_redis(answers=False), "redis", "next poll", "restart redis-server"),
    (
        "runtime away",
        lambda: doctor.check_runtime(problem="no socket", units=0, limitations=()),
        "runtime",
        "no socket",
        "systemctl status",
    ),
    (
        "surface down",
        lambda: doctor.check_surface(MAIN, dataclasses.replace(SURFACE, status=None, said="Connection refused")),
        "surface main",
        "nothing answers",
        "ouroboros-web@main",
    ),
    (
        "another's surface",
        lambda: doctor.check_surface(preview_slot(1), SURFACE),
        "surface preview-1",
        "not the surface of preview-1",
        "stop what holds the port",
    ),
    (
        "sick instance",
        lambda: doctor.check_surface(MAIN, dataclasses.replace(SURFACE, status=503)),
        "surface main",
        "503",
        "sudo oroboros rollback",
    ),
    (
        "sick preview",
        lambda: doctor.check_surface(preview_slot(1), dataclasses.replace(SURFACE, slot="preview-1", status=503)),
        "surface preview-1",
        "503",
        "sudo oroboros backend restart preview-1",
    ),
    (
        "edge down",
        lambda: doctor.check_edge(MAIN, "app.localhost", dataclasses.replace(SURFACE, status=None)),
        "edge main",
        "does not answer",
        "ouroboros-caddy",
    ),
    (
        "wrong route",
        lambda: doctor.check_edge(preview_slot(1), "preview1.localhost", SURFACE),
        "edge preview-1",
        "leads to main",
        "sudo oroboros install",
    ),
    (
        "no route",
        lambda: doctor.check_edge(MAIN, "app.localhost", dataclasses.replace(SURFACE, status=404, slot=None)),
        "edge main",
        "nowhere (404)",
        "sudo oroboros install",
    ),
    (
        "worker down",
        lambda: doctor.check_part("worker", dataclasses.replace(PART, status=None)),
        "worker",
        "does not answer",
        "ouroboros-worker",
    ),
    (
        "api unfit",
        lambda: doctor.check_part("api", dataclasses.replace(PART, status=503, said='{"database": false}')),
        "api",
        "database",
        "mend",
    ),
    (
        "squatter",
        lambda: doctor.check_ports([OURS, dataclasses.replace(OURS, port=3100, pid=4711, process="nc", ours=False)]),
        "ports",
        "3100 (edge) is held by nc",
        "kill 4711",
    ),
    (
        "current behind",
        lambda: doctor.check_live(MAIN, LIVE, live="a" * 40, current="b" * 40, problem=""),
        "live main",
        "current names bbbbbbb",
        "restart ouroboros-worker",
    ),
    ("no user", lambda: doctor.check_users(["oroboros"]), "users", "oroboros", "install"),
    ("edited unit", lambda: doctor.check_files(["/u/x.service"], count=9), "files", "/u/x.service", "oroboros install"),
    ("wrong folder", lambda: doctor.check_folders(["/srv/x/slots"]), "folders", "/srv/x/slots", "install"),
    (
        "unit failed",
        lambda: doctor.check_units({"ouroboros-x.service": "failed"}, count=2),
        "units",
        "ouroboros-x.service is failed",
        "sudo systemctl restart ouroboros-x.service",
    ),
    (
        "maintenance failed",
        lambda: doctor.check_maintenance({"ouroboros-x.service": "failed"}),
        "maintenance",
        "ouroboros-x.service failed",
        "journalctl -b -u ouroboros-x.service",
    ),
    (
        "leftover",
        lambda: doctor.check_leftovers([Leftover(path="builds/production/x", message="its release is gone")]),
        "leftovers",
        "builds/production/x: its release is gone",
        "reset-audit",
    ),
    (
        "override",
        lambda: doctor.check_overrides(["/etc/systemd/system/a b"]),
        "overrides",
        "a b",
        "rm '/etc/systemd/system/a b'",
    ),
    ("not at boot", lambda: doctor.check_enabled(["ouroboros-x.timer"]), "boot", "ouroboros-x.timer", "install"),
    (
        "live unreadable",
        lambda: doctor.check_live(MAIN, LIVE, live=None, current=None, problem="live.json makes no sense"),
        "live main",
        "makes no sense",
        "sudo rm /srv/x/live",
    ),
    (
        "release damaged",
        lambda: doctor.check_release("a" * 40, [Problem(path="app.py", damage=Damage.CONTENT, message="other")]),
        "release",
        "app.py: content",
        "at the next resync",
    ),
    (
        "release unreadable",
        lambda: doctor.check_release("a" * 40, (), problem="the mirror does not hold it"),
        "release",
        "does not hold",
        "oroboros verify",
    ),
    (
        "policy invalid",
        lambda: doctor.check_policy(None, ["previews.slots: must be"], TOPOLOGY),
        "policy",
        "previews.slots",
        "deploy.toml",
    ),
]


@pytest.mark.parametrize(
    ("check", "name", "found", "remedy"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_what_is_broken_is_named_with_its_remedy(
    check: Callable[[], Finding | tuple[Finding, ...]], name: str, found: str, remedy: str
) -> None:
    findings = check()
    (finding,) = findings if isinstance(findings, tuple) else (findings,)

    assert (finding.name, finding.outcome) == (name, Outcome.FAILED)
    assert found in finding.found
    told = finding.prescribed(Place.HOST)
    assert remedy in told.remedy
    assert told.remedy.startswith("; then ".join(told.commands))


def test_what_was_stopped_by_hand_is_a_note_that_never_tells_to_go_back() -> None:
    facts = dataclasses.replace(SURFACE, slot="preview-1", status=503)

    told = doctor.check_surface(preview_slot(1), facts, stopped="stopped by eva: noisy").prescribed(Place.HOST)

    assert (told.outcome, told.found) == (Outcome.NOTE, "nothing serves: stopped by eva: noisy")
    assert told.commands == ("sudo oroboros backend start preview-1",)
    assert "rollback" not in told.remedy


def test_a_socket_that_is_down_is_started_by_its_service() -> None:
    down = doctor.check_units({"ouroboros-web@main.socket": "inactive", "ouroboros-web@main.service": "x"}, count=9)

    assert down.prescribed(Place.HOST).commands == ("sudo systemctl restart ouroboros-web@main.service",)


def test_a_refused_token_is_replaced_without_changing_what_else_was_said() -> None:
    words = ("acme/shop", "--forge-url", "https://git.example.com", "--branch", "release 2")
    refused = doctor.check_forge("https://x", problem="401", branch="", fault=Fault.TOKEN_REFUSED, words=words)

    assert refused.prescribed(Place.HOST).commands == (
        "sudo oroboros repo set acme/shop --forge-url https://git.example.com --branch 'release 2' --token-stdin",
    )


def test_every_check_is_broken_by_some_test() -> None:
    checks = {name for name in vars(doctor) if name.startswith("check_")}
    broken = {word for _, check, *_ in BROKEN for word in check.__code__.co_names}

    assert checks <= broken


@pytest.mark.parametrize(
    "finding",
    [
        doctor.check_python((3, 14)),
        doctor.check_git("git version 2.39.5 (Apple Git-154)\n"),
        doctor.check_git("git version 3.0.rc1"),
        doctor.check_signatures(()),
        doctor.check_starlette("1.5.1"),
        doctor.check_starlette("2.0"),
        doctor.check_root_writable(ROOT),
        doctor.check_hard_links(ROOT),
        doctor.check_free_space(dataclasses.replace(ROOT, free_inodes=None)),
        doctor.check_secret_modes([SecretFile(path=Path("/x"), mode=0o600), SecretFile(path=Path("/y"), mode=None)]),
        doctor.check_database(DATABASE),
        doctor.check_migrations(DATABASE),
        doctor.check_clock(dataclasses.replace(DATABASE, clock_ahead_s=0.4)),
        doctor.check_reports(0, 0, error=""),
        doctor.check_troubles([]),
        doctor.check_surface(MAIN, SURFACE),
        doctor.check_edge(MAIN, "app.localhost", dataclasses.replace(SURFACE, status=503)),
        doctor.check_part("api", PART),
        doctor.check_ports([OURS]),
        doctor.check_live(MAIN, LIVE, live="a" * 40, current="a" * 40, problem=""),
        doctor.check_live(MAIN, LIVE, live=None, current=None, problem=""),
        doctor.check_release("a" * 40, ()),
        doctor.check_users(()),
        doctor.check_folders(()),
        doctor.check_units({}, count=3),
        doctor.check_maintenance({}),
        doctor.check_enabled(()),
        doctor.check_overrides(()),
        doctor.check_leftovers(()),
        doctor.check_files((), count=9),
    ],
    ids=lambda finding: finding.name,
)
def test_what_is_well_has_no_remedy(finding: Finding) -> None:
    assert (finding.outcome, finding.remedy) == (Outcome.OK, "")


def test_what_the_runtime_cannot_enforce_is_a_note_each() -> None:
    findings = doctor.check_runtime(problem="", units=1, limitations=("no memory limit", "one user for all"))

    assert [(f.outcome, f.found) for f in findings] == [
        (Outcome.OK, "answers; 1 unit"),
        (Outcome.NOTE, "no memory limit"),
        (Outcome.NOTE, "one user for all"),
    ]


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        (Policy(previews=Previews(slots=5)), "[previews] slots = 5, this host has 3"),
        (Policy(production=Production(host="shop.example")), "[production] host"),
        (Policy(production=Production(backend_port=8000)), "[production] backend_port = 8000"),
        (Policy(previews=Previews(host="pr{n}.shop.example")), "[previews] host"),
        (Policy(edge=Edge(tls="auto")), '[edge] tls = "auto", this host has "off"'),
        (Policy(edge=Edge(trusted_proxies=("192.0.2.1",))), "[edge] trusted_proxies = 192.0.2.1, this host has none"),
    ],
)
def test_what_waits_for_install_is_said(policy: Policy, word: str) -> None:
    (finding,) = doctor.check_policy(policy, (), TOPOLOGY)

    assert finding.outcome is Outcome.NOTE
    assert word in finding.found
    assert "oroboros install" in finding.prescribed(Place.HOST).remedy
    assert "oroboros up" in finding.prescribed(Place.DEVELOPMENT).remedy


def test_what_an_option_of_install_says_otherwise_does_not_wait() -> None:
    said = dataclasses.replace(TOPOLOGY, said=Options(previews=3, tls="off"))
    assert doctor.waiting_for_install(Policy(previews=Previews(slots=5), edge=Edge(tls="auto")), said) == ()


def test_a_policy_that_is_in_effect_waits_for_nothing() -> None:
    policy = Policy(production=Production(host="app.localhost"), previews=Previews(host="preview{n}.localhost"))

    assert doctor.waiting_for_install(policy, TOPOLOGY) == ()
    assert doctor.waiting_for_install(Policy(previews=Previews(enabled=False, slots=9)), TOPOLOGY) == ()


@pytest.mark.parametrize("permissions", [Permissions(), Permissions(forks="never", accept_fork_risk=True)])
def test_t_p13_nothing_is_warned_of_where_no_fork_runs(permissions: Permissions) -> None:
    assert doctor.warn_of_forks(Policy(permissions=permissions)) == ""


def test_t_p13_the_second_switch_for_forks_tells_what_remains_to_be_feared() -> None:
    policy = Policy(permissions=Permissions(accept_fork_risk=True), production=Production(host="app.localhost"))
    policy = dataclasses.replace(policy, previews=Previews(host="preview{n}.localhost"))

    told = [one for one in doctor.check_policy(policy, (), TOPOLOGY) if one.name == "forks"]

    assert [one.outcome for one in told] == [Outcome.NOTE]
    assert "same kernel" in told[0].found
    assert "accept_fork_risk" in told[0].prescribed(Place.HOST).remedy


def test_production_on_the_apis_own_port_waits_for_nothing_once_it_is_installed() -> None:
    policy = Policy(production=Production(backend_port=8000))

    assert doctor.waiting_for_install(policy, dataclasses.replace(TOPOLOGY, production_backend_port=8000)) == ()


def test_previews_below_productions_own_domain_are_a_note_with_a_remedy_and_no_failure() -> None:
    shared = doctor.note_cookies(CONTRACT)

    assert shared.outcome is Outcome.NOTE
    assert "both below example.com" in shared.found
    assert "[previews] host" in shared.prescribed(Place.HOST).remedy
    apart = doctor.note_cookies(dataclasses.replace(CONTRACT, preview_host="p{n}.example-previews.com"))
    assert apart.outcome is Outcome.OK


def test_an_app_on_all_interfaces_is_a_note_with_a_remedy_and_no_failure() -> None:
    told = doctor.note_exposed({MAIN: ("0.0.0.0:8200",), preview_slot(1): ("127.0.0.1:8201",)})

    assert told.outcome is Outcome.NOTE
    assert "main listens on all interfaces" in told.found
    assert "0.0.0.0:8200" in told.found
    assert "HOST" in told.prescribed(Place.HOST).remedy
    assert doctor.note_exposed({MAIN: ("127.0.0.1:8200",)}).outcome is Outcome.OK


# -- the facts, on this machine ---------------------------------------------------------------------------------------


def examined(small: Small) -> dict[str, Finding]:
    findings = doctor_host.examine(find_stack(small.root, {}, working_directory=small.root))
    return {finding.name: finding for finding in findings}


def test_a_stack_whose_processes_are_gone_is_told_part_by_part(small: Small) -> None:
    small.serve(small.commits[0])

    found = examined(small)

    for name in (
        "python",
        "git",
        "starlette",
        "root",
        "hard links",
        "environment",
        "webhook secret",
        "operator token",
        "secret files",
    ):
        assert found[name].outcome is Outcome.OK, found[name]
    for name in ("database", "migrations", "clock", "redis", "mirror", "live main", "release", "policy", "ports"):
        assert found[name].outcome is Outcome.OK, found[name]
    for name in ("forge", "runtime", "surface main", "surface preview-3", "edge main", "api", "worker"):
        assert found[name].outcome is Outcome.FAILED, found[name]
        assert found[name].remedy


def test_doctor_exits_1_and_tells_it_as_json(small: Small) -> None:
    result = small.run("doctor", "--json")

    value = json.loads(result.stdout)
    assert (result.exit_code, value["ok"]) == (1, False)
    assert {"name", "outcome", "found", "remedy", "commands", "fault", "about"} == set(value["checks"][0])
    remedies = " ".join(check["remedy"] for check in value["checks"])
    assert "oroboros up" in remedies
    assert not re.search("systemctl|journalctl|sudo|oroboros install", remedies), "it is no host"
    said = small.run("doctor").stdout
    assert "-> " in said
    assert max(map(len, said.splitlines())) <= 80


def test_doctor_finds_an_open_secret_and_a_bad_one(small: Small) -> None:
    (small.root / "etc" / "webhook-secrets").write_text("changeme\n")
    (small.root / "etc" / "app-main.env").write_text("KEY=1\n")
    (small.root / "etc" / "app-main.env").chmod(0o640)

    found = examined(small)

    assert "shorter" in found["webhook secret"].found
    assert "app-main.env (0640)" in found["secret files"].found
    assert "changeme" not in found["webhook secret"].found


def test_doctor_finds_a_broken_mirror(small: Small) -> None:
    (small.layout.mirror / "HEAD").unlink()

    assert examined(small)["mirror"].outcome is Outcome.FAILED


def test_doctor_finds_a_damaged_release_and_a_current_that_lags(small: Small) -> None:
    first, second, _ = small.commits
    small.serve(first)
    small.publish(second)
    file = small.layout.release(first.sha) / "app.py"
    file.chmod(0o644)
    small.layout.current.unlink()
    small.layout.current.symlink_to(small.layout.release(second.sha))

    found = examined(small)

    assert "app.py: mode" in found["release"].found
    assert f"current names {second.sha[:7]}" in found["live main"].found


def test_doctor_finds_a_database_that_is_away_or_empty(small: Small, empty_postgres_url: str) -> None:
    away = doctor_host.ask_database("postgresql://127.0.0.1:1/x")
    assert doctor.check_database(away).outcome is Outcome.FAILED
    assert doctor.check_migrations(away).outcome is Outcome.NOTE
    assert doctor.check_clock(away).outcome is Outcome.NOTE

    assert "not applied" in doctor.check_migrations(doctor_host.ask_database(empty_postgres_url)).found
    migrate(empty_postgres_url)
    assert doctor.check_migrations(doctor_host.ask_database(empty_postgres_url)).outcome is Outcome.OK
    with psycopg.connect(empty_postgres_url) as connection:
        connection.execute("UPDATE schema_migrations SET sha256 = 'edited'")
    assert "other content" in doctor.check_migrations(doctor_host.ask_database(empty_postgres_url)).found


def test_doctor_finds_a_root_that_is_not_there(tmp_path: Path) -> None:
    facts = doctor_host.probe_root(tmp_path / "nowhere")

    assert doctor.check_root_writable(facts).outcome is Outcome.FAILED
    assert facts.free_bytes > 0


def test_probing_the_root_leaves_nothing(tmp_path: Path) -> None:
    facts = doctor_host.probe_root(tmp_path)

    assert (facts.writable, facts.hard_links) == (True, True)
    assert list(tmp_path.iterdir()) == []


def test_doctor_finds_that_there_is_no_git() -> None:
    assert doctor_host.ask_git("/nowhere/git") is None
    assert doctor.check_git(doctor_host.ask_git()).outcome is Outcome.OK


def test_doctor_names_the_stranger_on_a_port_of_ours(small: Small) -> None:
    port = small.topology.ports.web(MAIN)
    small.layout.stack_file.write_text(json.dumps({"pid": own_session_leader()}))
    with Part(listener(small, port)) as stranger:
        finding = examined(small)["ports"]

        assert finding.outcome is Outcome.FAILED
        assert re.search(rf"{port} \(main web\) is held by \S+ \(process \d+ of ", finding.found)
        assert stranger.pid is not None

        small.layout.stack_file.write_text(json.dumps({"pid": os.getpid()}))
        assert examined(small)["ports"].outcome is Outcome.OK, "a descendant of the stack is no stranger"


def test_who_ends_while_doctor_looks_is_no_stranger(small: Small) -> None:
    port = small.topology.ports.web(MAIN)
    small.layout.stack_file.write_text(json.dumps({"pid": own_session_leader()}))
    settings = find_stack(small.root, {}, working_directory=small.root).settings()
    with Part(listener(small, port)) as ending:
        (seen,) = doctor_host.find_owners(settings, small.topology, pause=lambda _: None)
        assert (seen.port, seen.pid, seen.ours) == (port, ending.pid, False)
        assert doctor_host.find_owners(settings, small.topology, pause=lambda _: ending.stop()) == []


def listener(small: Small, port: int) -> PartSpec:
    """A process that listens on a port and does nothing."""
    script = f"import socket,time; s=socket.create_server(('127.0.0.1',{port})); time.sleep(60)"
    return PartSpec(
        name="listener",
        argv=(sys.executable, "-c", script),
        log_file=small.root / "listener.log",
        is_ready=lambda: listens_at(("127.0.0.1", port)),
        environment=dict(os.environ),
    )


def own_session_leader() -> int:
    """A process id that is nobody's ancestor here: one that does not run."""
    return 1 << 22


@contextmanager
def answering(port: int, answer: Callable[[str], tuple[int, dict[str, object]]]) -> Iterator[None]:
    """Answer GETs on a port, by Host header."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, value = answer(self.headers.get("Host", ""))
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_doctor_believes_a_health_answer_only_from_the_slots_own_surface(small: Small) -> None:
    ports = small.topology.ports
    with (
        answering(ports.web(MAIN), lambda _: (200, {"slot": "main"})),
        answering(ports.web(preview_slot(1)), lambda _: (200, {"slot": "preview-2"})),
        answering(ports.edge, lambda host: (200, {"slot": "main"}) if host == "app.localhost" else (404, {})),
        answering(ports.worker_health, lambda _: (503, {"status": "unfit", "last_error": "DatabaseAway"})),
        answering(ports.api, lambda _: (200, {"status": "ok"})),
    ):
        found = examined(small)

    assert found["surface main"].outcome is Outcome.OK
    assert "not the surface of preview-1" in found["surface preview-1"].found
    assert found["edge main"].outcome is Outcome.OK
    assert "nowhere (404)" in found["edge preview-1"].found
    assert "DatabaseAway" in found["worker"].found
    assert found["api"].outcome is Outcome.OK


def test_a_port_that_accepts_and_says_nothing_costs_seconds_and_no_more(free_port_offset: int) -> None:
    with socket.create_server(("127.0.0.1", free_port_offset)) as deaf:
        facts = doctor_host.ask_health("deaf", deaf.getsockname()[1])

    assert facts.status is None


def test_doctor_without_any_settings_still_checks_what_it_can(tmp_path: Path) -> None:
    findings = doctor_host.examine(find_stack(tmp_path, {}, working_directory=tmp_path))

    assert findings[-1].name == "environment"
    assert findings[-1].outcome is Outcome.FAILED
    assert {"python", "git", "root"} <= {finding.name for finding in findings}
