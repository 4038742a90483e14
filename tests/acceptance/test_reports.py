"""What does a team see at the forge? A whole stack as a GitHub App: checks, deployments and the one comment."""

from __future__ import annotations

import base64
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.decisions.github.comments import MARKER
from controller.development.forge_app import APP_ID
from tests.acceptance.conftest import WINDOW_S, World, bring_down, bring_up, logs_of, remove_stack
from tests.acceptance.test_app import knob, open_as, set_up
from tests.conftest import claim_port_offset

FAILING_BUILD = """
[build]
command = "python3 -c \\"print('```'); print('token ghs_' + 'a' * 36); raise SystemExit('no such module')\\""
[api]
command = "python3 -u app.py"
"""


ACCEPTING_FORKS = """
[api]
command = "python3 -u app.py"
[gate]
window_s = 1
[permissions]
accept_fork_risk = true
"""


@dataclass
class Shown:
    """A stack that is a GitHub App, and what its forge shows."""

    world: World
    api: httpx.Client

    def get(self, path: str) -> Any:
        answer = self.api.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def check(self, sha: str, name: str = "oroboros/production") -> Any:
        found = self.get(f"/commits/{sha}/check-runs?check_name={name}&filter=all")
        assert found["total_count"] <= 1, "a commit has one check run in a context"
        return found["check_runs"][0] if found["check_runs"] else None

    def deployments(self, sha: str, environment: str = "production") -> list[str]:
        """Return how the deployments of a commit stand, the newest first."""
        made = self.get(f"/deployments?sha={sha}&environment={environment}")
        stood = [self.get(f"/deployments/{one['id']}/statuses") for one in made]
        # A deployment is there a moment before its first status.
        return [statuses[0]["state"] if statuses else "" for statuses in stood]

    def comments(self, number: int) -> list[str]:
        return [str(one["body"]) for one in self.get(f"/issues/{number}/comments")]

    def await_check(
        self, sha: str, conclusion: str, name: str = "oroboros/production", *, title: str | None = None
    ) -> Any:
        def is_there() -> bool:
            found = self.check(sha, name)
            is_said = found is not None and title in (None, found["output"]["title"])
            return is_said and found["conclusion"] == conclusion

        self.world.author.wait(is_there, lambda: f"check {name} {conclusion}, it is {self.check(sha, name)}")
        return self.check(sha, name)

    def await_deployments(self, sha: str, states: list[str], environment: str = "production") -> None:
        self.world.author.wait(
            lambda: self.deployments(sha, environment) == states,
            lambda: f"deployments {states}, they are {self.deployments(sha, environment)}",
        )

    def await_comment(self, number: int, words: str) -> str:
        def is_there() -> bool:
            return any(words in body for body in self.comments(number))

        self.world.author.wait(is_there, lambda: f"a comment with {words!r}, there is {self.comments(number)}")
        (body,) = self.comments(number)
        return body


@pytest.fixture(scope="module")
def shown() -> Iterator[Shown]:
    """The setup is of the running stack; the App is who it is from its next start on."""
    root = Path(tempfile.mkdtemp(prefix="oro-acc-"))
    with claim_port_offset() as offset:
        process = bring_up(root, port_offset=offset)
        try:
            world = open_as(root, process)
            values = set_up(world, api_port=8000 + offset)
            # The longest tokens that are promised to work; the stack of test_app.py has those of today.
            knob(world, "install", token_chars=2_000)
            world.author.close()
            bring_down(process)
            process = bring_up(root, port_offset=offset, environment={**os.environ, **values})
            world = open_as(root, process)
            first = world.release("ok", "The first release")
            world.author.push()
            world.await_serving(first)
            yield Shown(world=world, api=world.author.forge)
            world.author.close()
            for name, text in logs_of(root).items():
                assert f"ghs_{APP_ID}_" not in text, name
        finally:
            bring_down(process)
            remove_stack(root)


def push(shown: Shown, behaviour: str = "ok", *, toml: str = "", window_s: float = 1.0) -> str:
    """Push another commit of the production branch."""
    world = shown.world
    world.author.git("checkout", "-q", "main")
    sha = world.release(behaviour, f"Release {time.monotonic_ns()}", window_s=window_s)
    if toml:
        (world.author.clone / "deploy.toml").write_text(toml)
        sha = world.author.commit("Another deploy.toml")
    world.author.push()
    return sha


def push_branch(shown: Shown, name: str, behaviour: str = "ok") -> str:
    world = shown.world
    world.author.git("checkout", "-q", "-B", name, "main")
    sha = world.release(behaviour, f"Work on {name} {time.monotonic_ns()}")
    world.author.git("push", "-q", "-f", "origin", f"HEAD:refs/heads/{name}")
    world.author.git("checkout", "-q", "main")
    return sha


def test_status_check_and_deployment_of_what_serves_agree(shown: Shown) -> None:
    before = shown.world.serves()
    sha = push(shown)
    said = shown.world.author.await_status(sha, "success", says="live since")
    check = shown.await_check(sha, "success", title=said)
    assert (check["external_id"], check["status"]) == (str(run_of(shown, sha)), "completed")
    summary = check["output"]["summary"]
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `(.+?)` \| .+? \| (.*?) \| (.*?) \|$", summary, re.MULTILINE)}
    assert {rows[step][1] for step in ("checkout", "start", "switched")} == {"done"}
    assert all(rows[step][0].endswith(" s") and rows[step][1] == "passed" for step in ("gate", "window")), rows
    for words in ("### Steps", "switched", "### Verdicts", "it is the newest commit"):
        assert words in check["output"]["summary"]
    shown.await_deployments(sha, ["success"])
    shown.await_deployments(before, ["inactive"])
    (made,) = shown.get(f"/deployments?sha={sha}&environment=production")
    assert (made["production_environment"], made["transient_environment"]) == (True, False)


def run_of(shown: Shown, sha: str) -> object:
    ((generation,),) = shown.world.rows("SELECT generation FROM runs WHERE sha = %s", sha)
    return generation


LEAKING = """
[build]
command = "python3 -u leak.py"
[api]
command = "python3 -u app.py"
"""
LEAK = """
import base64, json, os, urllib.parse
for key in ("STRIPE_KEY", "PASSPHRASE", "SENTRY"):
    value = os.environ[key]
    print(value, json.dumps(value), urllib.parse.quote(value), value[:15])
    print(base64.b64encode(f"me:{value}".encode()).decode())
print("DB_PASSWORD=hunter2hunter2 in", os.environ["MODE"], "at https://t0ken-w1thout-name@git.example.org/x")
raise ValueError("bad key " + os.environ["STRIPE_KEY"] + " DB_TOKEN=hunter2hunter2")
"""
VALUES = {
    "STRIPE_KEY": "sk/9f8Zq'2LmX7v",
    "PASSPHRASE": "correct horse battery",
    "SENTRY": "https://9f8Zq2LmX7v@o1.io/1",
}


def test_what_an_app_prints_of_its_values_leaves_the_host_by_no_way(shown: Shown) -> None:
    world = shown.world
    values = "".join(f"{key}={value}\n" for key, value in {**VALUES, "MODE": "production"}.items())
    for slot in ("preview-1", "preview-2", "preview-3"):
        (world.root / "etc" / f"app-{slot}.env").write_text(values)
    world.author.git("checkout", "-q", "-B", "leaks", "main")
    world.release("ok", f"Leaks {time.monotonic_ns()}")
    (world.author.clone / "leak.py").write_text(LEAK)
    (world.author.clone / "deploy.toml").write_text(LEAKING)
    sha = world.author.commit("Leak")
    world.author.git("push", "-q", "-f", "origin", "HEAD:refs/heads/leaks")
    world.author.git("checkout", "-q", "main")
    number = world.author.open_pull("leaks", "Leaks")
    page = str(shown.await_check(sha, "failure", "oroboros/preview"))
    world.author.await_status(
        sha, "failure", slot="preview-1", says="exited with 1: ValueError: bad key [secret] DB_TOKEN="
    )
    run = str(run_of(shown, sha))
    token = Path(str(world.stack["operator_token_file"])).read_text().strip()
    api = httpx.Client(base_url=str(world.stack["api"]), headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    ways = {
        "status": str(shown.get(f"/commits/{sha}/statuses")),
        "check": page,
        "comment": shown.await_comment(number, "failed"),
        "deployments": str(shown.get(f"/deployments?sha={sha}")),
        "run": api.get(f"/api/runs/{run}").text,
        "slots": api.get("/api/status").text,
        "logs": world.command("logs", "--run", run).stdout,
        "as JSON": world.command("logs", "--run", run, "--json").stdout,
        "state": world.command("status").stdout,
        "log": "".join(file.read_text() for file in (world.root / "artifacts" / "runs" / run).iterdir()),
    }
    api.close()
    world.author.close_pull(number)
    for way in ("status", "check", "run", "logs", "as JSON", "log"):
        assert "bad key [secret]" in ways[way], way
    assert "in production at" in ways["logs"]
    told = [value for value in VALUES.values() if "://" not in value] + ["9f8Zq", "horse", "sk/9f", "sk%2F9f"]
    told += [base64.b64encode(f"me:{value}".encode()).decode()[4:16] for value in VALUES.values() if "://" not in value]
    for way, text in ways.items():
        # What has only a form is masked where a log is read.
        for secret in told if way == "log" else [*told, "hunter2", "t0ken"]:
            assert secret not in text, (way, secret)


def test_a_failed_build_shows_the_end_of_its_log_without_its_secrets(shown: Shown) -> None:
    serving = shown.world.serves()
    sha = push(shown, toml=FAILING_BUILD)
    page = shown.await_check(sha, "failure")["output"]["summary"]
    assert "lines of `build-main`" in page
    assert "no such module" in page
    assert re.search(r"\| `build` \| [0-9:]{8} UTC \| [0-9.]+ s \| `exited with 1` \|", page)
    # A fence that the log cannot close, and nothing of the token.
    assert "\n````text\n" in page
    assert "\n```\n" in page
    assert "ghs_aaaa" not in page
    assert "[secret]" in page
    shown.await_deployments(sha, ["failure"])
    assert shown.world.serves() == serving


def test_an_invalid_deploy_toml_is_annotated_at_its_line(shown: Shown) -> None:
    sha = push(shown, toml='[api]\ncommand = "python3 app.py"\n\n[gate]\nwindow = 3\n')
    check = shown.await_check(sha, "failure")
    shown.world.author.wait(
        lambda: shown.check(sha)["output"]["annotations_count"] == 1,
        lambda: f"one annotation: {shown.check(sha)['output']}",
    )
    (found,) = shown.get(f"/check-runs/{check['id']}/annotations")
    assert (found["path"], found["start_line"], found["annotation_level"]) == ("deploy.toml", 5, "failure")
    assert "gate.window" in found["message"]


def test_a_rollback_is_a_failure_that_names_what_is_live(shown: Shown) -> None:
    good = push(shown)
    shown.await_check(good, "success")
    shown.world.author.await_status(good, "success", says="live since")
    bad = push(shown, "turns-bad", window_s=WINDOW_S)
    shown.world.turn(bad)
    said = shown.world.author.await_status(bad, "failure", says=f"rolled back to {good[:7]}")
    shown.await_check(bad, "failure", title=said)
    shown.await_deployments(bad, ["failure"])
    shown.world.author.wait(
        lambda: "success" in shown.deployments(good), lambda: f"{good} is to be live: {shown.deployments(good)}"
    )


def test_a_pull_request_has_one_comment_that_is_edited_and_ends(shown: Shown) -> None:
    """It is found again by a worker that died before it knew that it had written it."""
    push(shown)
    sha = push_branch(shown, "topic")
    number = shown.world.author.open_pull("topic", "A topic of @everybody")
    body = shown.await_comment(number, "The preview is live.")
    assert shown.world.author.urls["preview-1"] in body
    assert f"`{sha[:7]}`" in body
    assert "kept until" in body
    shown.await_check(sha, "success", "oroboros/preview")
    shown.await_deployments(sha, ["success"], "preview-1")

    path = shown.world.arm("report.before_ack", times=2)
    second = push_branch(shown, "topic")
    body = shown.await_comment(number, f"`{second[:7]}`")
    shown.world.author.wait(lambda: not path.exists(), lambda: "the worker is to have died twice")
    shown.await_deployments(second, ["success"], "preview-1")
    shown.await_deployments(sha, ["inactive"], "preview-1")
    shown.await_comment(number, "The preview is live.")

    shown.world.author.close_pull(number)
    shown.await_comment(number, "the pull request is closed")
    shown.await_deployments(second, ["inactive"], "preview-1")
    (made,) = shown.get(f"/deployments?sha={second}&environment=preview-1")
    assert (made["production_environment"], made["transient_environment"]) == (False, True)


def test_somebody_elses_comment_with_our_marker_stays_as_it_is(shown: Shown) -> None:
    push_branch(shown, "other")
    number = shown.world.author.open_pull("other", "Another")
    theirs = f"{MARKER}\nI was here first."
    answer = shown.api.post(f"/issues/{number}/comments", json={"body": theirs})
    assert answer.status_code == 201
    shown.world.author.wait(
        lambda: any("The preview is live." in body for body in shown.comments(number)),
        lambda: f"our comment: {shown.comments(number)}",
    )
    bodies = shown.comments(number)
    assert len(bodies) == 2
    assert theirs in bodies
    shown.world.author.close_pull(number)


def test_a_fork_is_told_how_to_ask_for_a_preview(shown: Shown) -> None:
    shown.await_check(push(shown, toml=ACCEPTING_FORKS), "success")
    sha = push_branch(shown, "from-fork")
    opened = shown.world.author.forge_development.post(
        "/_development/fork_pull", json={"title": "From a fork", "head_sha_branch": "from-fork"}
    ).json()
    body = shown.await_comment(int(opened["number"]), "waits for approval")
    assert f"`/preview {sha}`" in body
    shown.await_check(sha, "action_required", "oroboros/preview")
    assert shown.deployments(sha, "preview-1") == []


def test_nothing_is_left_open_and_every_status_equals_the_store(shown: Shown) -> None:
    def is_calm() -> bool:
        # A run that goes on may say more at any moment.
        return (
            shown.world.rows("SELECT 1 FROM runs WHERE ended_at IS NULL") == []
            and shown.world.rows("SELECT 1 FROM reports WHERE sent_generation < generation") == []
            and unlike() == []
        )

    def unlike() -> list[tuple[object, object]]:
        different: list[tuple[object, object]] = []
        for sha, context, state, description in shown.world.rows(
            "SELECT wanted->>'sha', wanted->>'context', wanted->>'state', wanted->>'description' FROM reports"
            " WHERE surface = 'status'"
        ):
            (newest, *_) = [one for one in shown.get(f"/commits/{sha}/statuses") if one["context"] == context]
            title = shown.check(str(sha), str(context))["output"]["title"]
            seen = (newest["state"], newest["description"], title)
            if seen != (state, description, description):
                different.append(((sha, state, description), seen))
        return different

    pending = "SELECT surface, key, error FROM reports WHERE sent_generation < generation"
    shown.world.author.wait(is_calm, lambda: f"calm: {shown.world.rows(pending)}, told and shown differ: {unlike()}")
