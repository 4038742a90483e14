"""Which pages does a smoke check ask for, where may a redirect lead, and which answers are well?"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from controller.decisions.smoke import (
    Fetched,
    Origin,
    Redirect,
    choose_routes,
    connects_to,
    follow,
    judge,
    parse_origin,
    parse_route,
    report,
)

PREVIEW = Origin(scheme="http", host="preview1.example.com", port=8088)
SECURE = Origin(scheme="https", host="preview1.example.com", port=443)
PAGE = Fetched(route="/", status=200, content_type="text/html", body_bytes=12)
FREE = b'{"slot": "preview-1", "state": "free", "release": null, "healthy": true}'
LIVE = b'{"slot": "preview-1", "state": "live", "release": null}'
HEALTH, RELEASE = "/.well-known/oroboros/health", f"/.well-known/oroboros/release/{'a' * 40}"


@pytest.mark.parametrize(
    ("text", "host", "port", "header"),
    [
        ("http://preview1.localhost:8088", "preview1.localhost", 8088, "preview1.localhost:8088"),
        ("https://Preview1.Example.com/", "preview1.example.com", 443, "preview1.example.com"),
        ("http://[::1]:80", "::1", 80, "[::1]"),
    ],
)
def test_an_origin_is_scheme_host_and_port(text: str, host: str, port: int, header: str) -> None:
    found = parse_origin(text)

    assert (found.host, found.port, found.host_header) == (host, port, header)


@pytest.mark.parametrize(
    "text",
    [
        *("", "preview1", "ftp://a", "http://", "http://a/path", "http://a?x", "http://a#x", "http://a b"),
        *("http://u:p@a", "http://a:port", "http://a:99999", "http://a\r\nX: y", "http://größe"),
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_origin(text)


@pytest.mark.parametrize(
    "text", ["", "page", "//evil.example", "/a b", "/a\r\nX: y", "/größe", "/a#b", "/" + "x" * 2000]
)
def test_what_is_no_route_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a route"):
        parse_route(text)


def test_every_route_is_asked_for_once() -> None:
    ours = "/.well-known/oroboros"
    assert choose_routes(release=None, of_recipe=("/", "/a"), changed=("/b", "/a", "/health")) == (
        *("/", f"{ours}/health", "/a", "/b", "/health"),
    )
    assert choose_routes(release="f00", of_recipe=(), changed=()) == ("/", f"{ours}/release/f00")


def test_connects_to_the_proxy_when_there_is_one_and_to_this_machine_for_localhost() -> None:
    proxy = Origin(scheme="http", host="10.0.0.1", port=8088)
    local = Origin(scheme="http", host="preview1.localhost", port=8088)

    assert connects_to(SECURE, proxy) == proxy
    assert connects_to(SECURE, None) == SECURE
    assert connects_to(local, None) == Origin(scheme="http", host="127.0.0.1", port=8088)


@pytest.mark.parametrize(
    ("preview", "location", "route"),
    [
        (PREVIEW, "/b?x=1", "/b?x=1"),
        (PREVIEW, "b", "/a/b"),
        (PREVIEW, "..", "/"),
        (PREVIEW, "http://preview1.example.com:8088/b", "/b"),
        (PREVIEW, "http://PREVIEW1.example.com:8088", "/"),
        (SECURE, "https://preview1.example.com/b", "/b"),
    ],
)
def test_a_redirect_on_the_same_host_is_followed(preview: Origin, location: str, route: str) -> None:
    assert follow(preview, "/a/", Redirect(status=302, location=location), followed=0) == (route, "")


@pytest.mark.parametrize(
    ("preview", "location", "why"),
    [
        (PREVIEW, "http://evil.example/", "another host"),
        (PREVIEW, "//evil.example/", "another host"),
        (PREVIEW, "http://preview1.example.com:9000/", "another host"),
        (PREVIEW, "http://preview1.example.com.evil.example:8088/", "another host"),
        (PREVIEW, "http://preview1.example.com:8088@evil.example/", "another host"),
        (PREVIEW, "https://preview1.example.com/b", "give that as the preview's URL"),
        (SECURE, "http://preview1.example.com/b", "from https to http"),
        (PREVIEW, "javascript:alert(1)", "redirects"),
        (PREVIEW, "file:///etc/passwd", "redirects"),
        (PREVIEW, "http://[", "no URL"),
        (PREVIEW, "/größe", "no URL"),
    ],
)
def test_a_redirect_elsewhere_is_not_followed(preview: Origin, location: str, why: str) -> None:
    route, problem = follow(preview, "/a", Redirect(status=302, location=location), followed=0)

    assert (route, why in problem) == ("", True), problem


def test_redirects_are_followed_five_times() -> None:
    again = Redirect(status=302, location="/a")

    assert follow(PREVIEW, "/a", again, followed=4) == ("/a", "")
    assert follow(PREVIEW, "/a", again, followed=5) == ("", "redirects more than 5 times")


@pytest.mark.parametrize(
    ("fetched", "problems"),
    [
        (PAGE, ()),
        (Fetched(route="/", status=404, content_type="text/html", body_bytes=9), ("answers 404",)),
        (Fetched(route="/", status=503), ("answers 503",)),
        (Fetched(route="/", status=304), ("answers 304 without saying where to go",)),
        (Fetched(route="/", status=200, content_type="text/html"), ("an empty body",)),
        (Fetched(route="/", status=204), ("an empty body",)),
        (Fetched(route="/", status=200, body_bytes=9), ("no content type",)),
        (Fetched(route="/", problem="nobody listens"), ("nobody listens",)),
        (Fetched(route="/"), ("nothing answered",)),
        (
            Fetched(route=HEALTH, status=200, content_type="application/json", body_bytes=70, said=FREE),
            ("preview-1 is free: nothing is deployed there",),
        ),
        (
            Fetched(route=HEALTH, status=200, content_type="text/plain", body_bytes=2, said=b"ok"),
            ("answers 200, and does not say which slot it is: another program",),
        ),
        (Fetched(route=HEALTH, status=200, said=LIVE), ()),
        (Fetched(route=HEALTH, status=503, said=LIVE), ("answers 503: preview-1 is not well",)),
        (Fetched(route=RELEASE, status=200, said=LIVE), ()),
        (Fetched(route=RELEASE, status=404, said=LIVE), ("preview-1 serves another release",)),
        (
            Fetched(route=RELEASE, status=404, said=b"Not found."),
            ("answers 404, and does not say which slot it is: another program",),
        ),
        (
            Fetched(route=RELEASE, status=200, said=LIVE.replace(b"preview-1", b"preview-2")),
            ("preview-2 answers, not preview-1",),
        ),
        (Fetched(route="/health", status=200, content_type="application/json", body_bytes=70, said=FREE), ()),
    ],
)
def test_a_page_is_well_when_it_has_status_type_and_body(fetched: Fetched, problems: tuple[str, ...]) -> None:
    check = judge(PREVIEW, fetched, slot="preview-1")

    assert (check.problems, check.passed) == (problems, not problems)
    assert (check.name, check.url) == (f"GET {fetched.route}", f"http://preview1.example.com:8088{fetched.route}")


def test_a_report_passes_when_every_check_does_and_says_when_nothing_answered() -> None:
    def of(*every: Fetched) -> tuple[bool, bool]:
        found = report(
            PREVIEW,
            every,
            proxy=None,
            run=None,
            slot=None,
            release=None,
            began_at=datetime(2026, 3, 1, tzinfo=UTC),
            took_ms=3,
        )
        return found.passed, found.answered

    away = Fetched(route="/a", problem="nobody listens")
    assert of(PAGE) == (True, True)
    assert of(PAGE, away) == (False, True)
    assert of(away) == (False, False)
