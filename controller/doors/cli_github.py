"""How does a GitHub App come to be ours, and is it as it should be? `oroboros github setup` and `github check`.

Setup hands the forge a manifest through the person's browser, waits for the code that comes back, and writes what the
forge hands over for it: the key and the webhook's secret, each to a file for its owner alone. Neither is ever printed.
The page is on loopback, and answers only to its own name and to the state that it gave away.
Where the repository is known, setup then waits until the App is installed for it, and checks it.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from controller.decisions.github import app as protocol
from controller.decisions.github.app import EVENTS, HOOK_PATH, App, HookConfig, LoggedDelivery, NewApp
from controller.decisions.github.identity import Installation, lacks
from controller.decisions.github.wire import Object
from controller.doors.doctor import Finding, Outcome, ok
from controller.doors.forges import Forges
from controller.doors.stacks import utc_now
from controller.effects.github_http import Client, Forge
from controller.effects.github_identity import AppIdentity
from controller.effects.stack_files import write_private
from controller.model.command import parse_environment
from controller.model.errors import Failed, OroborosError, Refused, Unavailable

KEY_FILE: Final = "github-app-key"
SECRETS_FILE: Final = "webhook-secrets"
#: An installed host has it.
WORKER_FILE: Final = "worker.env"
#: For a person in a browser.
PATIENCE_S: Final = 900.0
INSTALL_POLL_S: Final = 3.0
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """What the person who sets up said."""

    forge_url: str
    webhook_url: str
    name: str
    #: A page about the App; the forge wants one.
    homepage: str
    #: What it is to be installed for; None: that is not known yet.
    repository: str | None = None
    organization: str | None
    folder: Path
    #: Port of the page on loopback; 0 for any.
    port: int
    #: From an earlier call, or from the browser's address bar where the page cannot be reached.
    code: str | None
    patience_s: float = PATIENCE_S
    #: How long to wait until it is installed.
    install_patience_s: float = PATIENCE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedView:
    """What was created, without its secrets."""

    app_id: int
    name: str
    url: str
    install_url: str
    key_file: Path
    secrets_file: Path
    environment: dict[str, str]
    #: The env file that has these values now; None where they are still to be set.
    written_to: Path | None
    #: What was found of it once it was installed; None: it was not looked at.
    checks: tuple[Finding, ...] | None = None


def default_name() -> str:
    """Return a name for an App that is not taken yet: they are one namespace for the whole forge."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower())[:20].strip("-") or "host"
    return f"oroboros-{host}"


def set_up(wanted: SetUp, *, say: Callable[[str], None]) -> CreatedView:
    """Create the App with a person's help; Refused when there is a key already, which would be lost."""
    key_file, secrets_file = wanted.folder / KEY_FILE, wanted.folder / SECRETS_FILE
    if key_file.exists() and key_file.stat().st_size > 0:
        raise Refused("AlreadyThere", f"{key_file} is there already; move it away to create another App")
    if not wanted.folder.is_dir():
        raise Failed("NotWritten", f"there is no folder {wanted.folder}; --folder names another")
    code = wanted.code if wanted.code is not None else await_code(wanted, say=say)
    with Client(wanted.forge_url) as client:
        new = protocol.read_new_app(client.ask(protocol.convert_manifest(code)), now=utc_now())
    return _keep(new, key_file, secrets_file)


def _keep(new: NewApp, key_file: Path, secrets_file: Path) -> CreatedView:
    worker_file = key_file.with_name(WORKER_FILE)
    try:
        write_private(key_file, new.pem)
        known = secrets_file.read_text(encoding="utf-8") if secrets_file.exists() else ""
        # Old and new ones count beside each other, so that a hook of before goes on.
        write_private(secrets_file, f"{known.rstrip()}\n{new.webhook_secret}\n".lstrip("\n"))
        if worker_file.exists():
            told = worker_file.read_text(encoding="utf-8", errors="surrogateescape")
            write_private(worker_file, _with_value(told, "OROBOROS_GITHUB_APP_ID", str(new.app.id)))
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise Failed(
            "NotWritten",
            f"the App {new.app.name} was created, but {key_file.parent} could not be written: {said};"
            f" generate a key and set a secret on {new.app.html_url}",
        ) from error
    environment = {
        "OROBOROS_GITHUB_APP_ID": str(new.app.id),
        "OROBOROS_GITHUB_APP_KEY_FILE": str(key_file),
        "OROBOROS_WEBHOOK_SECRETS_FILE": str(secrets_file),
    }
    if worker_file.exists():
        # Where files lie is told to a host's units by systemd, which hands them on.
        environment = {key: value for key, value in environment.items() if not key.endswith("_FILE")}
    return CreatedView(
        app_id=new.app.id,
        name=new.app.name,
        url=new.app.html_url,
        install_url=f"{new.app.html_url}/installations/new",
        key_file=key_file,
        secrets_file=secrets_file,
        environment=environment,
        written_to=worker_file if worker_file.exists() else None,
    )


def _with_value(text: str, key: str, value: str) -> str:
    """Return an env file with one value set, and everything else as it was."""
    lines = [line for line in text.splitlines() if key not in parse_environment(line)]
    return "".join(f"{line}\n" for line in (*lines, f"{key}={value}"))


def describe(created: CreatedView, *, is_awaited: bool) -> str:
    """Return what was created, and what is to be done next; `is_awaited`: we wait until it is installed."""
    if created.written_to is None:
        values = "\n".join(f"     {key}={value}" for key, value in created.environment.items())
        second = f"set for api and worker, and start them again:\n{values}"
    else:
        second = f"systemctl restart ouroboros-api ouroboros-worker (its number was added to {created.written_to})"
    return (
        f"created the App {created.name} ({created.app_id}), {created.url}\n"
        f"  its key is in {created.key_file}, its webhook's secret was added to {created.secrets_file}\n"
        f"next:\n  1. install it for your repository{', which is waited for' * is_awaited}: {created.install_url}\n"
        f"  2. {second}\n"
        f"  3. push, and see that its deliveries arrive: oroboros github check"
    )


def check_created(created: CreatedView, wanted: SetUp, *, repository: str) -> CreatedView:
    """Wait until the App is installed for the repository, at most as long as was said, and check it."""
    with Client(wanted.forge_url, clock=utc_now) as client:
        app = AppIdentity(
            app_id=created.app_id, key_file=created.key_file, repository=repository, ask=client.ask, clock=utc_now
        )
        _await_installation(app, patience_s=wanted.install_patience_s)
        found = examine_app(
            app,
            Forge(client, repository, app),
            app_id=created.app_id,
            repository=repository,
            webhook_url=wanted.webhook_url,
        )
    return replace(created, checks=tuple(found))


def _await_installation(app: AppIdentity, *, patience_s: float) -> None:
    """Return once it is there, once the time is over, and when the forge says something else: the check tells."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            app.installation()
            return
        except OroborosError as error:
            left_s = deadline - time.monotonic()
            if error.reason != "AppNotInstalled" or left_s <= 0:
                return
        time.sleep(min(INSTALL_POLL_S, left_s))


# -- the page ---------------------------------------------------------------------------------------------------------


def await_code(wanted: SetUp, *, say: Callable[[str], None]) -> str:
    """Serve the page until the forge sends the browser back to it; Unavailable when nobody came in time."""
    state = secrets.token_urlsafe(24)
    found: list[str] = []

    class Page(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            code = protocol.read_callback(self.path, state=state)
            if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
                self.send_error(400)
            elif code is not None:
                found.append(code)
                self._send("<!doctype html><title>Oroboros</title><p>The App is created. Go back to the shell.")
            elif self.path == "/":
                self._send(page)
            else:
                self.send_error(404)

        def _send(self, content: str) -> None:
            body = content.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            # The address of the answer holds the code.
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """The path holds the code."""

    try:
        server = HTTPServer(("127.0.0.1", wanted.port), Page)
    except OSError as error:
        raise Failed(
            "PortBusy", f"port {wanted.port} cannot be bound: {error.strerror}; --port names another"
        ) from error
    with server:
        port = int(server.server_address[1])
        register = protocol.registration_url(wanted.forge_url, organization=wanted.organization, state=state)
        page = protocol.registration_page(register, _manifest(wanted, port))
        say(f"open http://127.0.0.1:{port}/ in a browser; on another machine first: ssh -L {port}:127.0.0.1:{port} …")
        server.timeout = 0.2
        deadline = time.monotonic() + wanted.patience_s
        while not found:
            if time.monotonic() > deadline:
                raise Unavailable(
                    "AppCodeSpent", f"nobody confirmed the App within {wanted.patience_s:g} s; begin again"
                )
            server.handle_request()
    return found[0]


def _manifest(wanted: SetUp, port: int) -> Object:
    return protocol.manifest(
        name=wanted.name,
        url=wanted.homepage,
        webhook_url=wanted.webhook_url,
        redirect_url=f"http://127.0.0.1:{port}/created",
    )


# -- is it as it should be? -------------------------------------------------------------------------------------------


def failed(name: str, found: str, remedy: str) -> Finding:
    """Return what is wrong with the App, and what mends it there."""
    return Finding(name=name, outcome=Outcome.FAILED, found=found, remedy=remedy)


def note(name: str, found: str, remedy: str) -> Finding:
    """Return what the operator should know of the App."""
    return Finding(name=name, outcome=Outcome.NOTE, found=found, remedy=remedy)


def examine(forges: Forges, *, webhook_url: str | None) -> list[Finding]:
    """Ask the forge for all that there is to know of us, and judge it."""
    if not isinstance(forges.identity, AppIdentity):
        return [
            note(
                "identity",
                "a token of a file, or none: there is no GitHub App, so no check runs",
                "`oroboros github setup` creates one, whose tokens know this repository alone and live an hour",
            ),
            *_ask("repository", lambda: [ok("repository", forges.forge.repository().full_name)]),
            *_ask("pull requests", lambda: [ok("pull requests", f"{len(forges.forge.open_pulls())} open")]),
        ]
    settings = forges.settings
    about = examine_app(
        forges.identity,
        forges.forge,
        app_id=settings.github_app_id,
        repository=settings.repository,
        webhook_url=webhook_url,
    )
    return [*about, *_ask("deliveries", lambda: _look_at_deliveries(forges.app()))]


def _look_at_deliveries(app: AppIdentity) -> list[Finding]:
    reply = app.ask(protocol.list_deliveries(cursor=None, size=30))
    return check_deliveries(protocol.read_deliveries_page(reply, now=utc_now()).deliveries)


def examine_app(
    app: AppIdentity, forge: Forge, *, app_id: int | None, repository: str, webhook_url: str | None
) -> list[Finding]:
    """Judge what the forge says of our App, but for what came of its deliveries."""
    now = utc_now

    def about_app() -> list[Finding]:
        return check_app(protocol.read_app(app.ask(protocol.get_app()), now=now()), app_id=app_id)

    def about_hook() -> list[Finding]:
        config = protocol.read_hook_config(app.ask(protocol.get_hook_config()), now=now())
        return check_hook(config, expected_url=webhook_url)

    return [
        *_ask("App", about_app),
        *_ask("installation", lambda: check_installation(app.installation(), repository=repository)),
        *_ask("token", lambda: [ok("token", f"knows {forge.repository().full_name} alone")]),
        *_ask("webhook", about_hook),
    ]


def _ask(name: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except OroborosError as error:
        return [failed(name, f"{error.reason}: {error.message}", "see docs/reasons.md")]


def check_app(app: App, *, app_id: int | None) -> list[Finding]:
    """Judge the App itself: its id, its permissions, its events."""
    missing = lacks(app.permissions)
    unheard = [event for event in EVENTS if event not in app.events]
    where = f"at {app.html_url}, under Permissions & events"
    found = [ok("App", f"{app.name} ({app.id})")]
    if app.id != app_id:
        found = [failed("App", f"the key is of {app.name} ({app.id})", f"set OROBOROS_GITHUB_APP_ID={app.id}")]
    if missing:
        mend = f"grant them {where}, and accept the change at the installation"
        found.append(failed("permissions", f"not asked for: {', '.join(missing)}", mend))
    else:
        found.append(ok("permissions", "all that is used"))
    if unheard:
        found.append(failed("events", f"not subscribed: {', '.join(unheard)}", f"subscribe to them {where}"))
    else:
        found.append(ok("events", ", ".join(EVENTS)))
    return found


def check_installation(installation: Installation, *, repository: str) -> list[Finding]:
    """Judge what the owner of the repository granted."""
    missing = lacks(installation.permissions)
    if missing:
        mend = "its owner must accept the App's new permissions, on the installation's page"
        return [failed("installation", f"for {repository}, without {', '.join(missing)}", mend)]
    return [ok("installation", f"for {repository}, by {installation.account or 'its owner'}")]


def check_hook(config: HookConfig, *, expected_url: str | None) -> list[Finding]:
    """Judge where the App's webhook goes; `expected_url` is what a person said that it should be."""
    try:
        parts = urlsplit(config.url)
        is_near = parts.hostname in _LOOPBACK
    except ValueError:
        parts, is_near = urlsplit(""), False
    goes_right = parts.path == HOOK_PATH and (parts.scheme == "https" or is_near)
    if expected_url is not None:
        goes_right = config.url == expected_url
    wanted = expected_url or f"https://<the public host of api>{HOOK_PATH}"
    found = []
    if goes_right:
        found.append(ok("webhook", config.url))
    else:
        found.append(failed("webhook", config.url or "no address", f"set it to {wanted}, in the App's settings"))
    is_verified = config.verifies_tls or is_near
    said = f"{config.content_type or 'unknown'}, {'TLS verified' if config.verifies_tls else 'TLS not verified'}"
    if config.content_type in ("json", "form") and is_verified:
        found.append(ok("webhook content", said))
    else:
        mend = "choose application/json and enable SSL verification, in the App's settings"
        found.append(failed("webhook content", said, mend))
    if config.has_secret:
        found.append(ok("webhook secret", "set"))
    else:
        mend = "set one in the App's settings, and add it to OROBOROS_WEBHOOK_SECRETS_FILE"
        found.append(failed("webhook secret", "none", mend))
    return found


def check_deliveries(deliveries: tuple[LoggedDelivery, ...]) -> list[Finding]:
    """Judge by the newest delivery whether receiver and secret are as the forge has them."""
    if not deliveries:
        return [note("deliveries", "none yet, so the secret is not proven", "push to the repository, and check again")]
    newest = max(deliveries, key=lambda one: (one.delivered_at, one.id))
    said = f"the newest, {newest.event}, got {newest.status_code}"
    if newest.is_taken:
        return [ok("deliveries", said)]
    if newest.status_code == 401:
        mend = "the receiver does not know the App's secret: add it to OROBOROS_WEBHOOK_SECRETS_FILE"
    else:
        mend = "the receiver did not take it: is the webhook's address its own, and does it run?"
    return [failed("deliveries", said, mend)]
