from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.disk import remove_tree
from tests.source.objects import Store, make_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A root with an empty mirror."""
    store = make_store(tmp_path / "root")
    yield store
    # Releases are read-only folders: pytest cannot remove them as a normal user.
    remove_tree(str(tmp_path / "root"))
