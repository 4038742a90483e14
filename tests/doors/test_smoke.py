"""Does `oroboros smoke` find what is wrong with a preview, and keep what it found where it says?"""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import jsonschema
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controller.doors.cli import main
from tests.doors.stack import Small

DOC = Path(__file__).resolve().parents[2] / "docs" / "preview-smoke.md"
HOST = "preview1.example.com"


class Pages(http.server.BaseHTTPRequestHandler):
    """A preview of many kinds of pages; it notes for which host each was asked."""

    hosts: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.hosts.append(str(self.headers["Host"]))
        match self.path:
            case "/" | "/page?x=1":
                self.answer(200, b"<p>hello</p>")
            case "/.well-known/oroboros/health":
                self.answer(200, b'{"slot": "preview-1", "state": "live", "release": null, "healthy": true}')
            case path if path.startswith("/.well-known/oroboros/release/"):
                self.answer(200, b'{"slot": "main", "state": "live", "release": "as asked"}')
            case "/moved":
                self.answer(302, b"", location="/page?x=1")
            case "/away":
                self.answer(302, b"", location="http://evil.example/")
            case "/round":
                self.answer(302, b"", location="/round")
            case "/empty":
                self.answer(200, b"")
            case "/large":
                self.send_response(200)
                self.end_headers()
                with_room = b"x" * (1 << 20)
                try:
                    for _ in range(64):
                        self.wfile.write(with_room)
                except OSError:
                    self.close_connection = True
            case "/drips":
                try:
                    for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.05)
                except OSError:
                    self.close_connection = True
            case _:
                self.answer(500, b"broken")

    def answer(self, status: int, body: bytes, *, location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def port() -> Iterator[int]:
    Pages.hosts.clear()
    with serving() as port:
        yield port


def smoke(*words: str) -> Result:
    return CliRunner().invoke(main, ["smoke", *words])


def checks(path: Path) -> dict[str, dict[str, object]]:
    report = json.loads(path.read_text())
    jsonschema.validate(report, schema())
    return {check["route"]: check for check in report["checks"]}


def schema() -> dict[str, object]:
    """The schema of the artifact, as it is documented."""
    (text,) = re.findall(r"^```json\n(.*?)^```$", DOC.read_text(), re.MULTILINE | re.DOTALL)
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


def test_a_preview_that_answers_passes_and_its_artifact_is_as_documented(port: int, tmp_path: Path) -> None:
    out = tmp_path / "out.json"

    result = smoke(
        *("--preview-url", f"http://{HOST}", "--proxy-origin", f"http://127.0.0.1:{port}"),
        *("--changed-route", "/page?x=1", "--changed-route", "/moved", "--output", str(out)),
    )

    assert result.exit_code == 0, result.output
    found = checks(out)
    assert list(found) == ["/", "/.well-known/oroboros/health", "/page?x=1", "/moved"]
    assert set(Pages.hosts) == {HOST}
    assert found["/moved"]["redirects"] == [{"status": 302, "location": "/page?x=1"}]
    assert (found["/"]["body_bytes"], found["/"]["content_type"]) == (12, "text/html; charset=utf-8")
    assert result.stdout.splitlines()[-1] == f"artifact: {out}"


def test_each_page_that_is_not_well_is_named_with_its_reason(port: int, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    routes = ("/nosuch", "/away", "/round", "/empty", "/large", "/drips")

    result = smoke(
        *("--preview-url", f"http://preview1.localhost:{port}", "--output", str(out), "--timeout", "2"),
        *(word for route in routes for word in ("--changed-route", route)),
    )

    assert result.exit_code == 1, result.output
    problems = {route: check["problems"] for route, check in checks(out).items()}
    assert problems == {
        "/": [],
        "/.well-known/oroboros/health": [],
        "/nosuch": ["answers 500"],
        "/away": ["redirects to another host: 'evil.example'"],
        "/round": ["redirects more than 5 times"],
        "/empty": ["an empty body"],
        "/large": ["a body of more than 16 MiB"],
        "/drips": ["no whole answer within 2 s"],
    }
    assert "6 of 8 failed" in result.stdout
    assert "evil.example" not in Pages.hosts


def test_nothing_that_answers_is_told_apart_from_a_page_that_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    out = tmp_path / "out.json"

    result = smoke("--preview-url", f"http://127.0.0.1:{port}", "--output", str(out), "--json")

    assert result.exit_code == 4
    value = json.loads(result.stdout)
    assert (value["artifact"], value["report"]["answered"]) == (str(out), False)
    assert value["report"] == json.loads(out.read_text())
    checks(out)


def test_a_name_that_does_not_resolve_is_an_answer_in_words(tmp_path: Path) -> None:
    result = smoke("--preview-url", "http://nosuch.invalid", "--output", str(tmp_path / "x"), "--timeout", "20")

    assert result.exit_code == 4
    assert "nothing answers" in result.stdout


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--preview-url", "preview1"),
        ("--preview-url", "http://a/page"),
        ("--preview-url", "http://u:p@a"),
        ("--preview-url", "http://a", "--changed-route", "page"),
        ("--preview-url", "http://a", "--changed-route", "//b"),
        ("--preview-url", "http://a", "--proxy-origin", "127.0.0.1"),
        ("--preview-url", "http://a", "--persist-validation"),
        ("--preview-url", "http://a", "--run-id", "x"),
        ("--preview-url", "http://a", "--timeout", "0"),
        ("--preview-url", "http://a", "--output", "/"),
        ("--preview-url", "http://a", "more"),
    ],
)
def test_wrong_arguments_are_answered_with_the_usage(words: tuple[str, ...]) -> None:
    result = smoke(*words)

    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_an_artifact_that_cannot_be_written_is_said(port: int, tmp_path: Path) -> None:
    result = smoke("--preview-url", f"http://127.0.0.1:{port}", "--output", str(tmp_path / "no" / "x.json"))

    assert result.exit_code == 2
    assert "ArtifactUnwritable" in result.stderr


# -- TLS --------------------------------------------------------------------------------------------------------------


def certificate(folder: Path, *names: str) -> tuple[Path, ssl.SSLContext]:
    """Make a certificate for these names; return its file, and the context of a server that shows it."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([*alternatives, x509.IPAddress(ipaddress.ip_address("::2"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "public.pem", folder / "private.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context


@pytest.mark.parametrize(("name", "trusted", "code"), [(HOST, True, 0), (HOST, False, 4), ("other.example", True, 4)])
def test_tls_is_verified_against_the_name_of_the_preview(
    name: str, trusted: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, context = certificate(tmp_path, name)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(public))
    with serving(context) as port:
        result = smoke(
            *("--preview-url", f"https://{HOST}", "--proxy-origin", f"https://127.0.0.1:{port}"),
            *("--output", str(tmp_path / "out.json")),
        )

    assert result.exit_code == code, result.output


# -- with a run -------------------------------------------------------------------------------------------------------


def persist(small: Small, run: int, port: int, *more: str) -> Result:
    return small.run(
        *("smoke", "--preview-url", f"http://127.0.0.1:{port}", "--run-id", str(run), "--persist-validation", *more)
    )


def kept(small: Small) -> list[tuple[str, bool]]:
    rows = small.store.load_rows("SELECT name, passed FROM validation_checks ORDER BY id")
    return [(row["name"], row["passed"]) for row in rows]


def test_checks_and_artifact_are_kept_with_the_run_once_however_often(small: Small, port: int) -> None:
    head = small.commit("Smoked", files={"deploy.toml": '[api]\ncommand = "x"\n[smoke]\nroutes = ["/page?x=1"]\n'})
    run = small.serve(head)

    first = persist(small, run, port, "--changed-route", "/empty")
    again = persist(small, run, port, "--changed-route", "/empty")

    assert (first.exit_code, again.exit_code) == (1, 1), first.output
    surface = f"GET /.well-known/oroboros/release/{head.sha}"
    assert kept(small) == [("GET /", True), (surface, True), ("GET /page?x=1", True), ("GET /empty", False)]
    path = small.layout.run_artifacts(run) / "smoke.json"
    rows = small.store.load_rows("SELECT generation, kind, path, bytes FROM run_artifacts")
    assert [tuple(row.values()) for row in rows] == [(run, "smoke", str(path), path.stat().st_size)]
    report = json.loads(path.read_text())
    assert (report["run"], report["slot"], report["release"]) == (run, "main", head.sha)
    (detail,) = small.store.load_rows("SELECT detail FROM validation_checks WHERE NOT passed")
    assert detail["detail"]["problems"] == ["an empty body"]


def test_an_unknown_run_is_refused_and_nothing_is_asked(small: Small, port: int) -> None:
    result = persist(small, 4711, port)

    assert (result.exit_code, "RunUnknown" in result.stderr) == (3, True)
    assert Pages.hosts == []


def test_what_another_run_answered_is_not_kept(small: Small, port: int) -> None:
    old, new = small.serve(small.commits[0]), small.serve(small.commits[1])

    result = persist(small, old, port)

    assert result.exit_code == 3
    assert f"run {new} does" in result.stderr
    assert kept(small) == []


def test_a_run_without_persistence_only_adds_its_routes(small: Small, port: int, tmp_path: Path) -> None:
    run = small.serve(small.commits[0])

    result = small.run(
        *("smoke", "--preview-url", f"http://127.0.0.1:{port}", "--run-id", str(run)),
        *("--output", str(tmp_path / "x.json")),
    )

    assert result.exit_code == 0, result.output
    assert kept(small) == []
