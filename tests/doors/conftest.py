from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.disk import remove_tree
from tests.doors.stack import Small, make_small


@pytest.fixture
def small(short_dir: Path, postgres_url: str, redis_url: str, free_port_offset: int) -> Iterator[Small]:
    """A stack without its processes: three commits on the production branch, nothing served yet."""
    small = make_small(short_dir, database_url=postgres_url, redis_url=redis_url, offset=free_port_offset)
    for title in ("First", "Second", "Third"):
        small.commit(title)
    yield small
    small.store.close()
    small.repository.free()
    # Releases are read-only folders: a normal user cannot remove them otherwise.
    remove_tree(str(small.root))
