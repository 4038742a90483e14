"""Is a GitHub App of ours created, believed, and held to what it was granted, with a forge as strict as GitHub?"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from subprocess import PIPE, Popen

import httpx
import pytest
from click.testing import CliRunner, Result

from controller.decisions.github import app as protocol
from controller.decisions.github.identity import PERMISSIONS, jwt_parts
from controller.decisions.github.wire import Object, tell
from controller.doors import cli_github
from controller.doors.cli import main
from controller.effects.github_http import Client, Forge
from controller.effects.github_identity import AppIdentity
from controller.effects.mirror import Mirror
from controller.model.errors import Refused, Unavailable
from controller.model.names import parse_sha
from controller.model.reports import WantedStatus
from controller.model.states import StatusState
from tests.forge.conftest import Receiver, await_true
from tests.forge.our_app import Ours, confirm, set_up
from tests.forge_fixture import REPOSITORY, ForgeUnderTest

CHECKOUT = Path(__file__).resolve().parents[2]


# -- setup ------------------------------------------------------------------------------------------------------------


def test_setup_writes_key_and_secret_for_their_owner_alone_and_prints_neither(
    forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path
) -> None:
    secrets_file = tmp_path / "webhook-secrets"
    secrets_file.write_text("the-secret-of-before\n")
    created = set_up(forge, receiver.url, tmp_path)
    assert created.key_file.read_text().startswith("-----BEGIN RSA PRIVATE KEY-----")
    lines = secrets_file.read_text().splitlines()
    assert lines[0] == "the-secret-of-before"
    assert len(lines[1]) >= 20
    for file in (created.key_file, secrets_file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    told = cli_github.describe(created, is_awaited=False) + repr(created)
    assert lines[1] not in told
    assert "PRIVATE KEY" not in told
    assert created.environment["OROBOROS_GITHUB_APP_ID"] == str(created.app_id)

    with pytest.raises(Refused, match="AlreadyThere"):
        set_up(forge, receiver.url, tmp_path)


def test_on_an_installed_host_the_apps_number_is_added_to_what_the_worker_reads(
    forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path
) -> None:
    worker_file = tmp_path / "worker.env"
    worker_file.write_text("# ours\nOROBOROS_GITHUB_APP_ID=1\nREDIS_URL=redis://127.0.0.1:6379/0\n")
    created = set_up(forge, receiver.url, tmp_path)

    number = f"OROBOROS_GITHUB_APP_ID={created.app_id}"
    assert worker_file.read_text() == f"# ours\nREDIS_URL=redis://127.0.0.1:6379/0\n{number}\n"
    assert stat.S_IMODE(worker_file.stat().st_mode) == 0o600
    assert created.environment == {"OROBOROS_GITHUB_APP_ID": str(created.app_id)}
    assert f"added to {worker_file}" in cli_github.describe(created, is_awaited=False)


def test_a_code_is_good_once_and_not_from_elsewhere(forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path) -> None:
    manifest = protocol.manifest(
        name="x", url="http://x", webhook_url=receiver.url, redirect_url="http://127.0.0.1:1/c"
    )
    register = protocol.registration_url(forge.url, organization="acme", state="s")
    elsewhere = httpx.post(
        register, data={"manifest": json.dumps(manifest)}, headers={"Origin": "https://evil.example"}, trust_env=False
    )
    assert elsewhere.status_code == 403
    answer = httpx.post(register, data={"manifest": json.dumps(manifest)}, trust_env=False)
    location = answer.headers["Location"]
    code = protocol.read_callback(location.removeprefix("http://127.0.0.1:1"), state="s")
    assert code is not None
    assert protocol.read_callback(location, state="another") is None
    with Client(forge.url) as client:
        now = datetime.now(UTC)
        new = protocol.read_new_app(client.ask(protocol.convert_manifest(code)), now=now)
        assert new.app.permissions == PERMISSIONS
        assert new.pem not in repr(new)
        assert new.webhook_secret not in repr(new)
        with pytest.raises(Unavailable, match="AppCodeSpent"):
            protocol.read_new_app(client.ask(protocol.convert_manifest(code)), now=now)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/created?code=abc&state=s", "abc"),
        ("/created?code=abc&state=t", None),
        ("/created?code=abc", None),
        ("/created?code=abc&code=def&state=s", None),
        ("/created?code=a/../b&state=s", None),
        ("/created?code=&state=s", None),
        ("/created?state=s", None),
        ("//[", None),
    ],
)
def test_only_the_answer_to_our_own_question_is_taken(path: str, code: str | None) -> None:
    assert protocol.read_callback(path, state="s") == code


def test_the_page_answers_to_its_own_name_only(forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path) -> None:
    answers: list[int] = []

    def say(text: str) -> None:
        found = re.search(r"http://127\.0\.0\.1:\d+/", text)
        assert found
        url = found[0]

        def visit() -> None:
            answers.append(httpx.get(url, headers={"Host": "evil.example"}, trust_env=False).status_code)
            answers.append(httpx.get(url + "created?code=abc&state=guessed", trust_env=False).status_code)
            answers.append(confirm(url).status_code)

        threading.Thread(target=visit).start()

    wanted = cli_github.SetUp(
        forge_url=forge.url,
        webhook_url=receiver.url,
        name="x",
        homepage="http://x",
        organization="acme",
        folder=tmp_path,
        port=0,
        code=None,
        patience_s=20,
    )
    assert cli_github.set_up(wanted, say=say).name == "x"
    await_true(lambda: len(answers) == 3, lambda: str(answers))
    assert answers == [400, 404, 200]


# -- who we are -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew_s", [-90, -60, 0, 60, 90])
def test_t_g15_a_token_is_had_whatever_our_clock_says(ours: Ours, skew_s: int) -> None:
    ours.clock.by_s = skew_s
    assert ours.identity().token().startswith("ghs_")


def test_t_g15_a_jwt_ends_in_less_than_nine_minutes_and_began_already() -> None:
    now = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
    head, claims = jwt_parts(7, now=now)
    assert head == {"alg": "RS256", "typ": "JWT"}
    begins, ends = int(str(claims["iat"])), int(str(claims["exp"]))
    assert now.timestamp() - begins >= 60
    assert 0 < ends - now.timestamp() <= 540
    # Whether ten minutes are counted from the beginning or from now.
    assert ends - begins <= 600
    assert claims["iss"] == "7"


@pytest.mark.parametrize("skew_s", [-900, -400, 200, 900])
def test_t_g15_the_forge_is_strict_about_clocks(ours: Ours, skew_s: int) -> None:
    ours.clock.by_s = skew_s
    with pytest.raises(Unavailable, match="AppRefused"):
        ours.identity().token()


def test_an_app_that_is_not_known_not_installed_or_suspended_says_so(ours: Ours) -> None:
    with pytest.raises(Unavailable, match="AppRefused"):
        ours.identity(app_id=1).token()
    with pytest.raises(Unavailable, match="AppNotInstalled"):
        ours.identity(repository="acme/other").token()
    ours.install(suspended=True)
    with pytest.raises(Unavailable, match="AppSuspended"):
        ours.identity().token()
    ours.install(installed=False)
    with pytest.raises(Unavailable, match="AppNotInstalled"):
        ours.identity().token()


@pytest.mark.parametrize(
    "content", ["", "no key", "-----BEGIN RSA PRIVATE KEY-----\nMIIcanary\n-----END RSA PRIVATE KEY-----"]
)
def test_a_key_that_is_none_is_told_without_its_content(ours: Ours, content: str) -> None:
    ours.created.key_file.write_text(content)
    with pytest.raises(Unavailable, match="AppKeyUnreadable") as caught:
        ours.identity().token()
    assert "canary" not in str(caught.value)
    ours.created.key_file.chmod(0o644)
    with pytest.raises(Unavailable, match="chmod 600"):
        ours.identity().token()


def test_t_g16_a_token_names_one_repository_and_the_least_permissions(ours: Ours) -> None:
    asked: list[httpx.Request] = []

    class Listening(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            asked.append(request)
            return super().handle_request(request)

    with Client(ours.forge.url, write_pause_s=0, transport=Listening()) as client:
        identity = AppIdentity(
            app_id=ours.created.app_id,
            key_file=ours.created.key_file,
            repository=REPOSITORY,
            ask=client.ask,
            clock=ours.clock,
        )
        assert identity.token() == identity.token()
    (mint,) = [json.loads(request.content) for request in asked if request.method == "POST"]
    assert mint == {"repositories": ["shop"], "permissions": dict(PERMISSIONS)}
    assert PERMISSIONS["contents"] == "read"
    assert "administration" not in PERMISSIONS


def test_t_g16_an_installation_that_grants_less_is_told(ours: Ours) -> None:
    ours.install(permissions={"contents": "read"})
    with pytest.raises(Unavailable, match="AppLacksPermissions"):
        ours.identity().token()


def test_t_g16_a_token_that_is_taken_back_is_had_anew_once(ours: Ours) -> None:
    forge = Forge(ours.client, REPOSITORY, ours.identity())
    assert forge.open_pulls() == ()
    ours.install(revoke=True)
    assert forge.open_pulls() == ()
    ours.forge.knob("fail", status=401, count=2, path="/repos")
    with pytest.raises(Unavailable, match="ForgeRefused"):
        forge.open_pulls()
    assert forge.open_pulls() == ()


def test_t_g16_a_token_is_had_anew_before_it_ends(ours: Ours) -> None:
    identity = ours.identity()
    first = identity.token()
    ours.clock.by_s = 3_000
    ours.forge.knob("clock", ahead=3_000)
    assert identity.token() == first
    ours.clock.by_s = 3_400
    ours.forge.knob("clock", ahead=3_400)
    second = identity.token()
    assert second != first
    assert Forge(ours.client, REPOSITORY, identity).open_pulls() == ()


def test_t_g16_a_token_may_what_was_granted_and_no_more(ours: Ours, receiver: Receiver) -> None:
    clone = ours.forge.clone()
    clone.commit("Begin")
    clone.push()
    clone.commit("Change", page="one")
    clone.push("topic")
    ours.forge.open_pull("topic")
    token = ours.identity().token()
    api = f"{ours.forge.url}/api/v3/repos/{REPOSITORY}"
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=api, headers=headers, trust_env=False) as client:
        assert client.get(api).status_code == 200
        assert client.get("/pulls").status_code == 200
        refused = client.put("/pulls/1/merge", json={})
        assert refused.status_code == 403
        assert refused.headers["x-accepted-github-permissions"] == "contents=write"
        assert client.get("/hooks/1/deliveries").status_code == 403
    url = ours.forge.url.replace("//", f"//x:{token}@")
    clone.git("push", "-q", f"{url}/{REPOSITORY}.git", "HEAD:refs/heads/pushed", fails=True)


# -- git and webhooks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chars", [520, 2_000])
def test_t_g17_client_and_git_work_with_long_tokens_and_with_a_new_one_when_it_is_refused(
    ours: Ours, receiver: Receiver, tmp_path: Path, chars: int
) -> None:
    ours.install(token_chars=chars)
    clone = ours.forge.clone()
    first = clone.commit("Begin")
    clone.push()
    identity = ours.identity()
    token = identity.token()
    assert (len(token), token.count(".")) == (chars, 2)
    forge = Forge(ours.client, REPOSITORY, identity)
    assert forge.repository().full_name == REPOSITORY
    forge.post_status(
        WantedStatus(
            sha=parse_sha(first),
            context="oroboros/production",
            state=StatusState.SUCCESS,
            description="live",
            target_url=None,
            generation=1,
        )
    )
    mirror = Mirror(tmp_path / "repo.git", f"{ours.forge.url}/{REPOSITORY}.git", identity=identity)
    mirror.fetch(branch="main", pulls=[])
    assert getattr(mirror.production_head(), "sha", None) == first
    second = clone.commit("Go on")
    clone.push()
    ours.install(revoke=True)
    mirror.fetch(branch="main", pulls=[])
    assert getattr(mirror.production_head(), "sha", None) == second
    renewed = identity.token()
    assert renewed != token
    ours.install(suspended=True)
    for ask in (lambda: mirror.fetch(branch="main", pulls=[]), lambda: mirror.ask_head("main", timeout_s=10)):
        with pytest.raises(Unavailable) as caught:
            ask()
        assert not any(part in f"{caught.value} {caught.value.__cause__}" for part in renewed.split("."))


def test_an_installed_app_hears_what_it_subscribed_to_signed_with_its_own_secret(
    ours: Ours, receiver: Receiver
) -> None:
    clone = ours.forge.clone()
    clone.commit("Begin")
    clone.push()
    (delivery,) = receiver.await_count(1)
    assert not delivery.is_signed()  # not with the repository's secret
    assert delivery.headers["x-github-hook-installation-target-type"] == "integration"
    assert delivery.payload["installation"]["id"] > 0
    page = protocol.read_deliveries_page(
        ours.identity().ask(protocol.list_deliveries(cursor=None)), now=datetime.now(UTC)
    )
    assert [one.event for one in page.deliveries] == ["push"]


# -- a rename ---------------------------------------------------------------------------------------------------------


def test_t_g13_a_renamed_repository_is_found_again_by_api_and_git(
    ours: Ours, receiver: Receiver, tmp_path: Path
) -> None:
    clone = ours.forge.clone()
    sha = clone.commit("Begin")
    clone.push()
    forge = Forge(ours.client, REPOSITORY, ours.identity())
    before = forge.repository()
    ours.forge.knob("rename", repository="acme/store")
    assert forge.open_pulls() == ()
    assert forge.is_moved
    with pytest.raises(Unavailable, match="RedirectRefused"):
        Mirror(tmp_path / "repo.git", forge.git_url, identity=ours.identity()).fetch(branch="main", pulls=[])
    after = forge.repository()
    assert (after.id, after.full_name) == (before.id, "acme/store")
    # A new process that was not told of the new name has its token by the id.
    mirror = Mirror(tmp_path / "repo.git", forge.git_url, identity=ours.identity())
    mirror.fetch(branch="main", pulls=[])
    assert getattr(mirror.production_head(), "sha", None) == sha
    ours.forge.part.kill()
    ours.forge.part.start()
    assert not forge.is_moved
    assert forge.repository().full_name == "acme/store"


# -- check ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def check(ours: Ours, receiver: Receiver) -> Callable[..., Result]:
    """Run `oroboros github check`, as in a shell."""
    environment = {
        **ours.created.environment,
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "OROBOROS_FORGE_URL": ours.forge.url,
        "OROBOROS_REPOSITORY": REPOSITORY,
        "OROBOROS_ROOT": str(ours.folder / "root"),
    }

    def run(*words: str) -> Result:
        return CliRunner(env=environment).invoke(main, ["github", "check", "--json", *words])

    return run


def outcomes(result: Result) -> dict[str, str]:
    return {one["name"]: one["outcome"] for one in json.loads(result.stdout)["checks"]}


def test_check_finds_all_well(check: Callable[..., Result], ours: Ours, receiver: Receiver) -> None:
    assert outcomes(check())["deliveries"] == "note"
    clone = ours.forge.clone()
    clone.commit("Begin")
    clone.push()
    receiver.await_count(1)
    await_true(lambda: outcomes(check())["deliveries"] == "ok", lambda: "a recorded delivery")
    result = check("--webhook-url", receiver.url)
    assert set(outcomes(result).values()) == {"ok"}
    assert result.exit_code == 0
    assert "ghs_" not in result.output
    assert "PRIVATE KEY" not in result.output


def test_check_names_what_is_wrong_and_how_to_mend_it(
    check: Callable[..., Result], ours: Ours, receiver: Receiver
) -> None:
    ours.install(permissions={"contents": "read", "statuses": "read"})
    changed: Object = {"url": "http://shop.example/hook", "secret": "", "insecure_ssl": "1"}
    patched = ours.identity().ask(tell("PATCH", "/app/hook/config", changed))
    assert patched.status == 200
    result = check()
    found = {one["name"]: one for one in json.loads(result.stdout)["checks"] if one["outcome"] == "failed"}
    assert set(found) == {"installation", "token", "webhook", "webhook content", "webhook secret"}
    assert "statuses: write" in found["installation"]["found"]
    assert "contents: read" not in found["installation"]["found"]
    assert all(one["remedy"] for one in found.values())
    assert result.exit_code == 1


def test_check_tells_a_secret_that_the_receiver_does_not_know(
    check: Callable[..., Result], ours: Ours, receiver: Receiver
) -> None:
    receiver.answer = 401
    clone = ours.forge.clone()
    clone.commit("Begin")
    clone.push()
    receiver.await_count(1)
    await_true(lambda: outcomes(check())["deliveries"] == "failed", lambda: "a recorded delivery")
    assert "OROBOROS_WEBHOOK_SECRETS_FILE" in check().stdout


@contextmanager
def setup_command(forge: ForgeUnderTest, receiver: Receiver, folder: Path, *more: str) -> Iterator[Popen[str]]:
    """Run the setup in a process of its own, until the App is created; the page is announced on stderr."""
    words = ("github", "setup", "--json", "--webhook-url", receiver.url, "--forge-url", forge.url, *more)
    with Popen(
        [sys.executable, "-m", "controller.doors.cli", *words, "--folder", str(folder)],
        stdout=PIPE,
        stderr=PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT)},
    ) as process:
        assert process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())
        assert found
        assert confirm(found[0]).status_code == 200
        assert "created the App" in process.stderr.readline()
        yield process


def test_setup_is_a_command(forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path) -> None:
    with setup_command(forge, receiver, tmp_path) as process:
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    view = json.loads(output)
    assert view["install_url"].endswith("/installations/new")
    assert Path(view["key_file"]).parent == tmp_path
    assert view["checks"] is None
    assert "PRIVATE KEY" not in output + errors


def test_setup_waits_until_the_app_is_installed_and_checks_it(
    forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path
) -> None:
    with setup_command(forge, receiver, tmp_path, "--repository", REPOSITORY) as process:
        assert process.stderr is not None
        while "waiting until it is installed for acme/shop" not in process.stderr.readline():
            assert process.poll() is None
        forge.knob("install")
        output, errors = process.communicate(timeout=20)
    found = {one["name"]: one["outcome"] for one in json.loads(output)["checks"]}
    assert process.returncode == 0, errors
    assert found == dict.fromkeys(
        ("App", "permissions", "events", "installation", "token", "webhook", "webhook content", "webhook secret"), "ok"
    )
    assert "ghs_" not in output + errors


def test_setup_of_an_app_that_nobody_installs_ends_and_says_so(
    forge: ForgeUnderTest, receiver: Receiver, tmp_path: Path
) -> None:
    with setup_command(forge, receiver, tmp_path, "--repository", REPOSITORY, "--wait", "1") as process:
        output, errors = process.communicate(timeout=20)
    found = {one["name"]: one["found"] for one in json.loads(output)["checks"] if one["outcome"] == "failed"}
    assert process.returncode == 1, errors
    assert "AppNotInstalled" in found["installation"]
