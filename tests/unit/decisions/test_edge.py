"""Below which name could a preview set cookies for production?"""

from __future__ import annotations

import pytest

from controller.decisions.edge import shared_cookie_name
from controller.model.names import CONTRACT, Topology


@pytest.mark.parametrize(
    ("production", "preview", "shared"),
    [
        ("app.example.com", "preview{n}.example.com", "example.com"),
        ("example.com", "p{n}.previews.example.com", "example.com"),
        ("app.example.com", "p{n}.example-previews.com", None),
        ("app.example.co.uk", "p{n}.example.co.uk", "example.co.uk"),
        ("app.shop.co.uk", "p{n}.other.co.uk", None),
        ("shop.com.au", "p{n}.com.au", None),
        # To a browser each of these is registered by itself.
        ("app.localhost", "preview{n}.localhost", None),
    ],
)
def test_hosts_share_what_somebody_registered(production: str, preview: str, shared: str | None) -> None:
    assert shared_cookie_name(Topology(production_host=production, preview_host=preview)) == shared


def test_the_contracts_own_names_share_theirs_and_no_previews_share_nothing() -> None:
    assert shared_cookie_name(CONTRACT) == "example.com"
    assert shared_cookie_name(Topology(base_host="example.com", previews=0)) is None
