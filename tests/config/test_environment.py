"""What does a process refuse to start with?"""

from __future__ import annotations

import pytest

from controller.model.config import read_settings
from controller.model.errors import ConfigInvalid

ENVIRONMENT = {"DATABASE_URL": "postgresql:///x", "OROBOROS_REPOSITORY": "acme/shop"}


@pytest.mark.parametrize(
    "url", ["https://github.com", "https://git.example.org:8443/forge/", "http://127.0.0.1:8070", "http://[::1]:8070"]
)
def test_forge_is_an_address(url: str) -> None:
    assert read_settings({**ENVIRONMENT, "OROBOROS_FORGE_URL": url}).forge_url == url


@pytest.mark.parametrize(
    "url",
    ["https://ada:canary@git.example.org", "https://canary@github.com", "ssh://canary/x", "https://h/?token=canary"],
)
def test_forge_address_with_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigInvalid, match="OROBOROS_FORGE_TOKEN_FILE") as caught:
        read_settings({**ENVIRONMENT, "OROBOROS_FORGE_URL": url})
    assert "canary" not in str(caught.value)
