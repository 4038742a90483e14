"""Does the edge hold certificates for exactly its own names, as a real Caddy on public ports that are shifted?"""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controller.decisions.edge import CERTIFICATE, CERTIFICATE_KEY, edge_sites
from controller.model.names import MAIN
from controller.model.nouns import Live

from .host import Answer, Host

APP, STRANGER = "app.example.com", "stranger.example.com"


def write_certificate(folder: Path, names: Sequence[str]) -> None:
    """Write a certificate of our own making where the service manager would hand one on."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    (folder / CERTIFICATE).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / CERTIFICATE_KEY).write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def believing(authority: Path) -> ssl.SSLContext:
    """Return a client that believes one authority and no other."""
    return ssl.create_default_context(cafile=str(authority))


def shake(host: Host, name: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Ask for a certificate of this name; SSLError when there is none, or it is not to be believed."""
    connection = socket.create_connection(("127.0.0.1", host.topology.ports.edge_https), timeout=15)
    try:
        return context.wrap_socket(connection, server_hostname=name)
    except BaseException:
        connection.close()
        raise


def ask(host: Host, name: str, context: ssl.SSLContext, *, path: str = "/", named: str | None = None) -> Answer:
    """Ask over TLS for a name, which the Host header repeats unless it is `named` otherwise."""
    connection = http.client.HTTPConnection("127.0.0.1", timeout=15)
    connection.sock = shake(host, name, context)
    try:
        connection.request("GET", path, headers={"Host": named or name, "X-Forwarded-Proto": "http"})
        response = connection.getresponse()
        body = response.read().decode()
        headers = {key.lower(): value for key, value in response.getheaders()}
        return Answer(status=response.status, body=body, headers=headers)
    finally:
        connection.close()


def anyone() -> ssl.SSLContext:
    """Return a client that takes any certificate: what it cannot get is not there at all."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def await_certificate(host: Host, name: str) -> None:
    """Return once the edge, which serves before it has certificates, has one for this name."""
    deadline = time.monotonic() + 30
    while True:
        try:
            shake(host, name, anyone()).close()
        except ssl.SSLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@pytest.fixture
def files(host: Host) -> Host:
    """A host whose certificate came with the installation."""
    host.topology = dataclasses.replace(
        host.topology,
        base_host="example.com",
        scheme="https",
        public_port=host.topology.ports.edge_https,
        tls="files",
    )
    host.switch(Live(slot=MAIN, state="free", generation=0))
    host.surface(MAIN)
    _, address = host.instance(MAIN, "a", name="app")
    host.serve(MAIN, address=address)
    return host


def test_visitors_reach_their_site_over_tls_and_the_app_is_told(files: Host) -> None:
    write_certificate(files.credentials, [site.host for site in edge_sites(files.topology)])
    files.edge()
    context = believing(files.credentials / CERTIFICATE)

    assert ask(files, APP, context).body == "app"
    seen = json.loads(ask(files, APP, context, path="/headers").body)
    assert (seen["x-forwarded-proto"], seen["x-forwarded-host"], seen["host"]) == ("https", APP, APP)
    # Beside it, loopback stays: for a tunnel, and for our own probes.
    assert files.through_edge(APP, "/").body == "app"
    assert ask(files, "worker.example.com", context, path="/health").status == 502


def test_who_asks_for_another_name_gets_no_certificate(files: Host) -> None:
    write_certificate(files.credentials, [site.host for site in edge_sites(files.topology)])
    files.edge()

    for name in (STRANGER, "example.com", "preview9.example.com", "127.0.0.1"):
        with pytest.raises(ssl.SSLError, match="alert"):
            shake(files, name, anyone())
    # Nor does one name open the site of another.
    assert ask(files, APP, anyone(), named="api.example.com").status == 421


def test_below_a_wildcard_a_name_of_nobody_is_answered_as_such(files: Host) -> None:
    write_certificate(files.credentials, ["*.example.com"])
    files.edge()
    context = believing(files.credentials / CERTIFICATE)

    assert ask(files, APP, context).body == "app"
    stranger = ask(files, STRANGER, context)
    assert (stranger.status, stranger.body) == (404, "No such host here.\n")


def test_plain_http_leads_to_https(files: Host) -> None:
    write_certificate(files.credentials, [APP])
    files.edge()
    ports = files.topology.ports

    answer = files.ask("/a/b?c=1", port=ports.edge_http, host=APP)

    assert (answer.status, answer.headers["location"]) == (308, f"https://{APP}:{ports.edge_https}/a/b?c=1")
    assert files.ask("/", port=ports.edge_http, host=STRANGER).status == 404


def test_http_2_is_spoken_over_tls_and_only_there(files: Host) -> None:
    write_certificate(files.credentials, [APP])
    files.edge()
    context = anyone()
    context.set_alpn_protocols(["h3", "h2", "http/1.1"])

    with shake(files, APP, context) as connection:
        assert connection.selected_alpn_protocol() == "h2"
    with socket.create_connection(("127.0.0.1", files.topology.ports.edge), timeout=10) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert not plain.recv(9).startswith(b"\0\0")


def test_automatic_certificates_are_made_for_the_fixed_names_and_for_nobody_elses(host: Host) -> None:
    # For names below .localhost Caddy is its own authority; elsewhere it asks a public one for the very same names.
    host.topology = dataclasses.replace(host.topology, scheme="https", public_port=None, tls="auto")
    host.edge()
    names = [site.host for site in edge_sites(host.topology)]
    authority = host.folder / "caddy" / "caddy" / "pki" / "authorities" / "local" / "root.crt"

    for name in names:
        await_certificate(host, name)
        # Nothing answers behind the edge here, which the edge says over a connection that can be believed.
        assert ask(host, name, believing(authority), path="/health").status == 502
    for name in ("stranger.localhost", "preview2.localhost", "stranger.example.com"):
        with pytest.raises(ssl.SSLError, match="alert"):
            shake(host, name, anyone())
    made = {path.name for path in (host.folder / "caddy" / "caddy" / "certificates" / "local").iterdir()}
    assert made == set(names)
