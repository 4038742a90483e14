"""Is it still the repository that we know, whoever has its name by now?"""

from __future__ import annotations

import pytest

from controller.decisions.github.repository import Repository, require_ours
from controller.model.errors import Stalled


def test_a_repository_of_another_id_is_not_ours_whatever_its_name_is() -> None:
    found = Repository(id=2002, full_name="acme/shop", default_branch="main")
    require_ours(found, pinned=None)
    require_ours(found, pinned=2002)
    with pytest.raises(Stalled, match="RepositoryReplaced"):
        require_ours(found, pinned=1001)
