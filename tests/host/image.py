"""Which Debian do the hosts of a test run begin with? A folder each, made once for our packages and our lock.

    python tests/host/image.py      makes those that are not there, and prints where

debootstrap makes them from the mirror that this machine's own apt uses, and the environment of `requirements.lock` is
installed in each while there is a network: the hosts have none. Nothing of a test ever writes into an image.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("OROBOROS_HOST_CACHE", "/var/cache/oroboros-host-tests"))
PACKAGES = (
    *("acl", "ca-certificates", "cron", "curl", "dbus", "git", "iproute2", "libpam-systemd", "openssh-server"),
    *(
        "polkitd",
        "postgresql",
        "procps",
        "python3",
        "python3-venv",
        "redis-server",
        "strace",
        "sudo",
        "systemd",
        "systemd-sysv",
    ),
)
#: What has no work to do on a host of a test, and would do it in the middle of one.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer")
#: Of the venvs that install makes: see `controller.control_launcher`.
DIGEST_DIGITS = 12
QUIET = ("-m", "pip", "--disable-pip-version-check", "--no-input", "-q")
#: Prints what of a lock is meant for the Python that runs this, without the conditions.
MEANT_FOR_IT = r"""
import sys
from pip._vendor.packaging.markers import Marker
for requirement in open(sys.argv[1]).read().replace("\\\n", " ").splitlines():
    name, _, hashes = requirement.partition(" --hash")
    name, _, marker = name.partition(";")
    if hashes and (not marker.strip() or Marker(marker).evaluate()):
        print(name.strip(), "--hash" + hashes)
"""
#: Changes with what `make_debian` or `add_environment` does.
EDITION = 1


@dataclass(frozen=True, slots=True)
class Debian:
    """A release of Debian, and the Python that it has."""

    number: int
    suite: str
    python: str
    #: Beside `MASKED`.
    masked: tuple[str, ...] = ()

    def environment(self, lock: Path) -> Path:
        """Return where install looks for the environment of a lock; that of 12 has the name that it had before 13."""
        digest = _digest(lock.read_bytes())
        return Path("/opt/oroboros/venvs") / (digest if self.number == 12 else f"{digest}-{self.python}")

    def folders(self, lock: Path) -> tuple[Path, Path]:
        """Return the folders in the cache: of what debootstrap makes, and of the image."""
        made = _digest(f"{EDITION} {self.suite} {PACKAGES} {(*MASKED, *self.masked)}".encode())
        image = _digest(made.encode() + lock.read_bytes())
        return CACHE / f"debian-{made}", CACHE / f"image-{image}"


BOOKWORM = Debian(12, "bookworm", "3.11")
# It has modules to load, and the kernel is the machine's.
TRIXIE = Debian(13, "trixie", "3.13", ("systemd-modules-load.service",))
DEBIANS = (BOOKWORM, TRIXIE)
LOCK = CHECKOUT / "requirements.lock"


class CannotMake(Exception):
    """This machine cannot make the image, and says what is missing."""


def main() -> int:
    try:
        with locked(CACHE / "making"), ThreadPoolExecutor(len(DEBIANS)) as beside:
            for image in beside.map(_make_image, DEBIANS):
                print(image)
    except CannotMake as problem:
        print(f"test-host.sh: {problem}", file=sys.stderr)
        return 2
    return 0


def make_image(debian: Debian = BOOKWORM) -> Path:
    """Return the root folder of a Debian with our environment in it. Safe to repeat: what was made whole is kept."""
    with locked(CACHE / "making"):
        image = _make_image(debian)
        _forget_all_but(*(folder for one in DEBIANS for folder in one.folders(LOCK)))
    return image


def _make_image(debian: Debian) -> Path:
    base, image = debian.folders(LOCK)
    if not (image / "complete").exists():
        if not (base / "complete").exists():
            _make(base, lambda root: make_debian(root, mirror_of_this_machine(), debian))
        _make(image, lambda root: (_copy(base / "root", root), add_environment(root, debian)))
    return image / "root"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]


def _make(folder: Path, fill) -> None:
    _say(f"making {folder} (once; a minute or two)")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "root").mkdir(parents=True)
    fill(folder / "root")
    (folder / "in-use").touch()
    (folder / "complete").touch()


def _copy(source: Path, target: Path) -> None:
    _run(["cp", "-a", "--reflink=auto", f"{source}/.", str(target)], what="copying an image")


def _forget_all_but(*kept: Path) -> None:
    """Remove images of other lists and locks, but for those that a run still uses."""
    for folder in CACHE.glob("*-*"):
        if folder in kept:
            continue
        try:
            with locked(folder / "in-use", wait=False):
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold a lock that the kernel lets go of when we end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(file)


# -- Debian -----------------------------------------------------------------------------------------------------------


def mirror_of_this_machine() -> str:
    """Return the address from which this machine's apt gets Debian 12 itself; every release is there."""
    listed = [
        "apt-get",
        "indextargets",
        "--format",
        "$(SUITE) $(CODENAME) $(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ]
    for line in _run(listed, what="asking apt for its mirrors").splitlines():
        *names, component, address = line.split()
        if BOOKWORM.suite in names and component == "main":
            return address
    raise CannotMake(f"apt of this machine knows no mirror of Debian's {BOOKWORM.suite}: the test host is a Debian 12")


def make_debian(root: Path, mirror: str, debian: Debian) -> None:
    """Fill an empty folder with a Debian that starts nothing while it is made."""
    # Each has a folder of packages: they are made side by side.
    debs = CACHE / ("debs" if debian is BOOKWORM else f"debs_{debian.suite}")
    debs.mkdir(exist_ok=True)
    words = ["debootstrap", "--variant=minbase", f"--cache-dir={debs}", f"--include={','.join(PACKAGES)}"]
    _run([*words, debian.suite, str(root), mirror], what="debootstrap", timeout_s=1_800)
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("")
    # What a host says must outlive its boots, and be whole.
    (root / "var/log/journal").mkdir(exist_ok=True)
    settings = root / "etc/systemd/journald.conf.d/test.conf"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\n")
    for unit in (*MASKED, *debian.masked):
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")


def download_wheels(meant: Path, folder: Path, python: str) -> None:
    """Download what a lock means for a host; out here, since only this machine knows how its pip gets its packages."""
    wheels = ["--only-binary=:all:", "--python-version", python, "--no-deps", "-d", str(folder)]
    download = [sys.executable, *QUIET, "download", *wheels, "--require-hashes", "-r", str(meant)]
    _run(download, what="pip download", timeout_s=900, environment=os.environ)


def add_environment(root: Path, debian: Debian) -> None:
    """Install the locked requirements, where install looks for them."""
    venv = debian.environment(LOCK)
    inside = root / "tmp/environment"
    inside.mkdir()
    shutil.copyfile(LOCK, inside / "requirements.lock")
    try:
        _in(root, "python3", "-m", "venv", str(venv), what="making the environment")
        meant = _in(
            root, f"{venv}/bin/python", "-c", MEANT_FOR_IT, "/tmp/environment/requirements.lock", what="the lock"
        )
        (inside / "meant").write_text(meant)
        download_wheels(inside / "meant", inside / "wheels", debian.python)
        from_wheels = ["--no-index", "--find-links", "/tmp/environment/wheels", "--require-hashes"]
        install = [f"{venv}/bin/python", *QUIET, "install", *from_wheels, "-r", "/tmp/environment/requirements.lock"]
        _in(root, *install, what="pip install")
    finally:
        shutil.rmtree(inside, ignore_errors=True)
    (root / "opt/oroboros/venv").symlink_to(venv)


def _in(root: Path, *words: str, what: str) -> str:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    return _run(["chroot", str(root), *words], what=what, timeout_s=900, environment=environment)


def _run(
    words: Sequence[str], *, what: str, timeout_s: float = 300, environment: Mapping[str, str] | None = None
) -> str:
    try:
        done = subprocess.run(
            list(words), capture_output=True, text=True, timeout=timeout_s, check=False, env=environment
        )
    except OSError as error:
        raise CannotMake(f"{what}: {words[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise CannotMake(f"{what} failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout


def _say(line: str) -> None:
    print(f"test-host.sh: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
