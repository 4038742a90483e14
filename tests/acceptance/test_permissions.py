"""Who may do what, on a whole stack: strangers' pull requests, approvals, labels, and orders by comments."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.decisions.commands import ANSWERED_OF_ONE_MAX
from controller.decisions.github.comments import MARKER
from controller.model.command import BRANCH_NAME, COMMIT_NAMES, MODES
from tests.acceptance.conftest import World, open_world

SECRET = "production-s3cret-of-this-test"
POLICY = """
[previews]
exclude_labels = ["no-preview"]

[permissions]
accept_fork_risk = true
commands = "maintain"
"""
#: All that an app of a preview finds in its environment, beside what it brings itself.
ALLOWED = {
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "HOST",
    "PORT",
    "LC_CTYPE",
    "PYTHONUNBUFFERED",
    "PYTHONDONTWRITEBYTECODE",
    "GIT_CEILING_DIRECTORIES",
    BRANCH_NAME,
    *COMMIT_NAMES,
    *MODES,
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Its resync is so slow that only deliveries bring news, but where a test says otherwise."""
    with open_world(resync_s=600) as world:
        config = Path(json.loads((world.root / "environment.json").read_text())["OROBOROS_CONFIG_DIR"])
        (config / "app-main.env").write_text(f"SECRET={SECRET}\n")
        world.release("ok", "Base")
        with (world.author.clone / "deploy.toml").open("a") as policy:
            policy.write(POLICY)
        base = world.author.commit("Say who may do what")
        world.author.push()
        world.await_serving(base)
        assert any(SECRET in values.values() for values in environments_of(base))
        yield world


def branch_with(world: World, name: str) -> str:
    world.author.git("checkout", "-q", "-B", name, "main")
    (world.author.clone / "note").write_text(f"{name} {time.monotonic_ns()}\n")
    sha = world.author.commit(f"Work on {name}")
    world.author.push(name)
    world.author.git("checkout", "-q", "main")
    return sha


def knob(world: World, name: str, **content: object) -> dict[str, object]:
    answer = world.author.forge_development.post(f"/_development/{name}", json=content)
    assert answer.status_code in (200, 201), answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


def say(world: World, number: int, author: str, body: str) -> int:
    return int(str(knob(world, "comment", pull=number, author=author, body=body)["id"]))


def await_reaction(world: World, comment: int, content: str) -> None:
    def reactions() -> list[str]:
        answer = world.author.forge.get(f"/issues/comments/{comment}/reactions")
        return [str(one["content"]) for one in answer.json()]

    world.author.wait(lambda: reactions() == [content], lambda: f"reactions are to be {content}, are {reactions()}")


def await_comment(world: World, number: int, *texts: str) -> None:
    """Wait until our one comment at a pull request says all of this."""

    def bodies() -> list[str]:
        found = world.author.forge.get(f"/issues/{number}/comments").json()
        return [str(one["body"]) for one in found if MARKER in one["body"]]

    world.author.wait(
        lambda: len(bodies()) == 1 and all(text in bodies()[0] for text in texts),
        lambda: f"one comment is to say {texts}, there are {bodies()}",
    )


def holds(world: World, sha: str) -> bool:
    """Say whether the mirror has the commit."""
    done = subprocess.run(
        ["git", f"--git-dir={world.root}/repo.git", "cat-file", "-e", sha], capture_output=True, check=False
    )
    return done.returncode == 0


def environments_of(sha: str) -> list[dict[str, str]]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                raw = Path(f"/proc/{entry}/environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            values = dict(line.split("=", 1) for line in raw.split("\0") if "=" in line)
            if values.get("OROBOROS_RELEASE") == sha:
                found.append(values)
    return found


def leased(world: World, number: int) -> bool:
    return bool(world.rows("SELECT 1 FROM leases WHERE pull_request = %s AND ended_at IS NULL", number))


def last_answer(world: World, comment: int) -> tuple[object, ...]:
    return world.rows("SELECT state, reason, author FROM comment_commands WHERE comment_id = %s", comment)[0]


def test_t_p10_a_strangers_code_runs_only_as_the_one_commit_that_a_writer_approved(world: World) -> None:
    knob(world, "permission", user="wendy", permission="write")
    approved = branch_with(world, "stranger")
    number = int(str(knob(world, "fork_pull", title="From a stranger", head_sha_branch="stranger")["number"]))
    world.author.await_status(approved, "pending", slot="preview-1", says="needs approval")
    assert not holds(world, approved)
    assert not leased(world, number)

    refused = say(world, number, "stranger", "/preview")
    await_reaction(world, refused, "-1")
    assert last_answer(world, refused) == ("refused", "NotPermitted", "stranger")
    assert not holds(world, approved)

    bare = say(world, number, "wendy", "/preview\nlooks harmless")
    await_reaction(world, bare, "-1")
    await_comment(world, number, f"`/preview {approved}`", "CommitUnnamed")
    assert not holds(world, approved)

    given = say(world, number, "wendy", f"/preview {approved}\nlooks harmless")
    world.await_serving(approved, "preview-1")
    await_reaction(world, given, "+1")
    environments = environments_of(approved)
    assert environments
    for values in environments:
        assert SECRET not in values.values()
        assert {key for key in values if not key.startswith("OROBOROS_")} <= ALLOWED
    explained = world.command("explain", "pr", str(number))
    assert "approval" in explained.stdout
    assert "wendy" in explained.stdout
    assert "beside the production of the same kernel" in " ".join(explained.stdout.split())

    world.author.git("checkout", "-q", "stranger")
    pushed = world.author.commit("And now something else")
    world.author.push("stranger-again")
    world.author.git("checkout", "-q", "main")
    knob(world, "fork_push", number=number, branch="stranger-again")
    world.author.wait(lambda: not leased(world, number), lambda: "the lease is to end with the push")
    world.author.wait(
        lambda: world.author.get("preview-1", "/")[0] == 503, lambda: "the preview is to be gone after the push"
    )
    world.author.await_status(pushed, "pending", slot="preview-1", says="needs approval")
    assert not holds(world, pushed)
    assert world.rows("SELECT 1 FROM runs WHERE sha = %s", pushed) == []
    explained = json.loads(world.command("explain", "pr", str(number), "--json").stdout)
    assert (explained["approval"], explained["rule"]) == ("void", "approval")
    assert explained["void_because"] == f"{approved[:7]} was approved by wendy; the head moved"

    assert world.rows("SELECT actor, detail->>'state' FROM audit WHERE action = 'comment.preview' ORDER BY id") == [
        ("stranger", "refused"),
        ("wendy", "refused"),
        ("wendy", "done"),
    ]
    world.author.close_pull(number)


def test_t_p12_a_push_right_after_the_approval_runs_as_little_as_one_before_it(world: World) -> None:
    """What is approved runs, or nothing does; never what was pushed later."""
    approved = branch_with(world, "toctou")
    number = int(str(knob(world, "fork_pull", title="Quick hands", head_sha_branch="toctou")["number"]))
    world.author.git("checkout", "-q", "toctou")
    pushed = world.author.commit("Something that nobody has seen")
    world.author.push("toctou-again")
    world.author.git("checkout", "-q", "main")

    given = say(world, number, "developer", f"/preview {approved}")
    knob(world, "fork_push", number=number, branch="toctou-again")
    world.author.await_status(pushed, "pending", slot="preview-1", says="needs approval")
    late = say(world, number, "developer", f"/preview {approved}")
    await_reaction(world, late, "-1")
    assert last_answer(world, late)[:2] == ("refused", "NotTheHead")
    world.author.wait(lambda: not leased(world, number), lambda: "no lease is to be left")

    assert not holds(world, pushed)
    assert world.rows("SELECT 1 FROM runs WHERE sha = %s", pushed) == []
    assert len(world.rows("SELECT 1 FROM comment_commands WHERE comment_id = %s", given)) == 1
    world.author.close_pull(number)


def test_t_g18_a_fork_that_is_gone_is_a_stranger_and_harms_nobody(world: World) -> None:
    sha = branch_with(world, "gone")
    made = knob(world, "fork_pull", title="From nowhere", head_sha_branch="gone", null_repo=True)
    number = int(str(made["number"]))
    world.author.await_status(sha, "pending", slot="preview-1", says="needs approval")
    assert not holds(world, sha)
    world.author.close_pull(number)


def test_a_label_ends_a_preview_and_its_absence_gives_it_back(world: World) -> None:
    sha = branch_with(world, "labelled")
    number = world.author.open_pull("labelled", "Labelled")
    world.author.wait(lambda: leased(world, number), lambda: "there is to be a preview")
    knob(world, "pull", number=number, labels=["No-Preview"])
    world.author.wait(lambda: not leased(world, number), lambda: "the label is to end the preview")
    explained = world.command("explain", "pr", str(number), "--json")
    assert '"rule": "previews.exclude_labels"' in explained.stdout
    knob(world, "pull", number=number, labels=[])
    world.author.wait(lambda: leased(world, number), lambda: "there is to be a preview again")
    world.author.await_status(sha, "success", slot="preview-1")
    world.author.close_pull(number)


def test_a_writer_stops_and_starts_a_preview_with_a_comment(world: World) -> None:
    sha = branch_with(world, "loud")
    number = world.author.open_pull("loud", "Loud")
    world.author.await_status(sha, "success", slot="preview-1")
    stop = say(world, number, "developer", "/preview stop")
    await_reaction(world, stop, "+1")
    world.author.wait(lambda: not leased(world, number), lambda: "the preview is to end")
    start = say(world, number, "developer", f"/preview {sha[:8]}")
    await_reaction(world, start, "+1")
    world.author.wait(lambda: leased(world, number), lambda: "the preview is to begin again")
    world.author.close_pull(number)


def test_production_goes_back_by_a_comment_of_who_may_and_of_nobody_else(world: World) -> None:
    before = world.serves()
    world.author.await_status(before, "success", says="live since")
    number = world.author.open_pull(*_one_more(world))
    (world.author.clone / "title").write_text("Worse\n")
    worse = world.author.commit("Worse")
    world.author.push()
    world.await_serving(worse)
    world.author.await_status(worse, "success", says="live since")

    knob(world, "permission", user="wendy", permission="write")
    knob(world, "permission", user="mary", permission="maintain")
    refused = say(world, number, "wendy", "/rollback")
    await_reaction(world, refused, "-1")
    assert last_answer(world, refused) == ("refused", "NotPermitted", "wendy")
    assert world.serves() == worse
    done = say(world, number, "mary", "/rollback")
    world.await_serving(before)
    await_reaction(world, done, "+1")
    assert world.rows("SELECT actor FROM overrides WHERE kind = 'rollback'") == [(f"mary at #{number}",)]
    hold = say(world, number, "mary", "/hold the fair begins")
    await_reaction(world, hold, "+1")
    held = say(world, number, "mary", "/redeploy")
    await_reaction(world, held, "-1")
    assert last_answer(world, held) == ("refused", "HeldByHand", "mary")
    await_reaction(world, say(world, number, "mary", "/release"), "+1")
    again = say(world, number, "mary", "/redeploy")
    world.await_serving(worse)
    await_reaction(world, again, "+1")
    world.author.close_pull(number)


def _one_more(world: World) -> tuple[str, str]:
    branch_with(world, "talk")
    return "talk", "A place to talk"


def test_a_command_at_a_closed_or_a_filtered_pull_request_is_answered_with_its_reason(world: World) -> None:
    branch_with(world, "over")
    closed = world.author.open_pull("over", "Over")
    world.author.close_pull(closed)
    branch_with(world, "unwanted")
    unwanted = world.author.open_pull("unwanted", "Unwanted")
    knob(world, "pull", number=unwanted, labels=["no-preview"])
    world.author.wait(lambda: not leased(world, unwanted), lambda: "there is to be no lease")

    knob(world, "permission", user="wendy", permission="write")
    await_reaction(world, say(world, closed, "developer", "/release"), "-1")
    await_reaction(world, say(world, closed, "wendy", "/preview"), "-1")
    await_comment(
        world, closed, "the pull request is closed", "`/release` by `developer`: refused, `NotHeld", "PullClosed"
    )
    await_reaction(world, say(world, unwanted, "wendy", "/preview"), "-1")
    await_comment(world, unwanted, "`/preview` by `wendy`: refused, `RuleObjects: previews.exclude_labels")
    world.author.close_pull(unwanted)


def test_a_reader_who_repeats_a_command_is_answered_a_few_times(world: World) -> None:
    branch_with(world, "noise")
    number = world.author.open_pull("noise", "Noise")
    words = ["/rollback", "/preview", "/hold you", "/redeploy"] * 2
    said = [say(world, number, "noisy", text) for text in words]
    await_reaction(world, say(world, number, "developer", "/preview stop"), "+1")
    world.author.wait(
        lambda: len(world.rows("SELECT 1 FROM comment_commands WHERE author = 'noisy'")) == len(said),
        lambda: "every command is to be judged",
    )
    shown = world.rows("SELECT comment_id FROM comment_commands WHERE author = 'noisy' AND is_shown ORDER BY 1")
    assert [row[0] for row in shown] == said[:ANSWERED_OF_ONE_MAX]
    assert world.rows("SELECT count(*) FROM reports WHERE surface = 'reaction' AND key = ANY(%s)", keys(said)) == [
        (ANSWERED_OF_ONE_MAX,)
    ]
    await_comment(world, number, "`/preview stop` by `developer`: done")
    world.author.close_pull(number)


def keys(comments: list[int]) -> list[str]:
    return [f"comment-{number}" for number in comments]


def test_a_lost_delivery_loses_no_command(world: World) -> None:
    branch_with(world, "unheard")
    number = world.author.open_pull("unheard", "Unheard")
    world.author.wait(lambda: leased(world, number), lambda: "there is to be a preview")
    knob(world, "drop", count=1)
    lost = say(world, number, "developer", "/preview stop")
    # The next thing that happens has the worker read what was said meanwhile.
    say(world, number, "developer", "did you hear me?")
    await_reaction(world, lost, "+1")
    world.author.wait(lambda: not leased(world, number), lambda: "the preview is to end")
    world.author.close_pull(number)
