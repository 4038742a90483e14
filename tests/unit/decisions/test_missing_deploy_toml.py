"""Does a commit without a deploy.toml say which file was probably meant?"""

from __future__ import annotations

import pytest

from controller.decisions.initial import missing_deploy_toml


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([b"README", b"src/main.py"], "`oroboros init` writes one"),
        ([b"README", b"Deploy.toml"], "has Deploy.toml, but no deploy.toml"),
        ([b"DEPLOY.TOML", b"backend/deploy.toml"], "has DEPLOY.TOML, but no deploy.toml"),
        ([b"deploy.toml "], "has deploy.toml , but no deploy.toml"),
        ([b"deploy.toml.txt"], "has deploy.toml.txt, but"),
        ([b"backend", b"backend/deploy.toml"], "has backend/deploy.toml, but deploy.toml is read at the repository's"),
        ([b"deploy.toml\xff", b"x\x1b[2J/deploy.toml"], "has x\\x1b[2J/deploy.toml, but"),
    ],
)
def test_names_what_was_probably_meant(names: list[bytes], words: str) -> None:
    told = missing_deploy_toml(names)

    assert words in told
    assert told.isprintable()
