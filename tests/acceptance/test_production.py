"""Production on a whole stack: what a developer sees at the URL and on the commits, on good and on bad days."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from tests.acceptance.conftest import WINDOW_S, World


def test_a_push_goes_live_and_says_so_on_the_commit(world: World) -> None:
    sha = world.release("ok", "First")
    world.author.push()

    world.await_serving(sha)
    said = world.author.await_status(sha, "success")
    assert "live" in said
    assert os.readlink(str(world.stack["current"])).endswith(sha)


def test_the_links_of_the_next_checkout_are_made_once_a_release_is_proven(world: World) -> None:
    sha = world.release("ok", "Proven")
    world.author.push()
    world.author.await_status(sha, "success", says="live since")

    releases = str(world.stack["releases"])
    world.author.wait(
        lambda: any(name.startswith(".spare-") and sha in name for name in os.listdir(releases)),
        lambda: f"a spare of {sha[:7]} is to be made: {os.listdir(releases)}",
    )


def test_a_release_that_answers_500_never_serves_and_is_named_on_its_commit(world: World) -> None:
    good = world.release("ok", "Good before bad")
    world.author.push()
    world.await_serving(good)
    world.author.await_status(good, "success", says="live since")
    bad = world.release("500", "Bad")
    world.author.push()

    said = world.author.await_status(bad, "failure")
    assert "500" in said
    assert world.serves() == good


def test_a_release_that_exits_fails_with_the_line_of_its_log_that_names_the_error(world: World) -> None:
    bad = world.release("exit", "Exits at once")
    world.author.push()

    said = world.author.await_status(bad, "failure")
    assert "frobnicator" in said


def test_the_same_broken_content_under_a_new_commit_is_not_tried_again(world: World) -> None:
    first = world.release("exit", "Broken")
    world.author.push()
    world.author.await_status(first, "failure")
    second = world.author.commit("Broken again, word for word")
    world.author.push()

    world.author.await_status(second, "failure", says="same content")
    assert world.rows("SELECT 1 FROM runs WHERE sha = %s", second) == []


def test_a_release_that_turns_bad_inside_its_window_is_rolled_back_once(world: World) -> None:
    good = world.release("ok", "Good before the window")
    world.author.push()
    world.await_serving(good)
    world.author.await_status(good, "success", says="live since")
    bad = world.release("turns-bad", "Turns bad", window_s=WINDOW_S)
    world.author.push()
    world.turn(bad)

    said = world.author.await_status(bad, "failure", says="rolled back")
    assert good[:7] in said
    assert world.serves() == good
    assert world.rows("SELECT state FROM runs WHERE sha = %s", bad) == [("rolled_back",)]


def test_a_release_that_crashes_inside_its_window_is_rolled_back(world: World) -> None:
    good = world.release("ok", "Good before the crash")
    world.author.push()
    world.await_serving(good)
    world.author.await_status(good, "success", says="live since")
    bad = world.release("turns-exit", "Crashes a little later", window_s=WINDOW_S)
    world.author.push()
    world.turn(bad)

    world.author.await_status(bad, "failure", says="rolled back")
    world.await_serving(good)


def test_a_revert_is_back_at_once_without_a_checkout(world: World) -> None:
    first = world.release("ok", "Before")
    world.author.push()
    world.await_serving(first)
    world.author.await_status(first, "success", says="live since")
    (world.author.clone / "note").write_text("second\n")
    second = world.author.commit("After")
    world.author.push()
    world.await_serving(second)
    world.author.await_status(second, "success", says="live since")
    world.author.git("revert", "--no-edit", "HEAD")
    third = world.author.git("rev-parse", "HEAD")
    world.author.push()

    world.await_serving(first)
    said = world.author.await_status(third, "success")
    assert first[:7] in said
    assert not (world.root / "releases" / third).exists()
    assert os.readlink(str(world.stack["current"])).endswith(first)


def test_of_five_pushes_during_a_slow_deploy_the_newest_goes_live_and_the_rest_say_superseded(world: World) -> None:
    behaviour, go = world.waiting()
    slow = world.release(behaviour, "Slow")
    world.author.push()
    world.author.await_status(slow, "pending")
    shas = []
    for k in range(5):
        (world.author.clone / "note").write_text(f"push {k}\n")
        shas.append(world.release("ok", f"Push {k}"))
        world.author.push()

    world.await_serving(shas[-1])
    for sha in (slow, *shas[:-1]):
        world.author.await_status(sha, "error", "success", says="")
    ends = {world.author.status(sha)[0] for sha in (slow, *shas[:-1])}
    assert ends <= {"error", "success"}
    assert "superseded" in world.author.status(slow)[1]
    assert not go.exists()


def test_an_instance_that_dies_is_started_again(world: World) -> None:
    sha = world.release("ok", "To be killed")
    world.author.push()
    world.await_serving(sha)
    world.author.await_status(sha, "success", says="live since")
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                environment = Path(f"/proc/{entry}/environ").read_bytes()
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if f"OROBOROS_RELEASE={sha}".encode() in environment and b"app.py" in command:
                os.kill(int(entry), signal.SIGKILL)

    world.await_serving(sha)
    assert ("repair",) in world.rows("SELECT cause FROM runs WHERE sha = %s", sha)


def test_a_tag_named_like_the_branch_and_a_branch_named_like_a_commit_change_nothing(world: World) -> None:
    sha = world.release("ok", "The real one")
    world.author.push()
    world.await_serving(sha)
    world.author.git("checkout", "-q", "-b", "elsewhere")
    other = world.release("500", "Not for production")
    world.author.git("push", "-q", "origin", f"{other}:refs/tags/main", f"{other}:refs/heads/{sha}")
    world.author.git("checkout", "-q", "main")
    time.sleep(1.5)

    assert world.serves() == sha
    assert world.rows("SELECT 1 FROM runs WHERE sha = %s", other) == []


def test_a_delivery_that_comes_again_deploys_nothing_again(world: World) -> None:
    before = world.rows("SELECT count(*) FROM runs")
    world.kill("worker")
    world.await_serving(world.serves())
    pending = "SELECT id FROM deliveries WHERE state = 'pending'"
    world.author.wait(lambda: world.rows(pending) == [], lambda: f"pending: {world.rows(pending)}")

    assert world.rows("SELECT count(*) FROM runs") == before


def test_manual_rollback_holds_until_a_later_head(world: World) -> None:
    old = world.release("ok", "Old")
    (world.author.clone / "note").write_text("old\n")
    old = world.author.commit("Old, indeed")
    world.author.push()
    world.await_serving(old)
    world.author.await_status(old, "success", says="live since")
    (world.author.clone / "note").write_text("new\n")
    new = world.author.commit("New")
    world.author.push()
    world.await_serving(new)
    world.author.await_status(new, "success", says="live since")

    done = world.command("rollback", "--reason", "a customer called")
    assert done.returncode == 0, done.stdout + done.stderr
    world.await_serving(old)
    time.sleep(1.0)
    assert world.serves() == old
    told = json.loads(world.command("releases", "--json").stdout)
    standings = {one["release"]: one["standing"] for one in told["releases"]}
    assert (standings[old], standings[new]) == ("live", "rolled back")
    became = [(one["release"], one["standing"], one["by"]) for one in reversed(told["history"])]
    by = next(one["by"] for one in told["releases"] if one["release"] == new)
    assert by.startswith("ordered by ")
    of_new = [one for one in became if one[0] == new and one[1] != "published"]
    assert of_new == [(new, "live", "push"), (new, "rolled back", by)]
    (world.author.clone / "note").write_text("newer\n")
    newer = world.author.commit("Newer")
    world.author.push()
    world.await_serving(newer)
    assert world.author.status(newer)[0] in ("pending", "success")
