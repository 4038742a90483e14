"""A real Debian with systemd as PID 1, for a test: boot it, act in it, switch it off, and leave nothing of it.

A host has the machine's kernel and everything else of its own: files (over the image, see `image`), processes, users,
control groups, and a network that is its own loopback and nothing more. All of its mounts lie in its own mount
namespace, and its processes in its own process namespace: they end with its PID 1, and that ends with this process.
What a killed run can leave, a folder and empty control groups, the next run removes (`sweep`).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.host.image import CHECKOUT, locked

BOOT = Path(__file__).resolve().parent / "boot.sh"
FOLDERS = Path(os.environ.get("OROBOROS_HOST_FOLDERS", "/var/tmp"))
PREFIX = "oroboros-host-"
BOOT_LIMIT_S = 90.0
POWER_OFF_LIMIT_S = 90.0
LOOK_EVERY_S = 0.05
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


#: What systemctl says to who may not.
DENIED = re.compile("[Aa]ccess denied|[Ii]nteractive authentication required|[Nn]ot authorized|[Pp]ermission denied")


class HostFailed(Exception):
    """A host did not do what it was to do, or a command in it failed."""


class Host:
    """One host. `folder` is its own; what it writes is under it, from one boot to the next."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.image = image
        self.folder = folder
        self.name = folder.name
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self._groups: dict[str, str] = {}
        (folder / "root").mkdir()
        if overlays_hold(folder):
            (folder / "upper").mkdir()
            shutil.copystat(image, folder / "upper")  # it is the host's /, whatever our umask is
            (folder / "work").mkdir()
        else:
            subprocess.run(["cp", "-a", "--reflink=auto", f"{image}/.", str(folder / "root")], check=True, timeout=300)

    # -- power --------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch it on; return once systemd has started all that it starts at boot."""
        assert self.process is None, "it is on"
        # If this process is killed, the kernel kills boot.sh, and then PID 1 and all that runs under it.
        words = ["setpriv", "--pdeathsig", "KILL", "bash", str(BOOT), str(self.image), str(self.folder), self.name]
        with (self.folder / "boot.log").open("ab") as log:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env={**ENVIRONMENT}
            )
        deadline = time.monotonic() + BOOT_LIMIT_S
        self.pid = self._await_systemd(deadline)
        state = ""
        while time.monotonic() < deadline:
            # The bus comes up some time after PID 1: until then there is nobody to ask.
            done = self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout_s=BOOT_LIMIT_S)
            state = done.stdout.strip()
            if state in ("running", "degraded"):
                return
            time.sleep(LOOK_EVERY_S)
        raise HostFailed(f"{self.name} did not boot within {BOOT_LIMIT_S:g} s, it is {state or 'silent'}")

    def power_off(self) -> None:
        """Shut it down as an administrator does."""
        assert self.process is not None
        self.run(["systemctl", "poweroff"], check=False)
        self._await_end(POWER_OFF_LIMIT_S)

    def power_cut(self) -> None:
        """Pull the plug: every process ends at once, and nobody is told."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid or self.process.pid, signal.SIGKILL)
        self._await_end(30)

    def reboot(self) -> None:
        """Shut down, and boot the same files."""
        self.power_off()
        self.boot()

    def destroy(self) -> None:
        """Switch off whatever still runs, and remove every trace. Safe to repeat."""
        self.power_cut()
        remove_control_groups(self.name)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise HostFailed(f"{self.folder} cannot be removed")

    def limit_memory(self, bytes_max: int) -> None:
        """Give it no more memory than this from now on, as the machine it stands for has."""
        for folder in control_groups(self.name):
            for name in ("memory.max", "memory.limit_in_bytes"):
                if (folder / name).exists():
                    (folder / name).write_text(str(bytes_max))
                    return
        raise HostFailed(f"{self.name} has no control group that limits memory")

    def ended_for_memory(self) -> int:
        """Return how many of the processes of units that are still there the kernel ended for lack of memory."""
        ended = 0
        for folder in control_groups(self.name):
            # On v1 each group counts its own, on v2 the first counts all.
            for file in (*folder.rglob("memory.oom_control"), folder / "memory.events"):
                with contextlib.suppress(FileNotFoundError):
                    ended += sum(int(n) for n in re.findall(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE))
        return ended

    def _await_systemd(self, deadline: float) -> int:
        assert self.process is not None
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                self.process = None
                raise HostFailed(f"{self.name} cannot boot: {(self.folder / 'boot.log').read_text()[-1500:]}")
            for child in children_of(self.process.pid):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                        return child
            time.sleep(LOOK_EVERY_S)
        raise HostFailed(f"{self.name} did not start its systemd in time")

    def _await_end(self, limit_s: float) -> None:
        assert self.process is not None
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired as late:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait(30)
            raise HostFailed(f"{self.name} was still on after {limit_s:g} s, and was killed") from late
        finally:
            self.process, self.pid = None, 0
            self._groups.clear()

    @property
    def is_on(self) -> bool:
        return self.process is not None

    # -- acting in it -------------------------------------------------------------------------------------------------

    def run(
        self,
        words: Sequence[str],
        *,
        user: str = "root",
        check: bool = True,
        timeout_s: float = 60,
        stdin: str = "",
        folder: str = "/",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as a user; HostFailed when it fails, unless told not to check."""
        try:
            done = subprocess.run(
                self.words(words, user=user, folder=folder, timeout_s=timeout_s),
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s + 15,
                check=False,
                env=self.environment(user, environment),
            )
        except subprocess.TimeoutExpired as late:
            raise HostFailed(f"{' '.join(words)[:200]} takes longer than {timeout_s:g} s") from late
        if check and done.returncode != 0:
            said = f"{done.stdout.strip()[-1500:]}\n{done.stderr.strip()[-2500:]}".strip()
            raise HostFailed(f"{' '.join(words)[:300]} ended with {done.returncode}: {said}")
        return done

    def start(
        self, words: Sequence[str], *, user: str = "root", limit_s: float = 600, folder: str = "/"
    ) -> subprocess.Popen[str]:
        """Start a command in it that goes on for a while; the caller waits for it."""
        return subprocess.Popen(
            self.words(words, user=user, folder=folder, timeout_s=limit_s),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(user, None),
        )

    def words(self, words: Sequence[str], *, user: str, folder: str, timeout_s: float) -> list[str]:
        """Return the words that run a command in it from out here."""
        entering = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-p", "-n", "-C", f"--wdns={folder}", "--"]
        limited = ["timeout", "--kill-after=5", str(timeout_s)]
        if user == "root":
            return [*entering, *limited, *words]
        if user not in self._groups:
            self._groups[user] = self.run(["id", "-g", user]).stdout.strip()
        return [
            *entering,
            *("setpriv", "--reuid", user, "--regid", self._groups[user], "--init-groups", "--"),
            *limited,
            *words,
        ]

    @staticmethod
    def environment(user: str, more: Mapping[str, str] | None) -> dict[str, str]:
        return {**ENVIRONMENT, "HOME": "/root" if user == "root" else "/nonexistent", "USER": user, **(more or {})}

    def text(self, *words: str, user: str = "root") -> str:
        """Return what a command in it prints, without the end of the line."""
        return self.run(words, user=user).stdout.strip()

    def write(self, path: str, text: str, *, mode: str = "0644", owner: str = "root") -> None:
        """Write a file in it, with the folders above."""
        self.run(["install", "-D", "-m", mode, "-o", owner, "-g", owner, "/dev/stdin", path], stdin=text)

    def read(self, path: str) -> str:
        """Return a file of it."""
        return self.run(["cat", "--", path]).stdout

    def copy_checkout(self, folder: str) -> None:
        """Copy this checkout into it, as it is now: what git tracks or would, and its history."""
        listed = ["git", "-c", "safe.directory=*", "-C", str(CHECKOUT), "ls-files", "-coz", "--exclude-standard"]
        names = subprocess.run(listed, capture_output=True, check=True, timeout=60).stdout.rstrip(b"\0").split(b"\0")
        there = [name for name in names if os.path.lexists(os.path.join(os.fsencode(CHECKOUT), name))]
        target = f"/proc/{self.pid}/root{folder}"
        os.makedirs(target, exist_ok=True)
        copying = [
            "cp",
            "-P",
            "--parents",
            "--preserve=mode",
            "-t",
            target,
            "--",
            *(os.fsdecode(name) for name in there),
        ]
        subprocess.run(copying, cwd=CHECKOUT, check=True, timeout=120)

    # -- looking at it ------------------------------------------------------------------------------------------------

    def wait_until(self, there: Callable[[], object], what: str | Callable[[], str], *, timeout_s: float = 30) -> None:
        """Wait until something is true of it; HostFailed, saying what was waited for, when that takes too long."""
        deadline = time.monotonic() + timeout_s
        while not there():
            if time.monotonic() > deadline:
                raise HostFailed(f"after {timeout_s:g} s: {what if isinstance(what, str) else what()}")
            time.sleep(LOOK_EVERY_S)

    def journal(self, *units: str, boot: str = "0") -> str:
        """Return what was written to the journal since it was booted, of some units or all."""
        chosen = [word for unit in units for word in ("-u", unit)]
        self.run(["journalctl", "--sync"], check=False)
        return self.run(["journalctl", "--no-pager", "-o", "short-precise", "-b", boot, *chosen], check=False).stdout

    def unit(self, name: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit."""
        shown = self.text("systemctl", "show", "--property", ",".join(properties), "--", name)
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def is_active(self, unit: str) -> bool:
        return self.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0

    def save_journals(self, folder: Path) -> Path:
        """Write what all its boots wrote to their journals into a file of this machine; return it."""
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{self.name}.journal"
        shown = ["--no-pager", "-o", "short-precise"]
        if self.is_on:
            self.run(["journalctl", "--sync"], check=False)
            target.write_text(self.run(["journalctl", *shown], check=False, timeout_s=120).stdout)
        else:
            below = "upper" if (self.folder / "upper").is_dir() else "root"
            words = ["journalctl", *shown, "-D", str(self.folder / below / "var/log/journal")]
            target.write_bytes(subprocess.run(words, capture_output=True, check=False, timeout=120).stdout)
        with target.open("a") as file:
            file.write("\n-- what boot.sh said --\n" + (self.folder / "boot.log").read_text(errors="replace"))
        return target


# -- the machine under it -------------------------------------------------------------------------------------------


@contextmanager
def session_folder(image: Path) -> Iterator[Path]:
    """A folder for the hosts of one process. It is held by a lock, so that others know whether that is alive."""
    with ExitStack() as stack:
        # Until it is locked, whoever sweeps would take it for one that was left.
        with locked(image.parent / "sweeping"):
            sweep()
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=FOLDERS))
            stack.enter_context(locked(folder / "alive"))
        stack.enter_context(locked(image.parent / "in-use", shared=True))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_host(image: Path, session: Path) -> Iterator[Host]:
    """A host that is on; afterwards nothing is left of it, also when the boot or the test was interrupted."""
    # It names host and control groups too: a host's name has no underscore, and a temporary folder's may.
    folder = session / f"host-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o755)
    host = Host(image, folder)
    try:
        host.boot()
        yield host
    finally:
        host.destroy()


def sweep() -> None:
    """Remove what runs that were killed have left."""
    for folder in FOLDERS.glob(f"{PREFIX}*"):
        try:
            with locked(folder / "alive", wait=False):
                for host in folder.iterdir():
                    if host.is_dir():
                        remove_control_groups(host.name)
                shutil.rmtree(folder, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            continue


def overlays_hold(folder: Path) -> bool:
    """Say whether an overlay here keeps what hosts need: hard links and access lists."""
    scratch = folder / "scratch"
    for name in ("lower", "upper", "work", "merged"):
        (scratch / name).mkdir(parents=True)
    options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work,redirect_dir=on"
    file = scratch / "merged/file"
    # user:1000:r-- and the rest of a list of access, as the kernel keeps it: acl(5), xattr(7).
    acl = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000000ffffffff")
    # In a mount namespace of its own, like a host's.
    code = (
        "import os,sys; f, acl = sys.argv[1], bytes.fromhex(sys.argv[2]); open(f, 'w').close();"
        "os.setxattr(f, 'system.posix_acl_access', acl); os.link(f, f + '2'); os.rename(f + '2', f + '3');"
        "sys.exit(os.getxattr(f + '3', 'system.posix_acl_access') != acl or os.stat(f).st_nlink != 2)"
    )
    mounting = ["mount", "-t", "overlay", "-o", options, "overlay", str(scratch / "merged")]
    words = ["unshare", "--mount", "--propagation", "private", "bash", "-euc", '"${@:1:7}"; shift 7; exec "$@"', "-"]
    done = subprocess.run(
        [*words, *mounting, "python3", "-c", code, str(file), acl.hex()], capture_output=True, check=False, timeout=30
    )
    shutil.rmtree(scratch, ignore_errors=True)
    return done.returncode == 0


def children_of(pid: int) -> list[int]:
    """Return the processes whose parent this is."""
    children = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    children.append(int(entry))
    return children


def control_groups(name: str) -> list[Path]:
    """Return the folders of a host in every hierarchy of control groups."""
    base = Path("/sys/fs/cgroup")
    return [folder for folder in (base / name, *base.glob(f"*/{name}")) if folder.is_dir() and not folder.is_symlink()]


def remove_control_groups(name: str) -> None:
    """Remove a host's control groups, the lowest first. The kernel may need a moment after their last process."""
    deadline = time.monotonic() + 10
    while groups := control_groups(name):
        for top in groups:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        if time.monotonic() > deadline:
            raise HostFailed(f"control groups of {name} cannot be removed: {groups}")
        time.sleep(0 if not control_groups(name) else LOOK_EVERY_S)
