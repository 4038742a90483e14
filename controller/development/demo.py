"""`oroboros demo`: the three flows and the cruel parts, on a real stack, told step by step, and checked.

It starts `oroboros up` as a process of its own and is then only a user: it commits and pushes with git, opens pull
requests at the forge, and looks at URLs and commit statuses. A steady load of GETs and POSTs runs against production
all the while. A step that does not go as told ends the demo loudly, with exit code 1.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import httpx
import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from controller.development.author import LOOK_EVERY_S, Author, NotAsTold
from controller.development.embedded_runtime import PARTS_FILE
from controller.disk import remove_tree
from controller.effects.stack_files import read_stack
from controller.model.errors import Unavailable
from controller.model.names import MAIN, preview_slot

SAMPLE = Path(__file__).resolve().parent / "sample"
CHECKOUT_ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
LOAD_PAUSE_S = 0.02
RESYNC_S = 4.0


@dataclass(slots=True)
class Load:
    """A steady stream of GETs and POSTs through the edge, and what came of them."""

    edge_port: int
    host: str
    requests: int = 0
    failed: int = 0
    serving: str = ""
    first_failures: list[str] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; production must be live."""
        self.thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Stop, and wait for the request in flight."""
        self.stop.set()
        if self.thread is not None:
            self.thread.join(10)

    def _run(self) -> None:
        turn = 0
        connection: http.client.HTTPConnection | None = None
        while not self.stop.is_set():
            turn += 1
            if turn % 10 == 0 and connection is not None:
                connection.close()  # new connections now and then, keep-alive in between
                connection = None
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.edge_port, timeout=10)
            method, path = (("POST", "/api/visits"), ("GET", "/"), ("GET", "/api/visits"))[turn % 3]
            began = time.monotonic()
            try:
                connection.request(method, path, body=b"" if method == "POST" else None, headers={"Host": self.host})
                answer = connection.getresponse()
                body = answer.read()
                good = answer.status in (200, 201)
                told = f"{method} {path}: {answer.status} {body[:80]!r}"
            except (OSError, http.client.HTTPException) as error:
                good, told, body = False, f"{method} {path}: {type(error).__name__} {error}", b""
                connection.close()
                connection = None
            self.requests += 1
            self.latencies_ms.append((time.monotonic() - began) * 1000)
            if not good:
                self.failed += 1
                if len(self.first_failures) < 5:
                    self.first_failures.append(told)
            elif path == "/api/visits":
                self.serving = str(json.loads(body).get("release", ""))
            self.stop.wait(LOAD_PAUSE_S)

    def p99_ms(self) -> float:
        """Return the 99th percentile of all latencies so far."""
        ordered = sorted(self.latencies_ms)
        return ordered[int(len(ordered) * 0.99)] if ordered else 0.0


@dataclass(slots=True)
class Row:
    """One line of the closing table."""

    step: str
    took_s: float
    answer: str
    status: str


class Demo:
    """One run of the demo against one stack."""

    def __init__(self, stack: Mapping[str, object], console: Console, *, root: Path) -> None:
        self.author = Author(stack, token_file=root / "etc" / "forge-token", while_waiting=self.steady)
        self.stack = stack
        self.console = console
        self.root = root
        self.clone = self.author.clone
        self.urls = self.author.urls
        self.load = Load(edge_port=self.author.edge_port, host=self.author.host(MAIN))
        self.rows: list[Row] = []
        self.pulls: list[int] = []
        self._steady_shown = False

    # -- what is told -----------------------------------------------------------------------------------------------

    def steady_text(self) -> str:
        """Return the steady line."""
        load = self.load
        title = self.author.titles.get(load.serving, "")[:24]
        return (
            f"requests {load.requests:<6} failed {load.failed}  p99 {load.p99_ms():.0f} ms  "
            f'serving {load.serving[:7]} "{title}"'
        )

    def steady(self) -> None:
        """Show the steady line in place, on a terminal."""
        if self.console.is_terminal and self.load.thread is not None:
            self.console.file.write("\r" + self.steady_text()[:79].ljust(79))
            self.console.file.flush()
            self._steady_shown = True

    def say(self, text: str, *, style: str = "") -> None:
        """Tell one line."""
        if self._steady_shown:
            self.console.file.write("\r" + " " * 79 + "\r")
            self._steady_shown = False
        self.console.print(escape(text), style=style or None, highlight=False, soft_wrap=True)

    def step(self, number: int, title: str) -> None:
        """Begin a step."""
        self.say("")
        self.say(f"{number}. {title}", style="bold")

    def done(self, step: str, began: float, *, answer: str, sha: str, slot: str = MAIN) -> None:
        """End a step: keep its line of the closing table, and show the steady line."""
        state, description = self.author.status(sha, slot)
        self.rows.append(
            Row(step=step, took_s=time.monotonic() - began, answer=answer, status=f"{state}: {description}")
        )
        self.say(f"   commit {sha[:7]}: {state}: {description}"[:120])
        if self.load.thread is not None:
            self.say(f"   {self.steady_text()}", style="green" if self.load.failed == 0 else "red")
        self.check_load()

    def check_load(self) -> None:
        """No request may have failed."""
        if self.load.failed:
            raise NotAsTold(f"{self.load.failed} requests failed: {self.load.first_failures}")

    # -- the steps --------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Put the sample app into the working clone and tell each slot which Python it has."""
        for entry in SAMPLE.iterdir():
            if entry.name == "__pycache__":
                continue
            target = self.clone / entry.name
            if entry.is_dir():
                shutil.copytree(entry, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(entry, target)
        for slot in self.urls:
            (self.root / "etc" / f"app-{slot}.env").write_text(f"PYTHON={sys.executable}\n")

    def push_goes_live(self) -> None:
        self.step(1, "git push: a page, and a backend that reads its database")
        began = time.monotonic()
        sha = self.author.commit("Open the shop")
        pushed = self.author.push()
        self.author.await_serving(sha)
        live_s = time.monotonic() - pushed
        status, page = self.author.get(MAIN, "/")
        if status != 200 or b"small shop" not in page:
            raise NotAsTold(f"the page answers {status} {page[:60]!r}")
        self.load.start()
        self.author.await_status(sha, "success")
        self.say(f"   live {live_s:.2f} s after the push, at {self.urls[MAIN]}")
        self.say(f"   {self.times(sha)}")
        self.done("push", began, answer=f"200, release {sha[:7]}", sha=sha)

    def times(self, sha: str) -> str:
        """Return the journal of the run of a commit, as seconds since the delivery was accepted."""
        with psycopg.connect(str(self.stack["database_url"])) as connection:
            rows = connection.execute(
                "SELECT step, coalesce(s.ended_at, s.began_at), min(s.began_at) OVER ()"
                " FROM run_steps s JOIN runs r USING (generation) WHERE r.sha = %s ORDER BY s.id",
                [sha],
            ).fetchall()
        return "  ".join(f"{step} {(at - first).total_seconds() * 1000:.0f} ms" for step, at, first in rows)

    def four_pulls(self) -> None:
        self.step(2, "four pull requests for three slots")
        began = time.monotonic()
        pulls: list[tuple[int, str]] = []
        for k, colour in enumerate(("teal", "plum", "olive", "maroon"), start=1):
            self.author.git("checkout", "-q", "-B", f"colour-{colour}", "origin/main")
            style = self.clone / "public" / "style.css"
            style.write_text(f":root {{ --accent: {colour}; }}\n" + style.read_text())
            sha = self.author.commit(f"Paint it {colour}")
            self.author.push(f"colour-{colour}")
            pulls.append((self.author.open_pull(f"colour-{colour}", f"Paint it {colour}"), sha))
            if k <= 3:
                self.author.await_serving(sha, preview_slot(k))
                self.author.await_status(sha, "success", slot=preview_slot(k))
                self.say(f"   #{pulls[-1][0]} is at {self.urls[preview_slot(k)]}, with a database of its own")
        said = self.author.await_status(pulls[3][1], "pending", slot="preview-1", says="queued")
        self.say(f"   #{pulls[3][0]}: {said}")
        self.author.close_pull(pulls[0][0])
        self.author.await_serving(pulls[3][1], preview_slot(1))
        self.author.await_status(pulls[3][1], "success", slot="preview-1")
        self.say(f"   #{pulls[0][0]} closed: #{pulls[3][0]} went live by itself at {self.urls['preview-1']}")
        self.done("previews", began, answer="4 of 4 previews seen", sha=pulls[3][1], slot="preview-1")
        self.pulls = [number for number, _ in pulls[1:]]
        self.author.git("checkout", "-q", "main")

    def bad_release(self) -> None:
        self.step(3, "a release that answers 500")
        began = time.monotonic()
        serving = self.load.serving
        app = self.clone / "app.py"
        app.write_text(app.read_text().replace("self.answer(200,", "self.answer(500,"))
        sha = self.author.commit("Break the shop")
        self.author.push()
        self.author.await_status(sha, "failure")
        if self.load.serving != serving:
            raise NotAsTold(f"production moved to {self.load.serving[:7]}")
        self.done("bad release", began, answer=f"200, still {serving[:7]}", sha=sha)

    def revert(self) -> None:
        self.step(4, "git revert: back at once, no build, no checkout")
        began = time.monotonic()
        first = self.load.serving
        self.author.git("revert", "--no-edit", "HEAD")
        page = self.clone / "public" / "index.html"
        page.write_text(page.read_text().replace("The small shop", "The bigger shop"))
        second = self.author.commit("Grow the shop")
        self.author.push()
        self.author.await_serving(second)
        self.author.await_status(second, "success", says="live since")
        self.author.git("revert", "--no-edit", "HEAD")
        sha = self.author.git("rev-parse", "HEAD")
        self.author.titles[sha] = 'Revert "Grow the shop"'
        pushed = self.author.push()
        self.author.await_serving(first)
        self.say(f"   {first[:7]} serves again {time.monotonic() - pushed:.2f} s after the push of {sha[:7]}")
        self.author.await_status(sha, "success")
        if (Path(str(self.stack["releases"])) / sha).exists():
            raise NotAsTold(f"{sha[:7]} was checked out: a revert needs no checkout")
        self.done("revert", began, answer=f"200, release {first[:7]}", sha=sha)

    def cruel(self) -> None:
        self.step(5, "pushes while worker, receiver and Redis are killed with -9")
        began = time.monotonic()
        shas: list[str] = []
        for k, victim in enumerate(("worker", "redis", "api"), start=1):
            page = self.clone / "public" / "index.html"
            page.write_text(page.read_text().replace("</main>", f"  <!-- change {k} -->\n</main>"))
            shas.append(self.author.commit(f"Change {k}"))
            self.author.push()
            self.await_delivered(shas[-1])
            self.kill(victim)
        self.author.await_serving(shas[-1])
        self.author.await_status(shas[-1], "success")
        for sha in shas[:-1]:
            self.author.await_status(sha, "error", "success", says="")
            state, said = self.author.status(sha)
            self.say(f"   {sha[:7]}: {state}: {said}")
        lost = self.lost_deliveries()
        self.say(f"   accepted deliveries that were lost: {lost}")
        if lost:
            raise NotAsTold(f"{lost} accepted deliveries were lost")
        self.done("kill -9", began, answer=f"200, release {shas[-1][:7]}", sha=shas[-1])

    def await_delivered(self, sha: str) -> None:
        """Wait until the delivery of a push is in the inbox."""

        def there() -> bool:
            with psycopg.connect(str(self.stack["database_url"])) as connection:
                return connection.execute("SELECT 1 FROM deliveries WHERE sha = %s", [sha]).fetchone() is not None

        self.author.wait(there, lambda: f"the delivery of {sha[:7]} is to be accepted")

    def lost_deliveries(self) -> int:
        """Return how many accepted deliveries have no end, once the loop had time to look at them."""

        def open_ones() -> int:
            with psycopg.connect(str(self.stack["database_url"])) as connection:
                row = connection.execute("SELECT count(*) FROM deliveries WHERE state = 'pending'").fetchone()
                return int(row[0]) if row is not None else 0

        deadline = time.monotonic() + 10
        while open_ones() and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)
        return open_ones()

    def kill(self, part: str) -> None:
        """Kill a part as a crash would; `up` starts it again."""
        pids = json.loads((self.run_folder() / PARTS_FILE).read_text())
        os.kill(int(pids[part]), signal.SIGKILL)
        self.say(f"   kill -9 {part}")

    def run_folder(self) -> Path:
        """Return the stack's short folder of sockets and process ids."""
        return Path(str(json.loads((self.root / "environment.json").read_text())["OROBOROS_RUN"]))

    def missed(self) -> None:
        self.step(6, "a webhook that was never sent")
        began = time.monotonic()
        answer = self.author.forge_development.post("/_development/drop", json={"count": 1})
        if answer.status_code >= 300:
            raise NotAsTold(f"the forge does not drop webhooks: {answer.status_code} {answer.text[:100]}")
        page = self.clone / "public" / "index.html"
        page.write_text(page.read_text().replace("Visits so far", "Visits until now"))
        sha = self.author.commit("Say it better")
        self.author.push()
        self.author.await_serving(sha)
        said = self.author.await_status(sha, "success", says="resync")
        self.say(f"   {said}")
        self.done("missed webhook", began, answer=f"200, release {sha[:7]}", sha=sha)

    def hostile(self) -> None:
        branch = "a$(id)b"
        self.step(7, f"a pull request with a link to /etc/passwd, on a branch named {branch}")
        began = time.monotonic()
        for number in self.pulls:
            self.author.close_pull(number)
        self.author.git("checkout", "-q", "-b", branch, "origin/main")
        (self.clone / "public" / "passwords.txt").symlink_to("/etc/passwd")
        sha = self.author.commit("Nothing to see here")
        self.author.push(branch)
        number = self.author.open_pull(branch, "Nothing to see here")
        said = self.author.await_status(sha, "failure", slot="preview-1")
        self.say(f"   {said}")
        if (Path(str(self.stack["releases"])) / sha).exists():
            raise NotAsTold("the hostile tree was written")
        self.done("hostile tree", began, answer="nothing written", sha=sha, slot="preview-1")
        self.author.close_pull(number)
        self.author.git("checkout", "-q", "-f", "main")

    def unmodified(self) -> None:
        self.step(8, 'an unmodified app, `python3 -m http.server`, with proof = "owner"')
        began = time.monotonic()
        self.author.git("checkout", "-q", "-b", "plain-files", "origin/main")
        (self.clone / "deploy.toml").write_text(
            "[api]\n"
            'command = "python3 -m http.server $PORT --bind 127.0.0.1 --directory public"\n'
            "[gate]\n"
            'proof = "owner"\n'
            "window_s = 2\n"
        )
        sha = self.author.commit("Serve the plain files")
        self.author.push("plain-files")
        number = self.author.open_pull("plain-files", "Serve the plain files")
        said = self.author.await_status(sha, "success", slot="preview-1")
        found = [slot for slot in self.urls if slot != MAIN and b"Python/" in self._server(slot)]
        if len(found) != 1:
            raise NotAsTold(f"the plain server answers in {found}")
        self.say(f"   #{number} is at {self.urls[found[0]]}: {said}")
        self.done("unmodified app", began, answer="200, SimpleHTTP", sha=sha, slot="preview-1")
        self.author.git("checkout", "-q", "-f", "main")

    def _server(self, slot: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.author.edge_port, timeout=10)
        try:
            connection.request("GET", "/style.css", headers={"Host": self.author.host(slot)})
            answer = connection.getresponse()
            answer.read()
            return ", ".join(answer.headers.get_all("Server") or []).encode() if answer.status == 200 else b""
        finally:
            connection.close()

    def table(self) -> None:
        """Show the closing table."""
        table = Table(box=None, pad_edge=False)
        for heading in ("step", "time", "curl", "the forge says"):
            table.add_column(heading, overflow="fold")
        for row in self.rows:
            table.add_row(row.step, f"{row.took_s:.1f} s", escape(row.answer), escape(row.status))
        self.say("")
        self.console.print(table)
        self.say("")
        self.say(self.steady_text(), style="bold green")


def main_demo(*, root: Path | None, leave: bool, port_base: int | None, console: Console) -> int:
    """Run the demo; with `leave` end the stack afterwards, else keep it until Ctrl-C. Return the exit code."""
    # A terminal that is closed, and who ends us from outside, end the stack as well.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    began = time.monotonic()
    own_root = Path(tempfile.mkdtemp(prefix="oroboros-demo-")) if root is None else root
    words = ["up", "--root", str(own_root), "--resync", f"{RESYNC_S:g}"]
    words += ["--port-base", str(port_base)] if port_base is not None else ["--free-ports"]
    console.print(f"oroboros {' '.join(words)}", highlight=False, soft_wrap=True)
    log_file = own_root / "up.log"
    own_root.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT_ROOT)}
    with log_file.open("wb") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "controller.doors.cli", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    try:
        stack = _await_stack(own_root, up, log_file)
        console.print(f"everything answers after {time.monotonic() - began:.1f} s", highlight=False)
        demo = Demo(stack, console, root=own_root)
        try:
            demo.prepare()
            for act in _acts(demo):
                act()
        except (NotAsTold, httpx.HTTPError, OSError, ValueError, KeyError, psycopg.Error) as error:
            demo.say("")
            demo.say(f"NOT AS TOLD: {type(error).__name__}: {error}", style="bold red")
            demo.say(f"the logs are in {own_root / 'log'} and {log_file}")
            return 1
        finally:
            demo.load.end()
        demo.table()
        demo.say(f"all as told, in {time.monotonic() - began:.0f} s")
        if not leave:
            _stay(demo, up)
        return 0
    finally:
        _stop(up)
        if root is None and leave:
            remove_tree(os.fsencode(own_root))  # a release is read-only, to its owner too


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt(f"signal {number}")


def _acts(demo: Demo) -> Sequence[Callable[[], None]]:
    return (
        demo.push_goes_live,
        demo.four_pulls,
        demo.bad_release,
        demo.revert,
        demo.cruel,
        demo.missed,
        demo.hostile,
        demo.unmodified,
    )


def _await_stack(root: Path, up: subprocess.Popen[bytes], log_file: Path) -> dict[str, object]:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if up.poll() is not None:
            tail = log_file.read_text(errors="replace").strip().splitlines()[-5:]
            raise Unavailable("StackEnded", f"the stack ended with {up.returncode}: {' | '.join(tail)}")
        try:
            return read_stack(root)
        except Unavailable:
            time.sleep(LOOK_EVERY_S)
    raise Unavailable("StackSilent", f"the stack did not come up within {START_TIMEOUT_S:g} s; see {log_file}")


def _stay(demo: Demo, up: subprocess.Popen[bytes]) -> None:
    demo.say("")
    demo.say("Go on by hand:", style="bold")
    demo.say(f"  cd {demo.clone}        # edit, commit, git push")
    demo.say(f"  open {demo.urls[MAIN]}")
    demo.say(f"  oroboros --root {demo.root} status")
    demo.say("Ctrl-C ends everything.")
    try:
        up.wait()
    except KeyboardInterrupt:
        demo.say("stopping")


def _stop(up: subprocess.Popen[bytes]) -> None:
    if up.poll() is None:
        up.terminate()
        try:
            up.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(up.pid, signal.SIGKILL)
            up.wait()
