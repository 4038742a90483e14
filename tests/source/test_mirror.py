"""The mirror fetches what it is told to and nothing else, from a remote that may do what it likes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pygit2
import pytest
from pygit2.enums import ConfigLevel, ObjectType

from controller.effects.github_identity import TokenFile
from controller.effects.mirror import COMMIT_BYTES_MAX, PACKS_MAX, Mirror
from controller.effects.signatures import Signatures
from controller.model.errors import ConfigInvalid, Failed, OroborosError, Unavailable
from controller.model.names import Sha, parse_sha
from tests.source.git_server import GitServer
from tests.source.objects import git

CANARY_TOKEN = "ghs_canaryThatMustNeverBeSeen0123456789"


@dataclass
class Remote:
    """A bare repository behind a server, and an author's clone of it."""

    server: GitServer
    bare: Path
    work: Path

    def commit(self, name: str, body: str = "x\n", message: str = "a commit") -> Sha:
        (self.work / name).write_text(body)
        git("-C", self.work, "add", "-A")
        git("-C", self.work, "commit", "-qm", message)
        return self.head()

    def head(self) -> Sha:
        return parse_sha(git("-C", self.work, "rev-parse", "HEAD"))

    def push(self, target: str = "refs/heads/main") -> None:
        git("-C", self.work, "push", "-qf", self.bare, f"HEAD:{target}")

    def commit_raw(self, tree: bytes, message: bytes, ref: str) -> Sha:
        """Write a commit byte by byte into the remote itself."""
        repository = pygit2.Repository(str(self.bare))
        who = b"Test <test@example.org> 1700000000 +0000"
        raw = b"tree %s\nauthor %s\ncommitter %s\n\n%s" % (tree.hex().encode(), who, who, message)
        made = repository.write(ObjectType.COMMIT, raw)
        repository.create_reference(ref, made, force=True)
        return parse_sha(str(made))


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    folder = tmp_path / "remote"
    git("init", "-q", "--bare", "-b", "main", folder / "app.git")
    git("init", "-q", "-b", "main", tmp_path / "work")
    server = GitServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    remote = Remote(server, folder / "app.git", tmp_path / "work")
    remote.commit("README")
    remote.push()
    yield remote
    server.stopping.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def mirror(remote: Remote, tmp_path: Path) -> Mirror:
    return Mirror(tmp_path / "repo.git", remote.server.url, fetch_timeout_s=30)


def refs(tmp_path: Path) -> set[str]:
    return set(pygit2.Repository(str(tmp_path / "repo.git")).listall_references())


def test_fetches_production_and_the_named_pull_requests_and_forgets_others(
    remote: Remote, mirror: Mirror, tmp_path: Path
) -> None:
    production = remote.head()
    pulls: dict[int, Sha] = {}
    for number in (1, 2, 3):
        pulls[number] = remote.commit(f"pull{number}")
        remote.push(f"refs/pull/{number}/head")
    remote.push("refs/heads/other")
    git("-C", remote.work, "tag", "v1")
    remote.push("refs/tags/v1")
    assert mirror.production_head() is None
    assert mirror.fetch(branch="main", pulls=[1, 2]) == ()
    head = mirror.production_head()
    assert head is not None
    assert (head.sha, head.title) == (production, "a commit")
    assert [getattr(mirror.pull_head(n), "sha", None) for n in (1, 2, 3)] == [pulls[1], pulls[2], None]
    assert mirror.head(pulls[3]) is None
    mirror.fetch(branch="main", pulls=[2])
    assert refs(tmp_path) == {"refs/oroboros/production", "refs/oroboros/pull/2"}
    assert mirror.default_branch() == "main"


def test_what_is_in_the_merge_queue_is_fetched_and_forgotten_again(remote: Remote, mirror: Mirror) -> None:
    base = remote.commit("a")
    remote.push()
    mirror.fetch(branch="main", pulls=[])
    assert mirror.queue_entries() == ()
    entries = {}
    for number, branch in ((3, "main"), (12, "release/1.0")):
        entries[number] = remote.commit(f"change-{number}")
        remote.push(f"refs/heads/gh-readonly-queue/{branch}/pr-{number}-{base}")
    for odd in ("gh-readonly-queue/main/other", "gh-readonly-queue/main/pr-0-" + base, "topic"):
        remote.push(f"refs/heads/{odd}")

    mirror.fetch(branch="main", pulls=[])

    found = {entry.number: (entry.base_branch, entry.head.sha) for entry in mirror.queue_entries()}
    assert found == {3: ("main", entries[3]), 12: ("release/1.0", entries[12])}
    assert mirror.production_head() is not None
    git("-C", remote.bare, "update-ref", "-d", f"refs/heads/gh-readonly-queue/main/pr-3-{base}")
    mirror.fetch(branch="main", pulls=[])
    assert [entry.number for entry in mirror.queue_entries()] == [12]
    head = mirror.production_head()
    assert head is not None
    assert head.sha == base


def test_t_p12_of_a_fork_the_approved_commit_comes_or_nothing_does(
    remote: Remote, mirror: Mirror, tmp_path: Path
) -> None:
    production = remote.head()
    approved = remote.commit("stranger", "approved\n")
    remote.push("refs/pull/7/head")
    pushed = remote.commit("stranger", "pushed after the approval\n")
    remote.push("refs/pull/7/head")
    assert mirror.fetch(branch="main", pulls=[], approved=[(7, approved)]) == ()
    assert getattr(mirror.pull_head(7), "sha", None) == approved
    assert mirror.head(pushed) is None
    nowhere = parse_sha("12" * 20)
    (refused,) = mirror.fetch(branch="main", pulls=[], approved=[(8, nowhere)])
    assert (refused.number, refused.reason) == (8, "RefMissing")
    assert (mirror.pull_head(8), mirror.pull_head(7)) == (None, None)
    assert getattr(mirror.production_head(), "sha", None) == production


def test_changed_paths_are_those_since_the_production_branch_was_left(remote: Remote, mirror: Mirror) -> None:
    base = remote.head()
    (remote.work / "web").mkdir()
    remote.commit("web/a.ts")
    topic = remote.commit("ünïcode")
    remote.push("refs/pull/1/head")
    git("-C", remote.work, "reset", "-q", "--hard", base)
    remote.commit("later", message="production goes on")
    remote.push()
    assert mirror.changed_paths(topic) is None
    mirror.fetch(branch="main", pulls=[1])
    assert mirror.changed_paths(topic) == ("web/a.ts", "ünïcode")
    assert mirror.changed_paths(parse_sha("12" * 20)) is None


def test_new_commits_force_pushes_and_many_packs_are_seen(remote: Remote, mirror: Mirror, tmp_path: Path) -> None:
    first = remote.head()
    for number in range(3):
        sha = remote.commit("file", f"{number}\n")
        remote.push()
        mirror.fetch(branch="main", pulls=[])
        assert getattr(mirror.production_head(), "sha", None) == sha
    assert mirror.is_ancestor(first, sha)
    assert not mirror.is_ancestor(sha, first)
    assert mirror.is_reachable_from_production(first)
    git("-C", remote.work, "reset", "-q", "--hard", first)
    other = remote.commit("other")
    remote.push()
    mirror.fetch(branch="main", pulls=[])
    assert getattr(mirror.production_head(), "sha", None) == other
    assert not mirror.is_reachable_from_production(sha)  # in the mirror, and not on the branch


def test_packs_are_joined_when_there_are_many(remote: Remote, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "repo.git", f"file://{remote.bare}", allow_file_url=True)
    for number in range(PACKS_MAX + 2):
        sha = remote.commit("file", f"{number}\n")
        remote.push()
        mirror.fetch(branch="main", pulls=[])
    assert len(list((tmp_path / "repo.git/objects/pack").glob("*.pack"))) <= PACKS_MAX
    assert mirror.read_file(sha, b"file", bytes_max=100) == f"{number}\n".encode()


def test_names_that_look_like_ids_options_or_commands_are_only_names(
    remote: Remote, mirror: Mirror, tmp_path: Path
) -> None:
    production = remote.head()
    impostor = remote.commit("impostor")
    names = [production, impostor, "-x", "--upload-pack=touch${IFS}canary", "a;b", "a$(id)b", "HEAD", "n" * 250]
    repository = pygit2.Repository(str(remote.bare))
    git("-C", remote.work, "push", "-q", remote.bare, "HEAD:refs/heads/temporary")
    for name in names:
        repository.create_reference(f"refs/heads/{name}", pygit2.Oid(hex=impostor), force=True)
        repository.create_reference(f"refs/tags/{name}", pygit2.Oid(hex=impostor), force=True)
    repository.create_reference("refs/tags/main", pygit2.Oid(hex=impostor))
    mirror.fetch(branch="main", pulls=[])
    assert getattr(mirror.production_head(), "sha", None) == production
    assert mirror.head(impostor) is None
    assert not mirror.is_reachable_from_production(impostor)
    for name in names[2:]:
        mirror.fetch(branch=name, pulls=[])
        assert getattr(mirror.production_head(), "sha", None) == impostor
    assert not (tmp_path / "repo.git/canary").exists()
    for name in ("a..b", "a b", "a:b", "*", "^main", "+main", "x.lock", ""):
        if name != "+main":
            with pytest.raises(ConfigInvalid):
                mirror.fetch(branch=name, pulls=[])


def test_t_p15_a_commit_of_a_fork_that_the_mirror_happens_to_hold_is_not_on_production(
    remote: Remote, mirror: Mirror
) -> None:
    impostor = remote.commit("impostor")
    remote.push("refs/pull/7/head")
    mirror.fetch(branch="main", pulls=[7])
    assert mirror.head(impostor) is not None
    assert not mirror.is_reachable_from_production(impostor)


@pytest.mark.parametrize("text", ["main", "HEAD", "refs/oroboros/production", "a" * 64, "abc", "", "-x", "A" * 40])
def test_only_a_full_id_finds_a_commit(remote: Remote, mirror: Mirror, text: str) -> None:
    mirror.fetch(branch="main", pulls=[])
    assert mirror.head(Sha(text)) is None
    assert not mirror.is_reachable_from_production(Sha(text))
    assert mirror.read_file(Sha(text), b"README", bytes_max=10) is None


def test_files_and_folders_are_read_at_a_commit(remote: Remote, mirror: Mirror) -> None:
    (remote.work / "db/migrations").mkdir(parents=True)
    (remote.work / "db/migrations/1.sql").write_text("select 1")
    sha = remote.commit("deploy.toml", "[web]\n")
    remote.push()
    mirror.fetch(branch="main", pulls=[])
    assert mirror.read_file(sha, b"deploy.toml", bytes_max=6) == b"[web]\n"
    with pytest.raises(ConfigInvalid):
        mirror.read_file(sha, b"deploy.toml", bytes_max=5)
    for path in (b"missing", b"db", b"deploy.toml/x", b"../x", b""):
        assert mirror.read_file(sha, path, bytes_max=100) is None
    tree = git("-C", remote.work, "rev-parse", "HEAD:db/migrations")
    assert mirror.subtree_id(sha, b"db/migrations") == mirror.subtree_id(sha, b"db/migrations/") == tree
    assert mirror.subtree_id(sha, b"deploy.toml") == mirror.subtree_id(sha, b"no/such") == ""
    assert {b"deploy.toml", b"db", b"db/migrations"} <= set(mirror.names_at(sha))


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ({"deploy.toml": "ops/deploy.toml"}, None),
        ({"deploy.toml": "./ops/../ops//deploy.toml"}, None),
        ({"deploy.toml": "conf/deploy.toml", "conf": "ops"}, None),
        ({"deploy.toml": "deep/link/deploy.toml", "deep/link": "../ops"}, None),
        ({"deploy.toml": "ops/none.toml"}, "LinkDangling"),
        ({"deploy.toml": "README/none.toml"}, "LinkDangling"),
        ({"deploy.toml": "../outside.toml"}, "LinkLeavesTree"),
        ({"deploy.toml": "/etc/passwd"}, "LinkAbsolute"),
        ({"deploy.toml": "deploy.toml"}, "TooManyLinks"),
        ({"deploy.toml": "ops/../" * 60 + "ops/deploy.toml"}, "TooManyLinks"),
    ],
)
def test_a_file_behind_links_is_read_or_refused_with_the_link(
    remote: Remote, mirror: Mirror, links: dict[str, str], reason: str | None
) -> None:
    for path, target in {"ops/README": "../README", **links}.items():
        (remote.work / path).parent.mkdir(exist_ok=True)
        (remote.work / path).symlink_to(target)
    sha = remote.commit("ops/deploy.toml", "[web]\n")
    remote.push()
    mirror.fetch(branch="main", pulls=[])

    if reason is None:
        assert mirror.read_file(sha, b"deploy.toml", bytes_max=100) == b"[web]\n"
        assert mirror.subtree_id(sha, b"conf") == (mirror.subtree_id(sha, b"ops") if "conf" in links else "")
        return
    with pytest.raises(ConfigInvalid, match=reason) as caught:
        mirror.read_file(sha, b"deploy.toml", bytes_max=100)
    assert "is a link to" in str(caught.value)


def test_title_is_one_short_visible_line(remote: Remote, mirror: Mirror) -> None:
    tree = bytes.fromhex(git("-C", remote.work, "rev-parse", "HEAD^{tree}"))
    evil = b"\x1b[2J\xff title \xe2\x80\xae" + b"y" * 1_000_000 + b"\nsecond line\n"
    sha = remote.commit_raw(tree, evil, "refs/heads/main")
    mirror.fetch(branch="main", pulls=[])
    head = mirror.head(sha)
    assert head is not None
    assert head.title.startswith("\\x1b[2J\\xff title \\u202eyyy")
    assert (len(head.title), head.title.isprintable()) == (100, True)


def test_pull_request_that_is_gone_or_malformed_does_not_keep_the_others_away(remote: Remote, mirror: Mirror) -> None:
    production = remote.head()
    good = remote.commit("good")
    remote.push("refs/pull/1/head")
    repository = pygit2.Repository(str(remote.bare))
    blob = repository.write(ObjectType.BLOB, b"x")
    tree = repository.write(ObjectType.TREE, b"100644 .git\0" + blob.raw)
    remote.commit_raw(tree.raw, b"evil", "refs/pull/2/head")
    refused = mirror.fetch(branch="main", pulls=[1, 2, 3])
    assert [(pull.number, pull.reason) for pull in refused] == [(2, "ObjectsRefused"), (3, "RefMissing")]
    assert getattr(mirror.production_head(), "sha", None) == production
    assert getattr(mirror.pull_head(1), "sha", None) == good
    assert mirror.pull_head(2) is None


WHO = b"Kim <kim@example.org> 1305038239 +0000"
#: Lines of author and committer as old tools wrote them; some are those of well-known repositories.
ODD_PEOPLE = {
    "badDate, an address twice": b"Kim <kim@example.org> <kim@example.org> 1305038239 -0700",
    "badDate, a date in words": b"Kim <kim@example.org> Tue May 10 2011 +0000",
    "badDate, no time zone": b"Kim <kim@example.org> 1305038239",
    "badDateOverflow": b"Kim <kim@example.org> 18446744073709551617 +0000",
    "badDateOverflow, before the epoch": b"Kim <kim@example.org> -62135596800 +0000",
    "the end of 63 bits": b"Kim <kim@example.org> 9223372036854775807 +0000",
    "badEmail": b"Kim <kim@example.org 1305038239 +0000",
    "badName": b"Kim> <kim@example.org> 1305038239 +0000",
    "badTimezone": b"Kim <kim@example.org> 1305038239 +051800",
    "badTimezone, of twelve digits": b"Kim <kim@example.org> 1305038239 +999999999999",
    "missingEmail": b"Kim 1305038239 +0000",
    "missingEmail, nothing at all": b"",
    "missingNameBeforeEmail": b"<kim@example.org> 1305038239 +0000",
    "missingSpaceBeforeDate": b"Kim <kim@example.org>1305038239 +0000",
    "missingSpaceBeforeDate, no date": b"Kim <kim@example.org>",
    "missingSpaceBeforeEmail": b"Kim<kim@example.org> 1305038239 +0000",
    "zeroPaddedDate": b"Kim <kim@example.org> 01305038239 +0000",
    "bytes that are no UTF-8": b"K\xefm <kim@example.org> 1305038239 +0000",
}
#: What lies between the parents of a commit and its end.
ODD_COMMITS = {
    **{kind: b"author %s\ncommitter %s\n\n%s\n" % (who, who, kind.encode()) for kind, who in ODD_PEOPLE.items()},
    "missingAuthor": b"committer %s\n\nx\n" % WHO,
    "missingCommitter": b"author %s\n\nx\n" % WHO,
    "missingAuthor, in another order": b"committer %s\nauthor %s\n\nx\n" % (WHO, WHO),
    "multipleAuthors": b"author %s\nauthor %s\ncommitter %s\n\nx\n" % (WHO, WHO, WHO),
    "nulInCommit": b"author %s\ncommitter %s\n\nx\0y\n" % (WHO, WHO),
    "an encoding that does not exist": b"author %s\ncommitter %s\nencoding no-such\n\n\xe9\n" % (WHO, WHO),
    "no message": b"author %s\ncommitter %s\n\n" % (WHO, WHO),
    "no empty line either": b"author %s\ncommitter %s\n" % (WHO, WHO),
    "half a signature": b"author %s\ncommitter %s\ngpgsig -----BEGIN PGP SIGNATURE-----\n\nx\n" % (WHO, WHO),
    "a header of a megabyte": b"author %s\ncommitter %s\nx-junk %s\n\nx\n" % (WHO, WHO, b"y" * (1 << 20)),
    "a message of more than is read": b"author %s\ncommitter %s\n\n%s" % (WHO, WHO, b"y" * (COMMIT_BYTES_MAX + 1)),
}


def test_history_is_taken_as_old_tools_wrote_it(remote: Remote, mirror: Mirror, tmp_path: Path) -> None:
    repository = pygit2.Repository(str(remote.bare))
    blob = repository.write(ObjectType.BLOB, b"x\n").raw
    readme = repository.write(ObjectType.TREE, b"100644 README\0" + blob)
    null = bytes(20)
    odd_trees = {
        "zeroPaddedFilemode": b"040000 d\0" + readme.raw,
        "badFilemode": b"100666 a\0" + blob,
        "treeNotSorted": b"100644 z\0" + blob + b"100644 a\0" + blob,
        "duplicateEntries": b"100644 a\0" + blob + b"40000 a\0" + readme.raw,
        "nullSha1": b"160000 a\0" + null,
        "largePathname": b"100644 %s\0" % (b"n" * 5_000) + blob,
    }
    ordinary = b"author %s\ncommitter %s\n\nordinary\n" % (WHO, WHO)
    written = [(kind, repository.write(ObjectType.TREE, raw), ordinary) for kind, raw in odd_trees.items()]
    # Last those that libgit2 does not read: behind them each question costs a process.
    by_libgit2 = sorted(ODD_COMMITS, key=lambda kind: kind.startswith(("missingEmail", "missingAuthor", "multiple")))
    written += [(kind, readme, ODD_COMMITS[kind]) for kind in by_libgit2]
    base = remote.head()
    odd: dict[str, Sha] = {}
    parent = base
    for kind, tree, rest in written:
        raw = b"tree %s\nparent %s\n%s" % (str(tree).encode(), parent.encode(), rest)
        parent = odd[kind] = parse_sha(str(repository.write(ObjectType.COMMIT, raw)))
    new = b"tree %s\nparent %s\n%s" % (str(readme).encode(), parent.encode(), ordinary)
    head = repository.write(ObjectType.COMMIT, new)
    repository.create_reference("refs/heads/main", head, force=True)
    mirror.fetch(branch="main", pulls=[])
    assert getattr(mirror.production_head(), "sha", None) == str(head)
    assert mirror.read_file(parse_sha(str(head)), b"README", bytes_max=10) == b"x\n"
    assert mirror.find_on_production(base).sha == base
    assert mirror.is_reachable_from_production(base)
    assert mirror.changed_paths(odd["missingEmail"]) == ()
    signatures = Signatures(tmp_path / "repo.git", tmp_path)
    for kind, sha in odd.items():
        assert getattr(mirror.head(sha), "sha", None) == sha, kind
        assert (mirror.is_ancestor(base, sha), mirror.is_ancestor(sha, base)) == (True, False), kind
        signed = signatures.verify(sha, now=datetime.now(UTC)).reason
        assert signed == ("SignersMissing" if kind == "half a signature" else "CommitUnsigned"), kind


def test_what_may_lead_out_of_a_tree_is_refused_wherever_it_lies_in_the_history(remote: Remote, mirror: Mirror) -> None:
    repository = pygit2.Repository(str(remote.bare))
    blob = repository.write(ObjectType.BLOB, b"x\n").raw
    folder = repository.write(ObjectType.TREE, b"100644 README\0" + blob).raw
    url = repository.write(ObjectType.BLOB, b'[submodule "a"]\n path = a\n url = -u./evil\n').raw
    trees = [
        b"40000 .\0" + folder,
        b"40000 ..\0" + folder,
        b"40000 .git\0" + folder,
        b"40000 .GIT\0" + folder,
        b"40000 git~1\0" + folder,
        b"100644 a/b\0" + blob,
        b"120000 .gitmodules\0" + blob,
        b"100644 .gitmodules\0" + url,
    ]
    for number, raw in enumerate(trees, 1):
        tree = repository.write(ObjectType.TREE, raw)
        old = remote.commit_raw(tree.raw, b"old", f"refs/heads/old{number}")
        new = b"tree %s\nparent %s\nauthor %s\ncommitter %s\n\nnew\n" % (folder.hex().encode(), old.encode(), WHO, WHO)
        repository.create_reference(f"refs/pull/{number}/head", repository.write(ObjectType.COMMIT, new))
    refused = mirror.fetch(branch="main", pulls=range(1, len(trees) + 1))
    expected = [(number, "ObjectsRefused") for number in range(1, len(trees) + 1)]
    assert [(pull.number, pull.reason) for pull in refused] == expected
    assert getattr(mirror.production_head(), "sha", None) == remote.head()


def test_production_branch_that_is_malformed_or_gone_changes_nothing(remote: Remote, mirror: Mirror) -> None:
    production = remote.head()
    mirror.fetch(branch="main", pulls=[])
    with pytest.raises(Unavailable, match="ProductionBranchMissing"):
        mirror.fetch(branch="gone", pulls=[1])
    repository = pygit2.Repository(str(remote.bare))
    tree = repository.write(ObjectType.TREE, b"40000 ..\0" + repository.write(ObjectType.TREE, b"").raw)
    remote.commit_raw(tree.raw, b"evil", "refs/heads/main")
    with pytest.raises(Failed, match="ObjectsRefused"):
        mirror.fetch(branch="main", pulls=[])
    assert getattr(mirror.production_head(), "sha", None) == production


def test_the_head_of_one_branch_is_asked_for_by_its_full_name_and_nothing_is_fetched(
    remote: Remote, mirror: Mirror
) -> None:
    mirror.fetch(branch="main", pulls=[])
    fetched = mirror.production_head()
    newer = remote.commit("newer")
    for impostor in ("refs/heads/x/refs/heads/main", "refs/heads/main2", "refs/tags/refs/heads/main"):
        remote.push(impostor)
    assert fetched is not None
    assert mirror.ask_head("main", timeout_s=10) == fetched.sha
    git("-C", remote.bare, "update-ref", "refs/heads/main", newer)
    assert mirror.ask_head("main", timeout_s=10) == newer
    assert (mirror.production_head(), mirror.head(newer)) == (fetched, None)
    assert mirror.ask_head("gone", timeout_s=10) is None


def test_a_remote_that_does_not_say_its_head_in_time_is_left(remote: Remote, mirror: Mirror, tmp_path: Path) -> None:
    remote.server.mode = "drip"
    with pytest.raises(Unavailable, match="FetchTimedOut"):
        mirror.ask_head("main", timeout_s=0.7)
    assert processes_of(str(tmp_path / "repo.git")) == []


def test_token_reaches_the_remote_and_nothing_else(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A git of our own before the real one notes the argv and environment that it is started with."""
    remote.server.token = CANARY_TOKEN
    folder = tmp_path / "bin's $HOME"
    folder.mkdir()
    real = subprocess.run(["which", "git"], check=True, capture_output=True, text=True).stdout.strip()
    (folder / "git").write_text(f'#!/bin/sh\n{{ env; printf "%s\\n" "$@"; }} >> "{tmp_path}/seen"\nexec {real} "$@"\n')
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("OROBOROS_UNRELATED_SECRET", "s3cret")
    token_file = folder / "token; touch canary"
    token_file.touch(mode=0o600)
    token_file.write_text(CANARY_TOKEN + "\n")
    mirror = Mirror(tmp_path / "repo.git", remote.server.url, identity=TokenFile(token_file))
    mirror.fetch(branch="main", pulls=[])
    assert mirror.production_head() is not None
    assert mirror.ask_head("main", timeout_s=10) is not None
    seen = (tmp_path / "seen").read_text()
    assert "fetch" in seen
    assert "ls-remote" in seen
    assert CANARY_TOKEN not in seen
    assert "s3cret" not in seen
    found = subprocess.run(["grep", "-rl", CANARY_TOKEN, tmp_path / "repo.git"], capture_output=True, text=True)
    assert found.stdout == ""
    token_file.write_text("ghs_wrong" + CANARY_TOKEN)
    with pytest.raises(Unavailable) as caught:
        mirror.fetch(branch="main", pulls=[])
    assert caught.value.reason == "ForgeRefusedToken"
    assert CANARY_TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ext::sh -c 'touch canary'", "git://127.0.0.1/x", "http://127.0.0.1:1/app.git/info/refs"],
)
def test_redirects_are_not_followed(remote: Remote, mirror: Mirror, tmp_path: Path, location: str) -> None:
    remote.server.mode, remote.server.location = "redirect", location
    with pytest.raises(Unavailable):
        mirror.fetch(branch="main", pulls=[])
    assert len(remote.server.requests) == 1
    assert not (tmp_path / "repo.git/canary").exists()


def test_remote_that_fails_is_at_fault_and_the_mirror_can_be_used_again(remote: Remote, mirror: Mirror) -> None:
    remote.server.mode = "500"
    with pytest.raises(Unavailable, match="ForgeUnreachable"):
        mirror.fetch(branch="main", pulls=[1])
    remote.server.mode = ""
    assert mirror.fetch(branch="main", pulls=[]) == ()


def processes_of(marker: str) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                argv = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in argv:
                found.append(argv.decode(errors="replace"))
    return found


def test_dripping_remote_is_cut_off_with_its_whole_process_group(remote: Remote, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "repo.git", remote.server.url, fetch_timeout_s=0.7)
    remote.server.mode = "drip"
    with pytest.raises(Unavailable, match="FetchTimedOut"):
        mirror.fetch(branch="main", pulls=[])
    assert processes_of(str(tmp_path / "repo.git")) == []
    remote.server.mode = ""
    Mirror(tmp_path / "repo.git", remote.server.url, fetch_timeout_s=30).fetch(branch="main", pulls=[])


def test_endless_pack_ends_at_the_disk_limit_and_leaves_nothing(remote: Remote, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "repo.git", remote.server.url, fetch_timeout_s=30, disk_bytes_max=2_000_000)
    remote.server.mode = "endless"
    with pytest.raises(Unavailable) as caught:
        mirror.fetch(branch="main", pulls=[])
    assert caught.value.reason == "MirrorFull"
    remote.server.mode = ""
    mirror.fetch(branch="main", pulls=[])
    used = sum(path.stat().st_size for path in (tmp_path / "repo.git").rglob("*") if path.is_file())
    assert used < 100_000


def test_leftovers_of_a_killed_git_do_not_stop_the_next_fetch(remote: Remote, mirror: Mirror, tmp_path: Path) -> None:
    mirror.fetch(branch="main", pulls=[])
    (tmp_path / "repo.git/refs/oroboros/production.lock").write_text("")
    (tmp_path / "repo.git/packed-refs.lock").write_text("")
    (tmp_path / "repo.git/objects/pack/tmp_pack_x").write_text("half")
    sha = remote.commit("more")
    remote.push()
    mirror.fetch(branch="main", pulls=[])
    assert getattr(mirror.production_head(), "sha", None) == sha
    assert not (tmp_path / "repo.git/objects/pack/tmp_pack_x").exists()


def test_planted_configuration_is_not_read_by_git_or_libgit2(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[url "file:///nowhere/"]\n\tinsteadOf = http://\n[core]\n\tfsmonitor = touch {tmp_path}/canary\n'
    )
    (home / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    for name, value in {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_DIR": "/nowhere",
        "GIT_TRACE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    mirror = Mirror(tmp_path / "repo.git", remote.server.url)
    mirror.fetch(branch="main", pulls=[])
    assert mirror.production_head() is not None
    assert not (tmp_path / "canary").exists()
    levels = (ConfigLevel.PROGRAMDATA, ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL)
    assert {pygit2.settings.search_path[level] for level in levels} == {""}


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a/b.git",
        "http://169.254.169.254/a",
        "git://127.0.0.1/a",
        "ssh://git@github.com/a/b",
        "ext::sh -c id",
        "file:///tmp/x",
        "/tmp/x",
        "https://user:hunter22@github.com/a/b",
        "https://github.com/a b",
        "https://github.com/a=b",
    ],
)
def test_address_that_we_would_not_ask_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        Mirror(tmp_path / "repo.git", url)
    assert "hunter" not in str(caught.value)


def test_repository_with_sha256_ids_is_refused(remote: Remote, tmp_path: Path) -> None:
    git("init", "-q", "--bare", "-b", "main", "--object-format=sha256", remote.bare.parent / "new.git")
    git("init", "-q", "-b", "main", "--object-format=sha256", tmp_path / "new")
    (tmp_path / "new/a").write_text("a")
    git("-C", tmp_path / "new", "add", "a")
    git("-C", tmp_path / "new", "commit", "-qm", "x")
    git("-C", tmp_path / "new", "push", "-q", remote.bare.parent / "new.git", "main")
    mirror = Mirror(tmp_path / "repo.git", remote.server.url.replace("app.git", "new.git"))
    with pytest.raises(Failed, match="Sha256Repository"):
        mirror.fetch(branch="main", pulls=[])


CHILD = """
import sys
from pathlib import Path
from controller.effects.mirror import Mirror
print("ready", flush=True)
Mirror(Path(sys.argv[1]), sys.argv[2]).fetch(branch="main", pulls=[])
"""


def test_worker_killed_while_fetching_holds_nobody_up_for_ever(remote: Remote, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "repo.git", remote.server.url, fetch_timeout_s=30)
    mirror.ensure()
    remote.server.mode = "drip"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "repo.git"), remote.server.url],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
    )
    until = time.monotonic() + 20
    while not remote.server.requests and time.monotonic() < until:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    # Its git lives on and holds the lock that it inherited; it ends when the remote does.
    remote.server.mode = ""
    remote.server.stopping.set()
    mirror.fetch(branch="main", pulls=[])
    assert mirror.production_head() is not None


def test_every_error_is_one_of_ours(remote: Remote, tmp_path: Path) -> None:
    for url in (remote.server.url.replace("app.git", "no.git"), "http://127.0.0.1:1/app.git"):
        with pytest.raises(OroborosError) as caught:
            Mirror(tmp_path / "repo.git", url).fetch(branch="main", pulls=[])
        assert isinstance(caught.value, Unavailable)
