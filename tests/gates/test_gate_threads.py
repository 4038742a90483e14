"""A gate against real processes on real sockets: nothing passes that is not the new release itself."""

from __future__ import annotations

import itertools
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest

from controller.decisions.gates import Judgement
from controller.decisions.health import ServiceHealth
from controller.effects.probe import ask, strangers_at
from controller.effects.static_files import COMPARED_BYTES_MAX, StaticFile, describe_pointers, sample_static_files
from controller.listeners import listeners_of
from controller.loop.gate_threads import (
    GateOrder,
    GateThreads,
    Instance,
    WatchOrder,
    probe_doors,
    probe_instance,
)
from controller.model.config import Gate
from controller.model.errors import Unavailable
from controller.model.names import MAIN, Layout, Ports, Sha, Topology
from controller.model.nouns import ProcessFact, Verdict
from controller.model.states import Outcome, ProcessState
from tests.edge.host import RELEASE, Host

SERVERS = Path(__file__).with_name("servers.py")
URL = "https://app.example.com:8443"
NONCE = "5" * 32
GATE = Gate(start_timeout_s=0.8, probe_timeout_s=0.3, window_s=1.0, window_failures=3)
ECHO = Gate(start_timeout_s=2.0, probe_timeout_s=0.3, proof="echo")
Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def surface(short_dir: Path, free_port_offset: int) -> Iterator[Host]:
    """Production's real surface."""
    layout = Layout(short_dir / "root", short_dir / "run")
    for folder in (layout.run / "surfaces", short_dir / "logs"):
        folder.mkdir(parents=True)
    topology = Topology(base_host="localhost", previews=1, ports=Ports(offset=free_port_offset))
    made = Host(folder=short_dir, layout=layout, topology=topology)
    with made.closing:
        made.surface(MAIN)
        yield made


@pytest.fixture
def run(port: int) -> Iterator[Run]:
    started: list[subprocess.Popen[bytes]] = []

    def start(
        kind: str, *, wait: bool = True, release: str = RELEASE, nonce: str = NONCE, where: str = "", url: str = ""
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(SERVERS), kind, where or str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OROBOROS_RELEASE": release, "OROBOROS_NONCE": nonce, "OROBOROS_URL": url},
        )
        started.append(process)
        if wait:
            assert process.stdout is not None
            process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def instance_of(
    process: subprocess.Popen[bytes], port: int, *, log: str = "", address: str = "", away: str = ""
) -> Instance:
    def fact() -> ProcessFact:
        code = process.poll()
        return ProcessFact(
            unit="main-a",
            generation=1,
            state=ProcessState.RUNNING if code is None else ProcessState.EXITED,
            exit_code=code,
            started_at=datetime.now(UTC),
        )

    where = address or f"127.0.0.1:{port}"

    def process_ids() -> frozenset[int]:
        return frozenset([process.pid] if process.poll() is None else [])

    return Instance(
        address=where,
        nonce=NONCE,
        process_ids=process_ids,
        strangers=lambda: strangers_at(where, process_ids),
        fact=fact,
        error_line=lambda: log,
        told=where,
        listens=lambda: listeners_of(process_ids()),
        beside=lambda: (),
        part_away=lambda: away,
    )


def gate_order(instance: Instance, gate: Gate, *, url: str = URL) -> GateOrder:
    return GateOrder(slot=MAIN, generation=1, release=RELEASE, gate=gate, instance=instance, url=url)


def judge(
    instance: Instance,
    gate: Gate = GATE,
    *,
    objection: Callable[[], Judgement | None] = lambda: None,
    before_pass: Callable[[], None] = lambda: None,
) -> tuple[Verdict, str]:
    """Run one gate to its end."""
    told: list[tuple[Verdict, str]] = []
    ended = threading.Event()
    began = time.monotonic()

    def record(verdict: Verdict, proof: str, took_s: float) -> None:
        assert 0 < took_s <= time.monotonic() - began
        told.append((verdict, proof))
        ended.set()

    order = replace(gate_order(instance, gate), objection=objection, before_pass=before_pass)
    assert GateThreads(record).start_gate(order)
    assert ended.wait(15)
    return told[0]


def test_the_very_process_passes_and_the_level_of_proof_is_told(run: Run, port: int) -> None:
    verdict, proof = judge(instance_of(run("good"), port))

    assert (verdict.outcome, proof) == (Outcome.PASS, "owner")


def test_what_no_probe_sees_may_speak_against_a_release_that_answers(run: Run, port: int) -> None:
    objection = Judgement(outcome=Outcome.FAIL, reason="LfsPointers", message="logo.png")
    done: list[str] = []
    verdict, proof = judge(
        instance_of(run("good"), port), objection=lambda: objection, before_pass=lambda: done.append("asked")
    )

    assert (verdict.outcome, verdict.reason, verdict.message, proof, done) == (
        Outcome.FAIL, "LfsPointers", "logo.png", "", []
    )  # fmt: skip


def test_what_is_to_be_found_out_before_a_switch_is_done_once_it_passed_and_never_else(run: Run, port: int) -> None:
    done: list[str] = []
    good = run("good")
    verdict, _ = judge(instance_of(good, port), before_pass=lambda: done.append("asked"))
    assert (verdict.outcome, done) == (Outcome.PASS, ["asked"])
    good.kill()
    good.wait()
    verdict, _ = judge(instance_of(run("old"), port), ECHO, before_pass=lambda: done.append("asked again"))
    assert (verdict.outcome, done) == (Outcome.FAIL, ["asked"])


def test_an_echo_of_release_and_nonce_passes(run: Run, port: int) -> None:
    verdict, proof = judge(instance_of(run("good"), port), ECHO)

    assert (verdict.outcome, proof) == (Outcome.PASS, "echo")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("204", "WrongStatus"),
        ("301", "WrongStatus"),
        ("500", "WrongStatus"),
        ("endless", "GateTimedOut"),
        ("endless-chunked", "GateTimedOut"),
        ("huge", "GateTimedOut"),
        ("hang", "GateTimedOut"),
        ("drip", "GateTimedOut"),
        ("drip-head", "GateTimedOut"),
        ("endless-head", "GateTimedOut"),
        ("only-announced", "GateTimedOut"),
        ("cut", "GateTimedOut"),
        ("not-http", "GateTimedOut"),
        ("flapping", "Flapping"),
    ],
)
def test_a_bad_answer_never_passes(run: Run, port: int, kind: str, reason: str) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verdict, _ = judge(instance_of(run(kind), port))

    assert (verdict.outcome, verdict.reason) == (Outcome.FAIL, reason)
    assert verdict.blames_release
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 24 << 10


@pytest.mark.parametrize("kind", ["announced", "chunked"])
def test_an_unusual_but_whole_answer_passes(run: Run, port: int, kind: str) -> None:
    verdict, _ = judge(instance_of(run(kind), port), ECHO)

    assert verdict.outcome is Outcome.PASS


def test_a_process_that_never_binds_is_told_so(run: Run, port: int) -> None:
    verdict, _ = judge(instance_of(run("never-binds", wait=False), port))

    assert verdict.reason == "NeverBound"
    assert verdict.blames_release
    assert f"127.0.0.1:{port}" in verdict.message


def test_a_machine_that_stood_still_does_not_use_up_the_time_to_start(run: Run, port: int) -> None:
    instance = instance_of(run("good"), port)
    stands_still = iter([4.0])

    def fact() -> ProcessFact | None:
        # As if all stood still: the first look takes longer than the whole gate may.
        time.sleep(next(stands_still, 0.0))
        return instance.fact()

    verdict, _ = judge(replace(instance, fact=fact), Gate(start_timeout_s=3.0, probe_timeout_s=0.3))

    assert verdict.outcome is Outcome.PASS


def test_a_process_that_binds_and_exits_fails_at_once_with_code_and_last_line(run: Run, port: int) -> None:
    process = run("binds-then-exits")
    time.sleep(0.3)
    verdict, _ = judge(instance_of(process, port, log="cannot find the frobnicator"))

    assert verdict.reason == "InstanceExited"
    assert "7" in verdict.message
    assert "frobnicator" in verdict.message


def test_an_old_process_that_still_answers_does_not_pass_for_the_new_one(run: Run, port: int) -> None:
    run("good", release="f" * 40)
    new = run("never-binds", wait=False)
    verdict, _ = judge(instance_of(new, port))

    assert (verdict.outcome, verdict.reason, verdict.blames_release) == (Outcome.FAIL, "NotOurs", False)


def test_a_squatter_who_copies_the_headers_does_not_pass(run: Run, port: int) -> None:
    """T-H11: right release and nonce, wrong process."""
    run("good")
    new = run("never-binds", wait=False)
    verdict, _ = judge(instance_of(new, port), ECHO)

    assert verdict.reason == "NotOurs"


def test_an_app_that_ends_because_its_port_is_taken_is_not_to_blame(run: Run, port: int) -> None:
    run("good")
    new = run("good", wait=False)
    new.wait(10)
    verdict, _ = judge(instance_of(new, port, log="Address already in use"))

    assert (verdict.reason, verdict.blames_release) == ("NotOurs", False)
    assert "exited with 1" in verdict.message
    assert "already in use" in verdict.message


def test_a_squatter_beside_the_release_on_the_same_port_is_found(run: Run, port: int) -> None:
    """SO_REUSEPORT: the kernel would send some requests to either."""
    new = run("shared")
    squatter = run("shared")
    verdict, _ = judge(instance_of(new, port), ECHO)

    assert (verdict.reason, verdict.blames_release) == ("NotOurs", False)
    assert f"process {squatter.pid} " in verdict.message


def test_a_listener_on_another_address_is_no_squatter(run: Run, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))
        other.listen()
        verdict, _ = judge(instance_of(run("good"), port))

    assert verdict.outcome is Outcome.PASS


def test_a_unix_socket_passes_whatever_the_path_was_when_it_was_bound(run: Run, port: int, short_dir: Path) -> None:
    new = run("good", where=str(short_dir / "new"))
    (short_dir / "new").rename(short_dir / "app")
    verdict, proof = judge(instance_of(new, port, address=f"unix/{short_dir}/app"))

    assert (verdict.outcome, proof) == (Outcome.PASS, "owner")


def test_a_socket_that_was_moved_over_the_path_does_not_pass(run: Run, port: int, short_dir: Path) -> None:
    new = run("good", where=str(short_dir / "app"))
    squatter = run("good", where=str(short_dir / "other"))
    (short_dir / "other").rename(short_dir / "app")
    verdict, _ = judge(instance_of(new, port, address=f"unix/{short_dir}/app"))

    assert (verdict.reason, verdict.blames_release) == ("NotOurs", False)
    assert f"process {squatter.pid} " in verdict.message


def test_a_doubled_proof_proves_nothing(run: Run, port: int) -> None:
    verdict, _ = judge(instance_of(run("doubled"), port), ECHO)

    assert verdict.reason == "WrongRelease"


def test_an_instance_that_somebody_else_stopped_is_not_to_blame(run: Run, port: int) -> None:
    process = run("never-binds", wait=False)
    process.terminate()
    process.wait()
    verdict, _ = judge(instance_of(process, port))

    assert (verdict.reason, verdict.blames_release) == ("InstanceExited", False)


def test_an_instance_whose_database_is_away_is_not_to_blame(run: Run, port: int) -> None:
    away = "its database does not answer"
    process = run("never-binds", wait=False)
    process.kill()
    process.wait()
    verdict, _ = judge(instance_of(process, port, away=away))

    assert (verdict.reason, verdict.blames_release) == ("InstanceExited", False)
    assert away in verdict.message


def test_a_runtime_that_does_not_answer_is_not_the_release(run: Run, port: int) -> None:
    def away() -> ProcessFact | None:
        raise Unavailable("RuntimeAway", "the supervisor does not answer")

    verdict, _ = judge(replace(instance_of(run("good"), port), fact=away))

    assert (verdict.outcome, verdict.reason, verdict.blames_release) == (Outcome.FAIL, "RuntimeAway", False)


def test_an_instance_that_the_host_lost_is_not_to_blame(run: Run, port: int) -> None:
    verdict, _ = judge(replace(instance_of(run("good"), port), fact=lambda: None))

    assert (verdict.reason, verdict.blames_release) == ("InstanceLost", False)


def test_an_echo_of_another_release_fails_and_names_both(run: Run, port: int) -> None:
    verdict, _ = judge(instance_of(run("old"), port), ECHO)

    assert verdict.reason == "WrongRelease"
    assert "ffff" in verdict.message
    assert "aaaa" in verdict.message


def watch(order: WatchOrder) -> list[Verdict]:
    told: list[Verdict] = []
    ended = threading.Event()

    def record(verdict: Verdict, _proof: str, _took_s: float) -> None:
        told.append(verdict)
        if verdict.kind == "watch":
            ended.set()

    assert GateThreads(record).start_watch(order)
    assert ended.wait(15)
    return told


def order_for(
    instance: Instance | None, surface: Host, *, gate: Gate = GATE, static: tuple[StaticFile, ...] = ()
) -> WatchOrder:
    return WatchOrder(
        slot=MAIN,
        generation=1,
        release=RELEASE,
        gate=gate,
        instance=instance,
        static=static,
        url=surface.topology.url(MAIN),
        doors=(f"127.0.0.1:{surface.topology.ports.web(MAIN)}",),
        window_left_s=1.0,
    )


def served(instance: Instance, surface: Host, *, gate: Gate = GATE) -> WatchOrder:
    """The instance serves, and its window begins."""
    surface.serve(MAIN, address=instance.address, health_path=gate.path)
    return order_for(instance, surface, gate=gate)


def test_a_window_confirms_then_passes(run: Run, port: int, surface: Host) -> None:
    told = watch(served(instance_of(run("good"), port), surface))

    assert [(v.kind, v.outcome) for v in told] == [("confirm", Outcome.PASS), ("watch", Outcome.PASS)]


def test_a_window_waits_while_another_process_has_a_port_of_the_slot(run: Run, port: int, surface: Host) -> None:
    """Whatever is answered there meanwhile: it takes the port in the window, and leaves it later."""
    order = served(instance_of(run("good"), port), surface)
    looks = iter([""] * 3 + ["port 3100 is held by nc"] * 3)
    told = watch(replace(order, taken=lambda: next(looks, "")))

    assert [(v.kind, v.outcome) for v in told] == [("confirm", Outcome.PASS), ("watch", Outcome.PASS)]


def test_an_answer_does_not_count_when_the_port_was_taken_meanwhile(surface: Host) -> None:
    looks = iter(["", "port 3100 is held by nc"])
    result = probe_doors(replace(order_for(None, surface), taken=lambda: next(looks)), at_s=0)

    assert (result.passed, result.reason, result.blames_release) == (False, "PortTaken", False)
    assert result.message == "port 3100 is held by nc"


def test_a_window_fails_when_the_instance_dies(run: Run, port: int, surface: Host) -> None:
    process = run("good")
    threading.Timer(0.4, process.kill).start()
    told = watch(served(instance_of(process, port), surface))

    assert told[-1].outcome is Outcome.FAIL
    assert told[-1].reason == "InstanceExited"


def test_a_window_waits_for_a_row_of_the_host_that_is_unwell_and_asks_no_faster_for_it(
    run: Run, port: int, surface: Host
) -> None:
    row = ServiceHealth(service="redis", unit="", address="", ok=False, said="does not answer", took_ms=0)
    asked: list[float] = []

    def ask_host() -> tuple[ServiceHealth, ...]:
        asked.append(time.monotonic())
        return (replace(row, ok=len(asked) > 3),)

    told = watch(replace(served(instance_of(run("good"), port), surface), ask_host=ask_host))

    assert [(v.kind, v.outcome) for v in told] == [("confirm", Outcome.PASS), ("watch", Outcome.PASS)]
    assert len(asked) == 4
    assert min(later - earlier for earlier, later in itertools.pairwise(asked)) >= 0.9


def test_a_static_release_must_answer_its_own_bytes(surface: Host) -> None:
    root = surface.files("site", index_html="home", style_css="body{}")
    surface.serve(MAIN, static_root=root)
    sample = sample_static_files(root, called="site")
    (root / "style.css").write_text("edit{}")
    told = watch(order_for(None, surface, static=sample.files))

    assert told[-1].reason == "WindowFailed"
    assert "style.css is not the file of this release: other bytes" in told[-1].message


def test_a_door_that_is_not_our_surface_proves_nothing(run: Run, port: int, surface: Host) -> None:
    """A squatter that answers 200 to everything, with the proof of the release."""
    run("good")
    order = replace(order_for(None, surface), doors=(f"127.0.0.1:{port}",))

    result = probe_doors(order, at_s=0)

    assert (result.passed, result.reason, result.blames_release) == (False, "DoorAway", False)
    assert "does not say that it is the surface of main" in result.message


def test_a_surface_of_an_earlier_installation_is_believed_by_its_health(run: Run, port: int, surface: Host) -> None:
    """It answers /health under any name, and knows no reserved path."""
    instance = instance_of(run("earlier-surface"), port)
    order = replace(order_for(instance, surface), doors=(instance.address,))

    assert probe_doors(order, at_s=0).message == ""
    assert probe_doors(replace(order, gate=replace(GATE, status=204)), at_s=0).reason == "WrongStatus"
    assert probe_doors(replace(order, gate=ECHO, release=Sha("f" * 40)), at_s=0).reason == "DoorAway"


def test_a_surface_that_serves_another_release_proves_nothing(run: Run, port: int, surface: Host) -> None:
    order = served(instance_of(run("good"), port), surface)

    for other in (replace(order, release=Sha("f" * 40)), replace(order, release=Sha("f" * 40), instance=None)):
        result = probe_doors(other, at_s=0)
        assert (result.passed, result.reason, result.blames_release) == (False, "WrongRelease", False)


@pytest.mark.parametrize(("kind", "status"), [("good", 200), ("echo-204", 204)])
def test_what_passes_the_gate_passes_the_window_whatever_else_lies_at_that_path(
    run: Run, port: int, surface: Host, kind: str, status: int
) -> None:
    instance = instance_of(run(kind), port)
    gate = replace(GATE, path="/health", proof="echo", status=status)
    a_file = surface.files("file", health="a file")
    a_folder = surface.files("folder", health__index_html="a folder")
    for static_root, fallback in ((None, None), (a_file, None), (a_folder, None), (a_folder, "health/index.html")):
        surface.serve(
            MAIN,
            address=instance.address,
            health_path=gate.path,
            health_status=status,
            static_root=static_root,
            fallback=fallback,
            api_prefix="/api/" if static_root else "/",
        )
        assert probe_instance(gate_order(instance, gate, url=surface.topology.url(MAIN)), at_s=0).passed
        assert probe_doors(order_for(instance, surface, gate=gate), at_s=0).message == "", (static_root, fallback)
        assert surface.web(MAIN, "/health").status == 200


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_gate_window_and_health_ask_an_app_as_its_visitors_do(
    run: Run, port: int, surface: Host, scheme: Literal["http", "https"]
) -> None:
    """An app that knows its own name only, and redirects to https when it is told that a visitor came by http."""
    surface.topology = replace(surface.topology, scheme=scheme, public_port=8443, ports=surface.topology.ports)
    surface.surface_parts[MAIN].kill()
    surface.surface(MAIN)
    surface.edge()
    instance = instance_of(run("allowed-hosts", url=surface.topology.url(MAIN)), port)
    order = served(instance, surface)
    doors = (*order.doors, f"127.0.0.1:{surface.topology.ports.edge}")

    assert probe_instance(gate_order(instance, GATE, url=order.url), at_s=0).passed
    assert probe_doors(replace(order, doors=doors), at_s=0).passed
    assert surface.web(MAIN, "/health").status == 200
    other = gate_order(instance, GATE, url="http://localhost")
    assert probe_instance(other, at_s=0).status == 400


SITES: dict[str, dict[str, bytes]] = {
    "a page as large as was kept": {"index.html": b"x" * (256 << 10)},
    "a page larger than was kept": {"index.html": b"x" * ((256 << 10) + 1)},
    "one file above the bound": {"film.mp4": b"f" * (COMPARED_BYTES_MAX + 1)},
    "only large files": {f"{n}.bin": bytes([n]) * (5 << 20) for n in range(2)},
    "only folders": {"a/index.html": b"a", "b/index.html": b"b", "c/d/index.html": b"c"},
    "a page in one folder": {"docs/index.html": b"docs"},
    "empty files": {"index.html": b"", "empty.txt": b""},
    "odd names": {"a b.txt": b"1", "50%.txt": b"2", "c#d.txt": b"3"},
    "odder names": {"what?.txt": b"1", "ü ñ/index.html": b"2", "p%20q#/index.html": b"3"},
    "names that look like others": {"index.htm": b"1", "a\\b.txt": b"2", "{x}.txt": b"3"},
    "hidden ones beside": {".env": b"SECRET", ".git/config": b"x", "deploy.toml": b"[web]", "page.html": b"page"},
    "only well-known": {".well-known/security.txt": b"Contact: a"},
}


def test_whatever_a_site_holds_is_compared_as_far_as_it_is_read(surface: Host) -> None:
    for number, (site, files) in enumerate(SITES.items()):
        root = surface.folder / f"site-{number}"
        for name, body in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(body)
        surface.serve(MAIN, static_root=root)
        sample = sample_static_files(root, called="site")
        order = order_for(None, surface, static=sample.files)
        assert (sample.problem, probe_doors(order, at_s=0).message) == ("", ""), site
        name, body = next(one for one in files.items() if not one[0].startswith((".env", ".git", "deploy")))
        (root / name).write_bytes(bytes([body[0] ^ 1]) + body[1:] if body else b"no longer empty")
        assert probe_doors(order, at_s=0).reason == "WrongRelease", site


def test_a_file_that_differs_behind_what_is_read_is_not_judged_but_by_its_length(surface: Host) -> None:
    root = surface.folder / "site"
    root.mkdir()
    (root / "film.mp4").write_bytes(b"f" * (COMPARED_BYTES_MAX + 2))
    surface.serve(MAIN, static_root=root)
    order = order_for(None, surface, static=sample_static_files(root, called="site").files)

    (root / "film.mp4").write_bytes(b"f" * COMPARED_BYTES_MAX + b"gg")
    assert probe_doors(order, at_s=0).passed
    (root / "film.mp4").write_bytes(b"f" * (COMPARED_BYTES_MAX + 1))
    assert "1048577 bytes, not 1048578" in probe_doors(order, at_s=0).message


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (None, "the release has no folder site"),
        ([], "there is no file in site"),
        (["empty/"], "there is no file in site"),
        ([".env", ".git/config"], "none of the 2 files in site is served"),
        (["deploy.toml"], "none of the 1 files in site is served"),
    ],
)
def test_a_folder_without_a_file_to_compare_says_why(tmp_path: Path, names: list[str] | None, told: str) -> None:
    root = tmp_path / "site"
    for name in names or ():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (root / name).mkdir()
        else:
            (root / name).write_text("x")
    if names is not None:
        root.mkdir(exist_ok=True)
    sample = sample_static_files(root, called="site")

    assert sample.files == ()
    assert sample.problem.startswith(told)


def test_links_inside_a_site_are_followed_once(tmp_path: Path) -> None:
    root = tmp_path / "site"
    (root / "real").mkdir(parents=True)
    (root / "real" / "page.html").write_text("page")
    (root / "again").symlink_to("real")
    (root / "loop").symlink_to(".")
    (root / "nowhere").symlink_to("gone")

    assert [file.url_path for file in sample_static_files(root, called="site").files] == ["/again/page.html"]


def test_a_cancelled_gate_says_nothing(run: Run, port: int) -> None:
    told: list[Verdict] = []
    gates = GateThreads(lambda verdict, _proof, _took_s: told.append(verdict))
    process = run("never-binds", wait=False)
    gates.start_gate(gate_order(instance_of(process, port), GATE))
    gates.cancel(MAIN, 1)
    deadline = time.monotonic() + 5
    while gates.running() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert told == []
    assert gates.running() == frozenset()


def test_a_window_whose_time_passed_while_no_worker_ran_is_judged_by_probes_of_its_own(
    run: Run, port: int, surface: Host
) -> None:
    told = watch(replace(served(instance_of(run("good"), port), surface), window_left_s=0.0))

    assert [(v.kind, v.outcome) for v in told] == [("confirm", Outcome.PASS), ("watch", Outcome.PASS)]


def test_a_window_waits_for_our_own_doors(run: Run, port: int, surface: Host) -> None:
    """An edge that is restarted is not the release's failure."""
    order = served(instance_of(run("good"), port), surface)
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(watch, replace(order, doors=(*order.doors, f"127.0.0.1:{surface.topology.ports.edge}")))
        time.sleep(1.5)
        surface.edge()
        told = watched.result()

    assert [(v.kind, v.outcome) for v in told] == [("confirm", Outcome.PASS), ("watch", Outcome.PASS)]


def test_a_release_that_turns_bad_in_its_window_fails(run: Run, port: int, surface: Host) -> None:
    told = watch(served(instance_of(run("flapping"), port), surface))

    assert told[-1].kind == "watch"
    assert told[-1].outcome is Outcome.FAIL
    assert told[-1].blames_release


def test_a_gate_runs_once_however_often_it_is_begun(run: Run, port: int) -> None:
    process = run("never-binds", wait=False)
    gates = GateThreads(lambda _verdict, _proof, _took_s: None)
    order = replace(gate_order(instance_of(process, port), GATE), generation=7)

    assert [gates.start_gate(order), gates.start_gate(order)] == [True, False]
    assert gates.running() == {("gate", MAIN, 7)}
    gates.cancel(MAIN, 7)


def test_paths_that_could_carry_a_request_of_their_own_are_not_asked_for(run: Run, port: int) -> None:
    run("good")

    assert "no path" in ask(f"127.0.0.1:{port}", "/a HTTP/1.1\r\nX: y", headers={"Host": "h"}, timeout_s=1).problem
    assert ask(f"127.0.0.1:{port}", "/a", headers={"Host": "h"}, timeout_s=1).status == 200


def test_a_body_in_chunks_is_read_whole(run: Run, port: int) -> None:
    run("chunked")

    assert ask(f"127.0.0.1:{port}", "/", headers={"Host": "h"}, timeout_s=2).body == b"0\r\n\r\nabcde"


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 3000\n" % (b"0" * 64)
WITH_EXTENSION = POINTER.replace(b"\noid", b"\next-0-foo sha256:%s\noid" % (b"1" * 64))
POINTERS = {
    "version 1": (POINTER, True),
    "the line ends of Windows": (POINTER.replace(b"\n", b"\r\n"), True),
    "without its last line end": (POINTER[:-1], True),
    "with an extension": (WITH_EXTENSION, True),
    "before version 1": (b"version http://git-media.io/v/2\noid sha256:%s\nsize 3000\n" % (b"0" * 64), True),
    "a page about pointers": (b"<pre>" + POINTER + b"</pre>", False),
    "longer than a pointer": (POINTER + b"x" * 1_000, False),
    "another oid": (POINTER.replace(b"sha256", b"md5"), False),
    "nothing": (b"", False),
}


@pytest.mark.parametrize(("body", "is_one"), POINTERS.values(), ids=POINTERS)
def test_a_pointer_of_git_lfs_is_known_by_its_form(tmp_path: Path, body: bytes, is_one: bool) -> None:
    (tmp_path / "logo.png").write_bytes(body)

    assert describe_pointers(static=tmp_path, called=".", started=None, tree=tmp_path) == ("logo.png" if is_one else "")


def test_pointers_count_where_they_are_served_or_lie_beside_a_process(tmp_path: Path) -> None:
    tree, base = tmp_path / "tree", tmp_path / "built"
    for name in (
        "docs/a.png",
        "public/b.png",
        "public/.hidden/c.png",
        "public/.well-known/d",
        "model.bin",
        "fetched.bin",
    ):
        for root in (tree, base):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(POINTER)
    (base / "fetched.bin").write_bytes(b"what the build fetched")
    (base / "public/made.png").write_bytes(POINTER)
    (base / "public/again").symlink_to("../docs")

    def found(*, static: bool, started: bool) -> str:
        return describe_pointers(
            static=base / "public" if static else None, called="public", started=base if started else None, tree=tree
        )

    assert found(static=True, started=False) == "public/.well-known/d, public/again/a.png, public/b.png and 1 more"
    assert found(static=False, started=True) == "docs/a.png, model.bin, public/.hidden/c.png and 2 more"
    assert found(static=True, started=True) == "docs/a.png, model.bin, public/.hidden/c.png and 4 more"
