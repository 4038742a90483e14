"""How does a run of host cases show itself? One line a case, journals where a case failed, and a count at the end.

Cases run in processes of their own, a file at a time, each with hosts of its own; this one shows what they report.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.host import Host, session_folder
from tests.host.image import BOOKWORM, DEBIANS, Debian, make_image
from tests.host.team import Team

JOURNAL = "its host's journal"
#: Cases that are run on every Debian, by file: where releases differ. All others run on the oldest alone.
ON_EVERY_DEBIAN: dict[str, tuple[str, ...]] = {
    "case_installed": (
        "test_a_service_runs_as_its_user_and_holds_its_ports",
        "test_postgres_and_redis_are_the_distributions",
        "test_every_health_endpoint_answers",
        "test_a_maintenance_job_has_its_timer_and_runs",
        "test_a_second_installation_changes_nothing_and_doctor_is_content",
        "test_the_worker_may_touch_no_other_unit",
        "test_the_worker_may_not",
        "test_the_worker_may_start_and_stop_its_own",
        "test_nobody_enters_the_database_of_another",
        "test_systemd_finds_nothing_to_say_about_the_units",
    ),
    "case_upgrade": (
        "test_installing_again_touches_no_file_and_restarts_nothing",
        "test_newer_code_is_installed_without_touching_the_app",
        "test_what_somebody_changed_by_hand_is_put_right_by_installing_again",
        "test_uninstall_leaves_data_and_installing_takes_it_up_again",
    ),
    "case_flows": (
        "test_a_push_deploys_an_app_with_its_database",
        "test_a_pull_request_gets_a_preview_with_a_database_of_its_own",
        "test_a_bad_release_never_serves_and_a_revert_is_at_once",
        "test_a_reboot_in_the_middle_of_a_run_ends_with_the_new_release",
        "test_production_comes_back_without_worker_postgres_and_redis",
        "test_the_installation_is_still_as_it_must_be",
    ),
}


#: Files that take long, longest first: what is begun last is what everything else waits for.
LONGEST_FIRST = ("case_upgrade", "case_flows", "case_taken_over", "case_installed", "case_dist_upgrade", "case_doctor")


class Lines:
    """Prints a line for each case, and counts."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.setup_s: dict[str, float] = {}
        self.passed = 0
        self.failed = 0

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        return report.outcome, "", ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self.setup_s[report.nodeid] = report.duration
        if report.when == "call" or report.outcome == "failed":
            self.show(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome == "failed":
            self.failed += 1

    def show(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        took_s = report.duration + (self.setup_s.get(report.nodeid, 0.0) if report.when == "call" else 0.0)
        if report.outcome == "passed":
            self.passed += 1
        else:
            self.failed += 1
            name += {"call": "", "setup": " (it was not reached)", "teardown": " (afterwards)"}[report.when]
        self.write(f"{'ok    ' if report.outcome == 'passed' else 'FAILED'} {took_s:6.1f} s  {name}")
        for title, text in report.sections:
            if title == JOURNAL:
                self.write(f"       {JOURNAL}: {text}")

    def write(self, line: str) -> None:
        self.config.pluginmanager.getplugin("terminalreporter").write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Lines(config), "host-lines")
    # Ended from outside is as Ctrl-C: everything is taken down.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(f"signal {number}")


def pytest_unconfigure(config: pytest.Config) -> None:
    lines = config.pluginmanager.getplugin("host-lines")
    if lines is None:
        return
    print(f"{lines.passed} passed, {lines.failed} failed", flush=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Save the journals of the hosts of a case that failed, while they are still there."""
    report = yield
    if report.outcome == "failed":
        hosts = {id(value): value for value in _hosts_of(item)}
        for host in hosts.values():
            if host.folder.exists():
                case = report.nodeid.rpartition("::")[2][:80]
                folder = Path(tempfile.mkdtemp(prefix="oroboros-host-journal-"))
                report.sections.append((JOURNAL, str(host.save_journals(folder / case))))
    return report


def _hosts_of(item: pytest.Item) -> Iterator[Host]:
    for value in getattr(item, "funcargs", {}).values():
        found = value if isinstance(value, Host) else getattr(value, "host", None)
        if isinstance(found, Host):
            yield found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a case that needs a host its Debians; pytest runs a file's cases on the one, then on the other."""
    if "image" in metafunc.fixturenames:
        everywhere = ON_EVERY_DEBIAN.get(Path(str(metafunc.module.__file__)).stem, ())
        debians = DEBIANS if metafunc.function.__name__ in everywhere else (BOOKWORM,)
        ids = [f"debian {debian.number}" for debian in debians]
        metafunc.parametrize("image", debians, indirect=True, ids=ids, scope="session")


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> Path:
    """The root folder that the hosts of a case begin with."""
    debian: Debian = request.param
    return make_image(debian)


@pytest.fixture(scope="session")
def hosts_folder(image: Path) -> Iterator[Path]:
    """The folder under which this run's hosts of an image are."""
    with session_folder(image) as folder:
        yield folder


@pytest.fixture(scope="module")
def host(team: Team) -> Host:
    """The host of the case file's team."""
    return team.host
