"""Does the development forge do with real git, real HTTP and real webhooks what GitHub would do?"""

from __future__ import annotations

import base64
import gzip
import time
import uuid
from pathlib import Path
from urllib.parse import quote

import httpx
import pygit2
import pytest
from pygit2.enums import ObjectType

from controller.development.forge_git import GitRepository
from controller.development.forge_records import Records
from controller.development.forge_shapes import Changes
from controller.model.errors import Stalled
from controller.model.names import parse_sha
from controller.model.reports import WantedStatus
from controller.model.states import StatusState
from tests.forge.conftest import Receiver, await_true
from tests.forge_fixture import CANARY, REPOSITORY, Clone, ForgeUnderTest


def started(forge: ForgeUnderTest, receiver: Receiver) -> Clone:
    """Return a clone whose first commit was pushed, and told of."""
    clone = forge.clone()
    clone.commit("Begin", page="one")
    clone.push()
    receiver.await_count(1)
    receiver.received.clear()
    return clone


def await_recorded(forge: ForgeUnderTest) -> None:
    """Wait until the answer to the newest delivery is on the disk; else a forge that is killed sends it once more."""
    await_true(lambda: forge.api.get("/hooks/1/deliveries").json()[0]["status_code"] == 202, lambda: "a record")


def test_push_makes_exactly_one_signed_delivery(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = forge.clone()
    sha = clone.commit("Begin", page="one")
    clone.git("push", "-q")

    (delivery,) = receiver.await_count(1)
    assert delivery.is_signed()
    uuid.UUID(delivery.headers["x-github-delivery"])
    assert delivery.headers["x-github-hook-id"] == "1"
    assert delivery.headers["user-agent"].startswith("GitHub-Hookshot/")
    payload = delivery.payload
    assert (payload["ref"], payload["before"], payload["after"]) == ("refs/heads/main", "0" * 40, sha)
    assert (payload["created"], payload["forced"], payload["deleted"]) == (True, False, False)
    assert [(one["id"], one["added"]) for one in payload["commits"]] == [(sha, ["page"])]

    clone.git("push", "-q")  # nothing new: nothing is told
    again = clone.commit("Go on", page="two")
    clone.push()
    receiver.await_count(2)
    assert [one.payload["after"] for one in receiver.received] == [sha, again]
    assert receiver.received[1].payload["head_commit"]["modified"] == ["page"]


def test_force_pushes_deletions_and_tags_are_told_as_such_and_forbidden_ones_refused(
    forge: ForgeUnderTest, receiver: Receiver
) -> None:
    clone = started(forge, receiver)
    clone.git("commit", "-q", "--amend", "-m", "Begin again")
    clone.push(force=True)
    clone.push("topic")
    clone.git("push", "-q", "origin", ":refs/heads/topic")
    clone.git("tag", "-a", "v1", "-m", "one")
    clone.git("push", "-q", "origin", "v1")

    received = receiver.await_count(4)
    assert receiver.whats() == [
        "push refs/heads/main",
        "push refs/heads/topic",
        "push refs/heads/topic",
        "push refs/tags/v1",
    ]
    assert [one.payload["forced"] for one in received] == [True, False, False, False]
    assert [one.payload["deleted"] for one in received] == [False, False, True, False]
    assert "prohibited" in clone.git("push", "origin", ":refs/heads/main", fails=True)
    assert "hidden ref" in clone.git("push", "origin", "HEAD:refs/pull/1/head", fails=True)


def test_strange_branch_names_are_names_and_nothing_else(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = started(forge, receiver)
    branches = ["-x", "a;b", "a$(id)b", "ünï", "a%2e%2e%2fb", "one/two", "f" * 40, "b" * 250]
    for number, branch in enumerate(branches, start=1):
        sha = clone.commit(f"Change {number}", page=branch)
        clone.push(branch)
        pull = forge.open_pull(branch)
        assert (pull["head"]["ref"], pull["head"]["sha"]) == (branch, sha)
        listed = forge.client.open_pulls()[-1]
        assert (listed.number, listed.head_branch, listed.head_sha) == (number, branch, sha)
        assert listed.same_repository
        assert clone.git("ls-remote", "origin", f"refs/pull/{number}/head").split()[0] == sha
        assert forge.api.get(f"/git/ref/heads/{quote(branch)}").json()["object"]["sha"] == sha
    receiver.await_count(2 * len(branches))
    assert receiver.whats()[::2] == [f"push refs/heads/{branch}" for branch in branches]


def test_pull_request_is_opened_pushed_to_closed_and_reopened(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = started(forge, receiver)
    first = clone.commit("Change", page="two")
    clone.push("topic")
    assert forge.open_pull("topic")["commits"] == 1
    second = clone.commit("Change more", page="three")
    clone.push("topic")
    assert clone.git("ls-remote", "origin", "refs/pull/1/head").split()[0] == second
    assert forge.api.patch("/pulls/1", json={"state": "closed"}).json()["state"] == "closed"
    assert forge.client.open_pulls() == ()
    third = clone.commit("Change on", page="four")
    clone.push("topic")
    assert forge.api.patch("/pulls/1", json={"state": "open"}).json()["head"]["sha"] == third

    received = receiver.await_count(7)
    assert receiver.whats() == [
        "push refs/heads/topic",
        "pull_request opened #1",
        "push refs/heads/topic",
        "pull_request synchronize #1",
        "pull_request closed #1",
        "push refs/heads/topic",
        "pull_request reopened #1",
    ]
    assert (received[3].payload["before"], received[3].payload["after"]) == (first, second)
    assert received[4].payload["pull_request"]["merged"] is False
    assert all(one.is_signed() for one in received)


def test_pull_request_is_refused_without_commits_without_branch_and_twice(
    forge: ForgeUnderTest, receiver: Receiver
) -> None:
    clone = started(forge, receiver)
    clone.push("same")
    for head in ("same", "none", "stranger:same"):
        answer = forge.api.post("/pulls", json={"title": "T", "head": head, "base": "main"})
        assert answer.status_code == 422, head
    clone.commit("Change", page="two")
    clone.push("topic")
    forge.open_pull("topic")
    twice = forge.api.post("/pulls", json={"title": "T", "head": "topic", "base": "main"})
    assert twice.json()["errors"][0]["message"] == "A pull request already exists for acme:topic."


@pytest.mark.parametrize("method", ["merge", "squash"])
def test_merge_moves_the_base_and_closes_the_pull_request(
    forge: ForgeUnderTest, receiver: Receiver, method: str
) -> None:
    clone = started(forge, receiver)
    clone.commit("Change", page="two")
    clone.push("topic")
    forge.open_pull("topic")
    merged = forge.api.put("/pulls/1/merge", json={"merge_method": method})
    assert merged.json()["merged"] is True
    received = receiver.await_count(4)
    assert receiver.whats()[2:] == ["push refs/heads/main", "pull_request closed #1"]
    assert received[2].payload["after"] == merged.json()["sha"]
    assert received[3].payload["pull_request"]["merged"] is True
    clone.git("fetch", "-q")
    assert clone.git("rev-parse", "origin/main") == merged.json()["sha"]
    assert clone.git("diff", "origin/main", "origin/topic") == ""
    assert forge.api.put("/pulls/1/merge", json={}).status_code == 405


def test_conflict_is_not_merged_and_commits_pushed_to_the_base_are(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = started(forge, receiver)
    clone.commit("Change", page="two")
    clone.push("topic")
    clone.git("reset", "-q", "--hard", "HEAD~1")
    clone.commit("Change otherwise", page="three")
    clone.push()
    forge.open_pull("topic")
    assert forge.api.put("/pulls/1/merge", json={}).status_code == 405
    assert len(forge.client.open_pulls()) == 1
    clone.git("merge", "-q", "-s", "ours", "-m", "Take ours", "origin/topic")
    sha = clone.git("rev-parse", "HEAD")
    clone.push()
    received = receiver.await_count(5)
    assert receiver.whats()[3:] == ["push refs/heads/main", "pull_request closed #1"]
    assert received[4].payload["pull_request"]["merge_commit_sha"] == sha


def test_forks_and_deleted_forks_are_of_another_repository(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = started(forge, receiver)
    clone.commit("Change", page="two")
    clone.push("topic")
    own = forge.open_pull("topic")["number"]
    forge.knob("fork_pull", title="From a fork", head_sha_branch="topic")
    forge.knob("fork_pull", title="From nowhere", head_sha_branch="topic", null_repo=True)
    assert [pull.same_repository for pull in forge.client.open_pulls()] == [True, False, False]
    clone.commit("Change more", page="three")
    clone.push("topic")  # a fork's branch of the same name does not move with it
    receiver.await_count(6)
    assert receiver.whats()[4:] == ["push refs/heads/topic", f"pull_request synchronize #{own}"]


def test_open_pulls_are_complete_over_many_pages_and_dropped_webhooks_never_come(
    forge: ForgeUnderTest, receiver: Receiver
) -> None:
    clone = started(forge, receiver)
    clone.commit("Change", page="two")
    forge.knob("drop", count=1)
    clone.push("unheard")
    clone.push("topic")
    receiver.await_count(1)
    forge.knob("drop", count=1000)
    for number in range(1, 230):
        forge.knob("fork_pull", title=f"Pull {number}", head_sha_branch="topic", null_repo=number % 7 == 0)
    forge.open_pull("topic")
    pulls = forge.client.open_pulls()
    assert [pull.number for pull in pulls] == list(range(1, 231))
    assert [pull.number for pull in pulls if pull.same_repository] == [230]
    assert receiver.whats() == ["push refs/heads/topic"]


def test_statuses_are_kept_and_shown_newest_first(forge: ForgeUnderTest, receiver: Receiver) -> None:
    sha = parse_sha(started(forge, receiver).git("rev-parse", "HEAD"))
    client = forge.client
    for state in (StatusState.PENDING, StatusState.SUCCESS):
        client.post_status(
            WantedStatus(
                sha=sha,
                context="oroboros/production",
                state=state,
                description="<b>live</b>",
                target_url="http://app.localhost:8088",
                generation=1,
            )
        )
    assert [status.state for status in client.statuses(sha)] == [StatusState.SUCCESS, StatusState.PENDING]
    assert forge.api.get("/commits/main/status").json()["state"] == "success"
    page = httpx.get(forge.url, trust_env=False).text
    assert "&lt;b&gt;live&lt;/b&gt;" in page
    assert "<b>" not in page


def test_bad_status_is_refused(forge: ForgeUnderTest, receiver: Receiver) -> None:
    sha = started(forge, receiver).git("rev-parse", "HEAD")
    bad: list[dict[str, object]] = [
        {},
        {"state": "done"},
        {"state": "success", "description": "x" * 141},
        {"state": "success", "description": 1},
        {"state": "success", "description": "a bug \N{BUG}"},
        {"state": "success", "context": ""},
        {"state": "success", "target_url": "javascript:alert(1)"},
    ]
    for content in bad:
        assert forge.api.post(f"/statuses/{sha}", json=content).status_code == 422, content
    for unknown in ("f" * 40, "main", sha[:39]):
        assert forge.api.post(f"/statuses/{unknown}", json={"state": "success"}).status_code == 422
    for body in (b"[]", b"{", b"[" * 50_000):
        assert forge.api.post(f"/statuses/{sha}", content=body).status_code == 400


def test_wrong_or_missing_token_is_401_and_another_host_name_is_400(forge: ForgeUnderTest) -> None:
    wrong = base64.b64encode(b"x-access-token:wrong").decode()
    for path in (f"/{REPOSITORY}.git/info/refs?service=git-upload-pack", f"/api/v3/repos/{REPOSITORY}"):
        for authorization in (
            None,
            "Bearer wrong",
            f"Basic {wrong}",
            "Basic !",
            "Bearer ü",
        ):
            headers = [] if authorization is None else [(b"Authorization", authorization.encode())]
            answer = httpx.get(forge.url + path, headers=headers, trust_env=False)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="GitHub"')
    assert httpx.post(f"{forge.url}/_development/drop", json={}, trust_env=False).status_code == 401
    assert httpx.get(forge.url, headers={"Host": "evil.example"}, trust_env=False).status_code == 400


def test_fetch_takes_gzipped_bodies_and_refuses_broken_ones(forge: ForgeUnderTest, receiver: Receiver) -> None:
    started(forge, receiver)
    wants = b"0014command=ls-refs\n0000"
    headers = {"Git-Protocol": "version=2", "Content-Encoding": "gzip"}
    address = f"/{REPOSITORY}.git/git-upload-pack"
    answer = forge.knobs.post(address, content=gzip.compress(wants), headers=headers)
    assert b"refs/heads/main" in answer.content
    assert forge.knobs.post(address, content=gzip.compress(wants)[:-9], headers=headers).status_code == 400
    assert forge.knobs.post(address, content=b"no gzip", headers=headers).status_code == 400
    assert forge.knobs.post(address, content=b"", headers={"Content-Encoding": "br"}).status_code == 415


def test_state_survives_a_kill(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = started(forge, receiver)
    clone.commit("Change", page="two")
    clone.push("topic")
    forge.open_pull("topic", "Kept")
    sha = parse_sha(clone.git("rev-parse", "HEAD"))
    forge.api.post(f"/statuses/{sha}", json={"state": "pending"})
    receiver.await_count(2)
    await_recorded(forge)
    deliveries = forge.api.get("/hooks/1/deliveries").json()
    forge.part.kill()
    forge.part.start()
    assert [pull.title for pull in forge.client.open_pulls()] == ["Kept"]
    assert len(forge.client.statuses(sha)) == 1
    assert forge.api.get("/hooks/1/deliveries").json() == deliveries
    clone.commit("Change more", page="three")
    clone.push("topic")
    receiver.await_count(4)
    assert receiver.whats()[-1] == "pull_request synchronize #1"


def test_pull_request_follows_a_branch_that_moved_just_before_a_kill(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = started(forge, receiver)
    first = clone.commit("Change", page="two")
    clone.push("topic")
    forge.open_pull("topic")
    second = clone.commit("Change more", page="three")
    clone.push("other")
    receiver.await_count(3)
    await_recorded(forge)
    forge.part.kill()
    bare = forge.folder / "forge" / "shop.git"
    clone.git("--git-dir", str(bare), "update-ref", "refs/heads/topic", second)
    forge.part.start()
    told = receiver.await_count(4)[3]
    assert told.what == "pull_request synchronize #1"
    assert (told.payload["before"], told.payload["after"]) == (first, second)
    assert [pull.head_sha for pull in forge.client.open_pulls()] == [second]
    assert clone.git("ls-remote", "origin", "refs/pull/1/head").split()[0] == second


def test_paused_webhooks_come_later_and_in_order(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = started(forge, receiver)
    forge.knob("pause")
    for branch in ("one", "two", "three"):
        clone.push(branch)
    assert [one["status"] for one in forge.api.get("/hooks/1/deliveries").json()[:3]] == ["pending"] * 3
    assert receiver.whats() == []
    forge.knob("pause", paused=False)
    receiver.await_count(3)
    assert receiver.whats() == [f"push refs/heads/{branch}" for branch in ("one", "two", "three")]


def test_doubled_webhooks_come_twice_under_one_id(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = started(forge, receiver)
    forge.knob("double", count=1)
    clone.push("one")
    clone.push("two")
    received = receiver.await_count(3)
    assert receiver.whats() == ["push refs/heads/one"] * 2 + ["push refs/heads/two"]
    ids = [one.headers["x-github-delivery"] for one in received]
    assert (ids[0] == ids[1], ids[1] == ids[2]) == (True, False)
    assert received[0].body == received[1].body


def test_delayed_webhooks_come_so_much_later(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = started(forge, receiver)
    forge.knob("delay", seconds=600)
    clone.push("one")
    (one, _) = forge.api.get("/hooks/1/deliveries").json()
    assert one["status"] == "pending"
    delay_s = 0.2
    forge.knob("delay", seconds=delay_s)
    receiver.await_count(1)
    before_s = time.monotonic()
    clone.push("two")
    receiver.await_count(2)
    assert time.monotonic() - before_s >= delay_s
    assert receiver.whats() == ["push refs/heads/one", "push refs/heads/two"]


def test_reordered_webhooks_wait_for_each_other_and_come_in_the_order_of_a_seed(
    forge: ForgeUnderTest, receiver: Receiver
) -> None:
    clone = started(forge, receiver)
    orders = []
    for seed in (1, 2):
        receiver.received.clear()
        forge.knob("reorder", count=5, seed=seed)
        for number in range(4):
            clone.push(f"{number}-{seed}")
        assert receiver.whats() == []
        clone.push(f"4-{seed}")
        receiver.await_count(5)
        orders.append([what.removeprefix("push refs/heads/").removesuffix(f"-{seed}") for what in receiver.whats()])
    assert [sorted(order) for order in orders] == [["0", "1", "2", "3", "4"]] * 2
    assert orders[0] != orders[1]
    clone.push("alone")  # the knob was for so many, and no more
    receiver.await_count(6)
    forge.knob("reorder", count=2)
    clone.push("held")
    forge.knob("reorder", count=0)
    receiver.await_count(7)
    assert forge.knobs.post("/_development/reorder", json={"count": 101}).status_code == 422


def test_t_g14_status_number_1001_of_a_commit_and_context_is_refused_for_good(
    forge: ForgeUnderTest, receiver: Receiver
) -> None:
    sha = started(forge, receiver).git("rev-parse", "HEAD")
    records = Records(forge.folder / "forge" / "forge.sqlite")
    for number in range(1000):
        records.add_status(
            sha, state="pending", context="full", description=str(number), target_url=None, now="2026-01-01T00:00:00Z"
        )
    records.close()
    assert forge.api.post(f"/statuses/{sha}", json={"state": "success", "context": "full"}).status_code == 422
    assert forge.api.post(f"/statuses/{sha}", json={"state": "success", "context": "other"}).status_code == 201
    with pytest.raises(Stalled, match="maximum number of statuses"):
        forge.client.post_status(
            WantedStatus(
                sha=parse_sha(sha),
                context="full",
                state=StatusState.SUCCESS,
                description="live",
                target_url=None,
                generation=1,
            )
        )


def test_failed_delivery_is_recorded_never_retried_and_sent_again_by_hand(
    forge: ForgeUnderTest, receiver: Receiver
) -> None:
    receiver.answer = 503
    clone = forge.clone()
    clone.commit("Begin")
    clone.push()
    (failed,) = receiver.await_count(1)
    await_true(lambda: forge.api.get("/hooks/1/deliveries").json()[0]["status_code"] == 503, lambda: "a record")
    receiver.answer = 202
    clone.push("topic")
    receiver.await_count(2)
    assert receiver.whats() == ["push refs/heads/main", "push refs/heads/topic"]

    listed = forge.api.get("/hooks/1/deliveries").json()
    assert forge.api.post(f"/hooks/1/deliveries/{listed[-1]['id']}/attempts").status_code == 202
    again = receiver.await_count(3)[2]
    assert again.body == failed.body
    assert again.headers["x-github-delivery"] == failed.headers["x-github-delivery"]
    await_true(lambda: forge.api.get("/hooks/1/deliveries").json()[0]["status_code"] == 202, lambda: "a record")
    assert forge.api.get("/hooks/1/deliveries").json()[0]["redelivery"] is True


def test_clone_knows_the_file_of_the_token_but_not_the_token(forge: ForgeUnderTest, receiver: Receiver) -> None:
    clone = started(forge, receiver)
    for file in (clone.path / ".git").rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes(), file
    forge.token_file.write_text("another\n")  # both sides read it anew
    clone.commit("Go on")
    clone.push()
    forge.token_file.write_text(CANARY + "\n")


@pytest.mark.parametrize("leaf", [b"100644 f\0", b"40000 e\0"])
def test_a_tree_that_holds_more_than_can_be_counted_is_not_gone_through(tmp_path: Path, leaf: bytes) -> None:
    git = GitRepository(tmp_path, "app")
    repository = pygit2.Repository(str(git.path))
    inner = repository.write(*((ObjectType.BLOB, b"x") if leaf.startswith(b"100") else (ObjectType.TREE, b"")))
    tree = repository.write(ObjectType.TREE, leaf + inner.raw)
    ordinary = tree
    for _ in range(12):
        tree = repository.write(ObjectType.TREE, b"".join(b"40000 %d\0" % n + tree.raw for n in range(10)))
    who = b"Kim <kim@example.org> 1700000000 +0000"
    lines = b"author %s\ncommitter %s\n\nx\n" % (who, who)
    base = repository.write(ObjectType.COMMIT, b"tree %s\n%s" % (str(ordinary).encode(), lines))
    raw = b"tree %s\nparent %s\n%s" % (str(tree).encode(), str(base).encode(), lines)
    head = repository.write(ObjectType.COMMIT, raw)

    found = git.load_commit(str(head), files=True)
    assert found is not None
    assert (found.added, found.modified, found.removed) == ((), (), ())
    assert git.changes(str(base), str(head)) == Changes(commits=1)
