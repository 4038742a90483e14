"""What becomes of a host that somebody else changes: told and put right, or told and held."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from tests.acceptance.conftest import World


def live(world: World, title: str, *, drift: str = "heal") -> str:
    world.release("ok", f"{title} {time.monotonic_ns()}")
    recipe = world.author.clone / "deploy.toml"
    recipe.write_text(recipe.read_text() + f'drift = "{drift}"\n')
    sha = world.author.commit(f"{title}, {drift}")
    world.author.push()
    world.await_serving(sha)
    world.author.await_status(sha, "success", says="live since")
    return sha


def drifts(world: World) -> list[tuple[str, str, bool]]:
    """Reason, handling and whether it is over, of all that status shows, newest first."""
    told = json.loads(world.command("status", "--json").stdout)["drifts"]
    return [(one["reason"], one["handling"], one["ended_at"] is not None) for one in told]


def await_drift(world: World, *expected: tuple[str, str, bool]) -> None:
    world.author.wait(lambda: set(expected) <= set(drifts(world)), lambda: f"{expected}, there are {drifts(world)}")


def move_current(world: World, sha: str) -> Path:
    current = Path(str(world.stack["current"]))
    other = next(name for name in os.listdir(str(world.stack["releases"])) if len(name) == 40 and name != sha)
    current.unlink()
    current.symlink_to(Path(str(world.stack["releases"])) / other)
    return current


def test_what_is_changed_by_hand_is_put_right_and_told(world: World) -> None:
    live(world, "Before")
    sha = live(world, "To be changed")
    current = move_current(world, sha)
    world.author.wait(lambda: os.readlink(current).endswith(sha), lambda: "current is to name what serves again")
    await_drift(world, ("CurrentChanged", "heals", True))

    elsewhere = current.with_name("elsewhere")
    elsewhere.symlink_to("/etc")
    elsewhere.replace(current)
    world.author.wait(lambda: os.readlink(current).endswith(sha), lambda: "a link that leads out is put right too")

    world.signal_instance(signal.SIGTERM)
    await_drift(world, ("InstanceStopped", "heals", True))
    world.await_serving(sha)
    assert ("repair",) in world.rows("SELECT cause FROM runs WHERE sha = %s", sha)

    title = Path(str(world.stack["releases"])) / sha / "title"
    before = title.read_text()
    title.chmod(0o644)
    title.write_text("edited\n")
    world.author.wait(lambda: title.read_text() == before, lambda: "the edited file is to be git's again")
    await_drift(world, ("ReleaseEdited", "heals", True))
    assert [action for (action,) in world.rows("SELECT action FROM audit WHERE action = 'drift'")] == ["drift"] * 4


def test_what_is_changed_by_hand_stays_where_policy_holds_it_until_it_is_ordered_to_heal(world: World) -> None:
    sha = live(world, "To be held", drift="hold")
    current = move_current(world, sha)
    title = Path(str(world.stack["releases"])) / sha / "title"
    title.chmod(0o644)
    title.write_text("edited\n")
    await_drift(world, ("CurrentChanged", "held", False), ("ReleaseEdited", "held", False))
    told = world.command("status").stdout
    assert "HELD" in told
    assert "oroboros heal" in told
    assert world.serves() == sha
    assert title.read_text() == "edited\n"
    assert not os.readlink(current).endswith(sha)

    healed = world.command("heal", "--json")
    assert (healed.returncode, json.loads(healed.stdout)["left"]) == (0, 0), healed.stdout
    assert os.readlink(current).endswith(sha)
    assert title.read_text() != "edited\n"

    world.signal_instance(signal.SIGTERM)
    await_drift(world, ("InstanceStopped", "held", False))
    assert world.rows("SELECT 1 FROM runs WHERE sha = %s AND cause = 'repair'", sha) == []
    assert world.command("heal").returncode == 0
    world.await_serving(sha)
    assert "nothing is held" in world.command("heal").stdout
