"""What does an installation change, in which order, and what does it leave alone?

    PYTHONPATH=. python tests/unit/decisions/test_installation.py

writes the tracked env files of api and worker anew after a change of the rendering.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from controller.decisions.host_environment import PLACEHOLDERS, Passwords, render_environment_files
from controller.decisions.host_units import UNITS, enabled_units
from controller.decisions.installation import (
    API_RIGHTS,
    BEFORE_FILE,
    BEGIN,
    COMMAND,
    COMPLETIONS,
    END,
    MAN_PAGE,
    REDIS_FILE,
    Before,
    FileFact,
    HostFacts,
    InstallCaddy,
    InstallCode,
    MakeFolder,
    MakeUser,
    Migrate,
    PostgresFact,
    RedisFact,
    RemoveFile,
    RemoveUser,
    RestartSurface,
    RunSql,
    RunSqlAsWorker,
    SetBlock,
    Systemctl,
    Wanted,
    WriteFile,
    databases_to_close,
    fresh_postgres,
    hba_lines,
    ident_lines,
    missing_parts,
    note_before,
    parse_before,
    plan_installation,
    plan_purge,
    plan_removal,
    private_resolvers,
    redis_strangers,
    redis_text,
    render_before,
    surface_file,
    too_old,
    unseen,
    wanted_files,
    wanted_folders,
    wanted_users,
    warnings_of,
    with_block,
    with_policy,
)
from controller.decisions.surfaces import surface_of_host
from controller.model.config import Edge, Policy, Previews, Production
from controller.model.errors import ConfigInvalid
from controller.model.host_files import HostFile
from controller.model.names import CONTRACT, HOST_CONFIG, HOST_LAYOUT, Ports, Topology, database_name
from controller.model.options import Options
from controller.model.profiles import Walls

CHECKOUT = Path(__file__).resolve().parents[3]
PASSWORDS = Passwords(api="api-word", worker="worker-word", redis="redis-word")
WANTED = Wanted(
    topology=CONTRACT,
    passwords=PASSWORDS,
    host="h",
    webhook_secret="drawn",
    operator_token="drawn",
    app="a1",
    caddy="c1",
    shell_files=(HostFile(path=MAN_PAGE, text=".TH"), *(HostFile(path=path, text="") for path in COMPLETIONS.values())),
)
HBA, IDENT, REDIS = Path("/pg/hba"), Path("/pg/ident"), Path("/etc/redis/redis.conf")
TRACKED = {
    CHECKOUT / "infra" / "systemd" / "env" / file.path.name: file.text
    for file in render_environment_files(CONTRACT, PLACEHOLDERS, host="host-1")
}


def as_file(text: str, *, mode: int = 0o644, owner: str = "root", group: str = "root") -> FileFact:
    return FileFact(text=text, mode=mode, owner=owner, group=group)


def installed() -> HostFacts:
    """A host on which everything is as it is wanted."""
    files = {f.path: as_file(f.text, mode=f.mode, owner=f.owner, group=f.group) for f in wanted_files(WANTED)}
    digest = hashlib.sha256(PASSWORDS.redis.encode()).hexdigest()
    files[REDIS_FILE] = as_file(redis_text(PASSWORDS, digest=digest), mode=0o640, group="redis")
    files |= {surface_file(slot): as_file(surface_of_host(CONTRACT, slot), mode=0o600) for slot in CONTRACT.slots}
    files[REDIS] = as_file(with_block("port 6379\n", (f"include {REDIS_FILE}",), first=False))
    files[HBA] = as_file(with_block("local all all peer\n", hba_lines(CONTRACT), first=True))
    files[IDENT] = as_file(with_block("", ident_lines(CONTRACT), first=True))
    roles = frozenset(database_name(slot) for slot in CONTRACT.slots)
    return HostFacts(
        users={name: frozenset(groups) for name, groups in wanted_users(CONTRACT).items()},
        folders={folder.path: folder for folder in wanted_folders(CONTRACT)},
        files=files,
        units=frozenset(path for path in files if UNITS in path.parents),
        enabled=frozenset(enabled_units(CONTRACT)),
        active=frozenset(unit for unit in enabled_units(CONTRACT) if "instance@" not in unit),
        app="a1",
        caddy="c1",
        postgres=PostgresFact(
            hba_file=HBA,
            ident_file=IDENT,
            roles=roles | {"oroboros_api", "oroboros_worker"},
            odd_roles=frozenset(),
            worker_is=roles,
            databases=frozenset({"builder_control"}),
            open_to_all=frozenset(),
            passwords_work=frozenset({"oroboros_api", "oroboros_worker"}),
        ),
        redis=RedisFact(works=True),
        versions={"systemd": (252,), "polkit": (122,), "postgresql": (15, 4), "redis": (7, 0), "git": (2, 39)},
        has_repository=True,
    )


def fresh() -> HostFacts:
    """A Debian with Postgres and Redis, and nothing of ours."""
    full = installed()
    assert full.postgres is not None
    nothing = frozenset[str]()
    return HostFacts(
        files={HBA: as_file("local all all peer\n"), IDENT: as_file(""), REDIS: as_file("port 6379\n")},
        postgres=replace(
            full.postgres,
            roles=nothing,
            worker_is=nothing,
            databases=nothing,
            open_to_all=frozenset({"postgres"}),
            passwords_work=nothing,
        ),
        versions=full.versions,
    )


@pytest.mark.parametrize("path", TRACKED, ids=lambda path: str(path.name))
def test_a_tracked_env_file_is_what_is_rendered(path: Path) -> None:
    assert path.read_text() == TRACKED[path], f"run: PYTHONPATH=. python {Path(__file__).relative_to(CHECKOUT)}"


def test_nothing_is_changed_on_a_host_that_is_as_it_is_wanted() -> None:
    assert plan_installation(installed(), WANTED) == ()


@pytest.mark.parametrize(
    ("databases", "roles", "option", "wanted"),
    [
        (set(), set(), None, ["builder_control", "postgres", "template1"]),
        ({"invoices"}, set(), None, ["builder_control"]),
        (set(), {"billing"}, None, ["builder_control"]),
        ({"app_main"}, {"app_main", "pg_monitor", "oroboros_api"}, None, ["builder_control", "postgres", "template1"]),
        ({"invoices"}, {"billing"}, True, ["builder_control", "invoices", "postgres", "template1"]),
        ({"invoices"}, {"billing"}, False, ["builder_control"]),
    ],
)
def test_databases_of_others_stay_open_unless_an_option_closes_them(
    databases: set[str], roles: set[str], option: bool | None, wanted: list[str]
) -> None:
    found = installed().postgres
    assert found is not None
    of_server = frozenset({"postgres", "template1"})
    opened = of_server | {name for name in databases if name != "app_main"}
    found = replace(found, databases=of_server | databases, open_to_all=opened, roles=frozenset({"postgres"}) | roles)
    topology = replace(CONTRACT, said=Options(close_databases=option))
    assert databases_to_close(found, topology) == wanted
    warned = warnings_of(replace(installed(), postgres=found), replace(WANTED, topology=topology))
    assert bool(warned) is bool(option)


def test_our_roles_are_kept_out_of_every_other_database_those_of_gone_slots_too() -> None:
    lines = hba_lines(Topology(previews=1), ["preview_1", "preview_7", "billing"])
    ours = "app_main,preview_1,preview_7,oroboros_api,oroboros_worker"
    assert lines[-2:] == (f"local all {ours} reject", f"host all {ours} all reject")


def test_the_contracts_password_is_set_where_it_was_asked_for_and_taken_back() -> None:
    asked = replace(CONTRACT, contract_database=True)
    found = installed().postgres
    assert found is not None
    sets = [str(one) for one in plan_installation(installed(), replace(WANTED, topology=asked))]
    assert "give postgres, the administrator, the password that everybody can read in the host contract" in sets
    block = with_block("", hba_lines(asked, found.roles), first=True)
    with_it = replace(
        installed(),
        files={**installed().files, HBA: as_file(block)},
        postgres=replace(found, passwords_work=found.passwords_work | {"postgres"}),
    )
    assert "take the host contract's password from postgres" in [str(one) for one in plan_installation(with_it, WANTED)]


def test_a_fresh_host_gets_users_before_folders_before_files_before_units_run() -> None:
    changes = plan_installation(fresh(), WANTED)
    kinds = [type(change).__name__ for change in changes]

    written = [change.file.path for change in changes if isinstance(change, WriteFile)]
    # The topology before the code: who is cut short wants the same the next time.
    assert written[:2] == [BEFORE_FILE, HOST_LAYOUT.topology]
    for _ in range(2):
        kinds.remove("WriteFile")
    assert kinds.index("MakeUser") < kinds.index("MakeFolder") < kinds.index("InstallCode") < kinds.index("WriteFile")
    assert kinds[-1] == "Systemctl"
    assert {change.name for change in changes if isinstance(change, MakeUser)} == set(wanted_users(CONTRACT))
    assert [change.folder for change in changes if isinstance(change, MakeFolder)] == list(wanted_folders(CONTRACT))


def test_no_sentence_tells_a_password() -> None:
    told = " ".join(str(change) for change in plan_installation(fresh(), WANTED))

    for word in ("api-word", "worker-word", "redis-word", "drawn"):
        assert word not in told


def test_a_secret_that_is_there_is_kept_and_a_mode_that_is_wrong_is_put_right() -> None:
    path = HOST_CONFIG / "webhook-secrets"
    facts = installed()
    mine = replace(facts, files={**facts.files, path: as_file("older\n", mode=0o644)})

    (change,) = [c for c in plan_installation(mine, WANTED) if isinstance(c, WriteFile)]

    assert (change.file.path, change.file.text, change.file.mode) == (path, "older\n", 0o600)


def test_what_an_operator_added_to_an_env_file_stays_and_what_is_ours_is_ours() -> None:
    path = HOST_CONFIG / "worker.env"
    facts = installed()
    text = facts.files[path].text
    assert text is not None
    ours = text.replace("WORKER_POLL_INTERVAL_SECONDS=5\n", "")
    added = "# through our proxy\nOROBOROS_GITHUB_APP_ID=7\nWORKER_POLL_INTERVAL_SECONDS=9\n"
    mine = replace(facts, files={**facts.files, path: as_file(ours + added, mode=0o600)})

    assert plan_installation(mine, WANTED) == ()

    wrong = ours.replace("OROBOROS_RUNTIME=systemd", "OROBOROS_RUNTIME=embedded")
    mine = replace(facts, files={**facts.files, path: as_file(wrong + added, mode=0o600)})
    (change,) = [c for c in plan_installation(mine, WANTED) if isinstance(c, WriteFile)]
    assert change.file.text == ours + added


CONTROL = Systemctl(verb="restart", units=("ouroboros-api.service", "ouroboros-worker.service"))
EDGE = ("ouroboros-caddy.service",)
SURFACES = tuple(
    RestartSurface(unit=f"ouroboros-web@{name}.service", port=port)
    for name, port in (("preview3", 3103), ("preview2", 3102), ("preview1", 3101), ("main", 3100))
)


def test_new_code_restarts_the_control_plane_and_no_surface_that_runs_the_same() -> None:
    changes = plan_installation(installed(), replace(WANTED, app="a2"))

    assert changes == (InstallCode(digest="a2"), CONTROL)


def test_a_surface_that_would_run_something_else_is_restarted_alone() -> None:
    facts = installed()
    path = surface_file(CONTRACT.slots[2])

    assert plan_installation(replace(facts, files={**facts.files, path: as_file("{}")}), WANTED) == (SURFACES[1],)
    assert plan_installation(replace(facts, closed=frozenset({path})), WANTED) == ()


def test_another_caddy_restarts_surfaces_one_after_another_and_then_the_edge() -> None:
    changes = plan_installation(installed(), replace(WANTED, caddy="c2"))

    assert changes == (InstallCaddy(digest="c2"), *SURFACES, Systemctl(verb="restart", units=EDGE))


def test_another_caddyfile_is_read_by_the_edge_that_runs() -> None:
    facts = installed()
    edited = replace(facts, files={**facts.files, HOST_CONFIG / "Caddyfile": as_file("# mine")})

    assert plan_installation(edited, WANTED)[-1] == Systemctl(verb="reload", units=EDGE)


def test_a_service_lets_go_of_its_ports_before_systemd_opens_them() -> None:
    facts = installed()
    before = replace(facts, active=frozenset(unit for unit in facts.active if not unit.endswith("main.socket")))

    assert plan_installation(before, WANTED) == (
        Systemctl(verb="stop", units=("ouroboros-web@main.socket", "ouroboros-web@main.service")),
        Systemctl(verb="start", units=("ouroboros-web@main.socket",)),
        SURFACES[3],
    )


def test_services_that_change_ports_with_each_other_let_go_of_both_before_one_is_opened() -> None:
    # The two change places; the worker's is its own to open.
    ports = Ports(chosen={"api": 8088, "edge": 8000, "worker": 8091})
    topology = replace(CONTRACT, ports=ports, production_backend_port=8088)
    changes = [c for c in plan_installation(installed(), replace(WANTED, topology=topology)) if "Write" not in repr(c)]
    api, edge = (
        ("ouroboros-api.socket", "ouroboros-api.service"),
        ("ouroboros-caddy.socket", "ouroboros-caddy.service"),
    )

    assert changes == [
        Systemctl(verb="daemon-reload"),
        Systemctl(verb="stop", units=(edge[0], api[0], edge[1], api[1])),
        Systemctl(verb="start", units=api[:1]),
        Systemctl(verb="start", units=api[1:]),
        Systemctl(verb="restart", units=("ouroboros-worker.service",)),
        Systemctl(verb="start", units=edge[:1]),
        Systemctl(verb="start", units=edge[1:]),
    ]


def test_other_ports_of_surfaces_restart_them_and_have_the_edge_read_where_they_are() -> None:
    topology = replace(CONTRACT, ports=Ports(chosen={"web": 3200}))
    changes = plan_installation(installed(), replace(WANTED, topology=topology))
    ports = [change.port for change in changes if isinstance(change, RestartSurface)]

    assert ports == [3203, 3202, 3201, 3200]
    # One after another: production is the last to stop.
    main = Systemctl(verb="stop", units=("ouroboros-web@main.socket", "ouroboros-web@main.service"))
    assert changes.index(main) > changes.index(RestartSurface(unit="ouroboros-web@preview1.service", port=3201))
    assert changes[-1] == Systemctl(verb="reload", units=EDGE)
    socket = next(c.file for c in changes if isinstance(c, WriteFile) and c.file.path.name.endswith("main.socket"))
    assert "ListenStream=127.0.0.1:3200\n" in socket.text


def test_a_port_that_only_a_stopped_service_had_is_moved_too() -> None:
    facts = installed()
    stopped = replace(facts, active=facts.active - {"ouroboros-caddy.service"})
    topology = replace(CONTRACT, ports=Ports(chosen={"edge": 8089}))
    changes = plan_installation(stopped, replace(WANTED, topology=topology))

    assert Systemctl(verb="stop", units=("ouroboros-caddy.socket", "ouroboros-caddy.service")) in changes
    assert changes[-1] == Systemctl(verb="start", units=EDGE)


def test_certificates_from_an_authority_need_a_way_in_at_its_ports() -> None:
    def warned(**chosen: int) -> tuple[str, ...]:
        topology = replace(CONTRACT, tls="auto", ports=Ports(chosen=chosen))
        return warnings_of(installed(), replace(WANTED, topology=topology))

    assert warned() == warned(https=8443) == warned(http=8080) == ()
    (told,) = warned(https=8443, http=8080)
    assert "443 to 8443, or 80 to 8080" in told


def test_fewer_slots_remove_their_units() -> None:
    changes = plan_installation(installed(), replace(WANTED, topology=replace(CONTRACT, previews=2)))
    removed = {change.path.name for change in changes if isinstance(change, RemoveFile)}

    assert "ouroboros-forward@preview3-a.socket" in removed
    assert Systemctl(verb="daemon-reload") in changes


def test_the_worker_waits_for_a_repository() -> None:
    waiting = frozenset({"ouroboros-worker.service"})
    facts = replace(installed(), has_repository=False, active=installed().active - waiting)

    assert plan_installation(facts, WANTED) == ()
    assert plan_installation(replace(facts, has_repository=True), WANTED) == (
        Systemctl(verb="start", units=("ouroboros-worker.service",)),
    )


def test_a_role_whose_password_is_lost_gets_it_again() -> None:
    facts = installed()
    assert facts.postgres is not None
    lost = replace(facts, postgres=replace(facts.postgres, passwords_work=frozenset({"oroboros_worker"})))

    (change,) = plan_installation(lost, WANTED)

    assert isinstance(change, RunSql)
    assert change.statements[0].startswith("ALTER ROLE oroboros_api")


@pytest.mark.parametrize("role", ["oroboros_worker", "oroboros_api", "app_main", "preview_2"])
def test_a_role_that_may_do_more_than_it_should_is_put_right(role: str) -> None:
    facts = installed()
    assert facts.postgres is not None
    odd = replace(facts, postgres=replace(facts.postgres, odd_roles=frozenset({role})))

    (change,) = plan_installation(odd, WANTED)

    assert isinstance(change, RunSql)
    assert change.statements[0].startswith(f"ALTER ROLE {role} LOGIN NOSUPERUSER NOCREATEROLE")


def test_our_lines_stand_once_in_a_file_of_others_and_leave_the_rest() -> None:
    once = with_block("theirs\n", ("ours",), first=True)

    assert once == f"{BEGIN}\nours\n{END}\ntheirs\n"
    assert with_block(once, ("ours",), first=True) == once
    assert with_block(once, ("other",), first=False) == f"theirs\n{BEGIN}\nother\n{END}\n"
    assert with_block("no end of line", ("x",), first=False).startswith("no end of line\n")


def test_what_is_edited_by_hand_is_written_again() -> None:
    unit = UNITS / "ouroboros-worker.service"
    facts = installed()
    edited = replace(facts, files={**facts.files, unit: as_file("[Service]\nUser=root\n")})

    changes = plan_installation(edited, WANTED)

    assert [type(change) for change in changes] == [WriteFile, Systemctl, Systemctl]
    assert changes[-1] == Systemctl(verb="restart", units=("ouroboros-worker.service",))


@pytest.mark.parametrize(
    ("redis", "config", "told"),
    [
        (RedisFact(), "port 6379\n", ""),
        (None, "port 6379\n", ""),
        (RedisFact(users=("cache",), keys=12), "port 6379\n", "the user cache, 12 keys"),
        (RedisFact(refuses=True), "requirepass theirs\n", "a lock of its own"),
        (RedisFact(), "aclfile /etc/redis/users.acl\n", "its users in a file of their own (aclfile)"),
        (RedisFact(), "# aclfile /etc/redis/users.acl\n", ""),
    ],
)
def test_a_redis_of_others_is_found_out(redis: RedisFact | None, config: str, told: str) -> None:
    facts = replace(fresh(), redis=redis)

    assert redis_strangers(replace(facts, files={**facts.files, REDIS: as_file(config)})) == told


def test_a_redis_that_we_have_locked_ourselves_is_ours_still() -> None:
    assert redis_strangers(replace(installed(), redis=RedisFact(refuses=True))) == ""


def test_a_redis_of_others_is_left_alone_when_told() -> None:
    changes = plan_installation(fresh(), replace(WANTED, shared_redis="redis://cache.example/0"))

    assert not [c for c in changes if isinstance(c, SetBlock) and c.path == REDIS]
    assert not [c for c in changes if isinstance(c, Systemctl) and "redis-server.service" in c.units]
    for change in changes:
        if isinstance(change, WriteFile) and change.file.path.name in ("api.env", "worker.env"):
            assert "REDIS_URL=redis://cache.example/0\n" in change.file.text


def test_nothing_is_planned_for_what_could_not_be_looked_at_and_it_is_named() -> None:
    closed = frozenset({HOST_CONFIG / "api.env", REDIS, REDIS_FILE})
    facts = replace(installed(), postgres=None, closed=closed)
    facts = replace(facts, files={path: file for path, file in facts.files.items() if path not in closed})

    assert plan_installation(facts, WANTED) == ()
    assert unseen(facts) == ("Postgres", "/etc/oroboros/api.env", "/etc/redis/oroboros.conf", "/etc/redis/redis.conf")
    assert unseen(installed()) == ()


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ({"systemd": (252,), "polkit": (121,), "postgresql": (15,), "redis": (6, 2, 14)}, ()),
        (
            {"systemd": (247,), "polkit": (121,), "postgresql": (15,), "redis": (7, 0), "git": (2, 39)},
            ("systemd 247 is older than 252",),
        ),
        (
            {"systemd": (252,), "postgresql": (13,), "redis": (6, 0, 16)},
            ("postgresql 13 is older than 15", "redis 6.0.16 is older than 6.2"),
        ),
    ],
)
def test_what_is_too_old_is_named(versions: dict[str, tuple[int, ...]], told: tuple[str, ...]) -> None:
    assert too_old(HostFacts(versions=versions)) == told


def test_what_is_not_there_is_named_but_for_a_redis_that_is_elsewhere() -> None:
    facts = HostFacts(versions={"systemd": (252,), "postgresql": (13,)})

    assert missing_parts(facts) == ("polkit", "redis", "git")
    assert missing_parts(facts, redis_shared=True) == ("polkit", "git")


def test_fewer_slots_end_what_they_no_longer_have_and_tell_the_control_plane() -> None:
    before = installed()
    fewer = replace(WANTED, topology=replace(CONTRACT, previews=2))

    changes = plan_installation(before, fewer)

    (ended,) = (change for change in changes if isinstance(change, Systemctl) and change.verb == "disable --now")
    assert "ouroboros-web@preview3.service" in ended.units
    assert "ouroboros-instance@preview3-a.service" in ended.units
    assert not [unit for unit in ended.units if "preview3" not in unit]
    removed = [change for change in changes if isinstance(change, RemoveFile)]
    assert changes.index(ended) < changes.index(removed[0]), "systemd must still know what they are"
    restarted = [unit for c in changes if isinstance(c, Systemctl) and c.verb == "restart" for unit in c.units]
    assert {"ouroboros-api.service", "ouroboros-worker.service"} <= set(restarted)


@pytest.mark.parametrize(
    "topology",
    [
        replace(CONTRACT, base_host="example.com\n:80 {"),
        replace(CONTRACT, production_host="a b"),
        replace(CONTRACT, trusted_proxies=("fe80::1%x\n}",)),
        replace(CONTRACT, resolvers=("192.168.1.1\nExecStartPre=+/bin/id",)),
        replace(CONTRACT, walls=Walls(build_memory_bytes="1\nExecStartPre=+/bin/id")),  # type: ignore[arg-type]
    ],
)
def test_nothing_is_rendered_for_root_from_a_value_that_is_none(topology: Topology) -> None:
    with pytest.raises(ConfigInvalid, match="TopologyInvalid"):
        wanted_files(replace(WANTED, topology=topology))


def test_the_api_gets_its_rights_once_there_are_tables() -> None:
    facts = installed()
    assert facts.postgres is not None
    wide = replace(facts, postgres=replace(facts.postgres, api_is_bounded=False))
    new = replace(facts, postgres=replace(facts.postgres, migrations=("0001.sql",)))

    (bound,) = plan_installation(wide, WANTED)
    tables, also_bound = plan_installation(new, WANTED)

    # What is done in a database that the worker owns, is done as the worker.
    assert isinstance(bound, RunSqlAsWorker)
    assert bound.statements == API_RIGHTS
    assert tables == Migrate(files=("0001.sql",))
    assert also_bound == bound


def test_the_policy_takes_effect() -> None:
    policy = Policy(
        production=Production(host="shop.example", backend_port=8123),
        previews=Previews(slots=5, host="p{n}.example.net"),
        edge=Edge(tls="auto"),
        walls=Walls(preview_network="host"),
    )

    topology = with_policy(CONTRACT, policy)

    assert (topology.previews, topology.production_host, topology.preview_host) == (
        5,
        "shop.example",
        "p{n}.example.net",
    )
    assert (topology.production_backend_port, topology.tls, topology.scheme) == (8123, "auto", "https")
    assert not topology.isolated_previews


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("# by hand\nsearch example.com\nnameserver 1.1.1.1\n", ()),
        ("nameserver 192.168.1.1\nnameserver\t10.0.0.2\nnameserver 192.168.1.1\n", ("10.0.0.2", "192.168.1.1")),
        ("nameserver fd00::53\nnameserver nonsense\nnameserver", ("fd00::53",)),
        # Behind these are this host's own services, and the cloud's metadata.
        ("nameserver 127.0.0.53\nnameserver ::1\nnameserver 169.254.169.254\nnameserver fe80::1%eth0\n", ()),
        ("nameserver 0.0.0.0\nnameserver ::ffff:127.0.0.1\n", ()),
    ],
)
def test_builds_may_reach_name_servers_at_home_and_nothing_closer(text: str, found: tuple[str, ...]) -> None:
    assert private_resolvers(text) == found


def test_removal_takes_units_and_code_and_no_data() -> None:
    changes = plan_removal(installed())
    removed = [change.path for change in changes if isinstance(change, RemoveFile)]

    assert [change for change in changes if isinstance(change, Systemctl)] == [
        Systemctl(verb="stop", units=("ouroboros-judge.service", "ouroboros-worker.service")),
        Systemctl(verb="disable --now", units=tuple(sorted(installed().active | installed().enabled))),
        Systemctl(verb="stop", units=("ouroboros-*",)),
        Systemctl(verb="reset-failed", units=("ouroboros-*",)),
        Systemctl(verb="daemon-reload", units=()),
    ]
    first_removal = next(n for n, change in enumerate(changes) if isinstance(change, RemoveFile))
    assert changes.index(Systemctl(verb="reset-failed", units=("ouroboros-*",))) < first_removal
    assert {COMMAND, MAN_PAGE, *COMPLETIONS.values()} <= set(removed)
    assert not [path for path in removed if str(path).startswith(("/srv", "/etc/oroboros"))]
    assert plan_removal(HostFacts()) == ()


if __name__ == "__main__":
    for path, text in TRACKED.items():
        path.write_text(text)


# -- a purge ----------------------------------------------------------------------------------------------------------


def an_installed_postgres() -> PostgresFact:
    return PostgresFact(
        hba_file=HBA,
        ident_file=IDENT,
        roles=frozenset({"postgres", "oroboros_api", "oroboros_worker", "app_main", "preview_1", "guest"}),
        odd_roles=frozenset(),
        worker_is=frozenset({"app_main", "preview_1"}),
        databases=frozenset({"postgres", "builder_control", "app_main", "preview_1", "guestbook", "walled"}),
        open_to_all=frozenset(),
        passwords_work=frozenset(),
    )


def test_a_purge_takes_out_what_is_ours_and_gives_everybody_back_what_they_had() -> None:
    before = Before(
        users=frozenset({"caddy"}),
        roles=frozenset({"preview_1"}),
        databases=frozenset({"preview_1"}),
        public_rights={
            "postgres": frozenset({"CONNECT", "TEMPORARY"}),
            "guestbook": frozenset({"CONNECT"}),
            "gone": frozenset({"CONNECT"}),
        },
    )
    facts = HostFacts(
        users={name: frozenset() for name in ("caddy", "oroboros", "oroboros-worker", "oroboros-main", "root")},
        postgres=an_installed_postgres(),
        files={HBA: FileFact(text=with_block("local all\n", ("ours",), first=True), mode=0o640, owner="p", group="p")},
    )
    changes = plan_purge(facts, before)
    statements = [statement for change in changes if isinstance(change, RunSql) for statement in change.statements]
    assert statements == [
        'DROP DATABASE "builder_control" WITH (FORCE)',
        'DROP DATABASE "app_main" WITH (FORCE)',
        *(f"DROP OWNED BY {name}" for name in ("app_main", "oroboros_api", "oroboros_worker")),
        *(f"DROP ROLE {name}" for name in ("app_main", "oroboros_api", "oroboros_worker")),
        'GRANT CONNECT ON DATABASE "guestbook" TO PUBLIC',
        'GRANT CONNECT ON DATABASE "postgres" TO PUBLIC',
        'GRANT TEMPORARY ON DATABASE "postgres" TO PUBLIC',
        "SELECT pg_reload_conf()",
    ]
    assert [change.path for change in changes if isinstance(change, SetBlock)] == [HBA]
    removed = [change.name for change in changes if isinstance(change, RemoveUser)]
    assert removed == ["oroboros", "oroboros-worker", "oroboros-main"]


def test_a_purge_of_a_host_without_anything_of_ours_changes_nothing() -> None:
    fresh = fresh_postgres(15, ())
    facts = HostFacts(users={"root": frozenset(), "caddy": frozenset()}, postgres=fresh)
    assert plan_purge(facts, note_before(facts)) == ()


def test_what_was_here_before_is_written_first_and_read_back_as_it_was() -> None:
    facts = HostFacts(
        users={"caddy": frozenset(), "root": frozenset()},
        postgres=replace(
            fresh_postgres(15, ()),
            roles=frozenset({"postgres", "app_main"}),
            public_rights={"postgres": frozenset({"CONNECT"})},
        ),
    )
    before = note_before(facts)
    assert before == Before(
        users=frozenset({"caddy"}),
        roles=frozenset({"app_main"}),
        public_rights={"postgres": frozenset({"CONNECT"})},
    )
    assert parse_before(render_before(before)) == before
    first = plan_installation(facts, replace(WANTED, before=render_before(before)))[0]
    assert isinstance(first, WriteFile)
    assert first.file.path == BEFORE_FILE


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"users": 1, "roles": [], "databases": [], "public_rights": {}}'])
def test_a_record_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid):
        parse_before(text)
