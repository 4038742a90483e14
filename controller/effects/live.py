"""What does a slot serve, and how is that changed so that no reader ever sees a half of it?

`slots/<slot>/live` is a link to a folder of `live.d/`. A switch writes a new folder, complete and synced, and replaces
the link by one rename; the surfaces read through the link at each request and are told nothing. Killed between any two
lines, the slot serves either the old or the new.

- The lock is a value: who writes holds a `SlotLock` of that slot, and re-reads lease and generation inside it. The
  kernel lets go of it when its holder dies, and keeps it while its holder is only paused.
- `live` names its folder relatively, so that a root may be moved; `current` names its release absolutely, as people and
  scripts that follow it expect. `live` is the truth; `current` follows, and is repaired from it.
- Folders that no longer serve are removed, except the newest few: a reader resolves the link and opens a file in two
  steps, and may have resolved it a moment ago.

This module does not decide whether a switch is right, starts nothing and probes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from controller.decisions.live_files import Assets, parse_live, render_addresses, render_live, render_routes
from controller.failpoints import failpoint
from controller.model.errors import Stalled, Unavailable, Waiting
from controller.model.names import Layout, Sha, SlotName, parse_sha
from controller.model.nouns import Live

#: The file of a live folder that we read: every field of `Live`.
LIVE_FILE: Final = "live.json"
#: For readers, and for a window that fails: the run it goes back to may lie a burst of pushes behind.
VERSIONS_KEPT: Final = 64
_LOCK_POLL_S: Final = 0.005
#: Nothing of the release before answers any more.
NO_ASSETS: Final = Assets()
CONTENT_DIGITS: Final = 20


class SlotLock:
    """The right to change what one slot serves. A context manager; also the proof of it, as an argument."""

    def __init__(self, layout: Layout, slot: SlotName, *, timeout_s: float = 5.0) -> None:
        self.slot = slot
        self._path = layout.slot_lock(slot)
        self._timeout_s = timeout_s
        self._descriptor: int | None = None

    def __repr__(self) -> str:
        return f"<SlotLock {self.slot} {'held' if self._descriptor is not None else 'not held'}>"

    def __enter__(self) -> Self:
        """Take the lock; Waiting when someone else holds it for longer than the timeout."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    raise Waiting(
                        "SlotLocked", f"another process held the lock of {self.slot} for {self._timeout_s:g} s"
                    ) from None
                time.sleep(_LOCK_POLL_S)
            except BaseException:
                os.close(descriptor)
                raise
            else:
                self._descriptor = descriptor
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def require(self, slot: SlotName) -> None:
        """Raise RuntimeError unless this lock is held, and of `slot`: anything else is a bug."""
        if self._descriptor is None or self.slot != slot:
            raise RuntimeError(f"{self!r} does not allow to change {slot}")


def write_live(layout: Layout, live: Live, *, held: SlotLock, assets: Assets = NO_ASSETS) -> None:
    """Make the slot serve `live`: once this returns, every request that begins does, also after a power cut.

    Safe to repeat: each call writes a folder of its own and the same content replaces itself. ConfigInvalid, with
    nothing changed, when a value cannot be written so that Caddy reads it back; Unavailable when the disk refuses.
    """
    held.require(live.slot)
    if live.state == "live" and live.address is None and live.static_root is None:
        raise ValueError(f"{live.slot}: a live release has an instance, or static files, or both")
    files = {
        **render_routes(live, assets, content=_content(live)),
        **render_addresses(layout, live),
        LIVE_FILE: render_live(live),
    }
    link, versions = layout.live(live.slot), layout.live_versions(live.slot)
    version = versions / f"{live.generation}-{secrets.token_hex(6)}"
    try:
        versions.mkdir(parents=True, exist_ok=True)
        version.mkdir()
        # Caddy runs as another user, whatever our umask says.
        for folder in (versions, version):
            folder.chmod(0o755)
        for name, text in files.items():
            _write_synced(version / name, text + "\n")
        _sync_folder(version)
        _sync_folder(versions)
        failpoint("live.before_rename")
        _replace_link(link, target=f"{versions.name}/{version.name}")
        failpoint("live.after_rename")
        _remove_old_versions(versions, serving=version.name)
    except OSError as error:
        raise Unavailable(
            "LiveNotWritten", f"{live.slot}: what it serves could not be written: {error.strerror or error}"
        ) from error


def _content(live: Live) -> str:
    """Return a word that is another one for other files: of the folder's path and of the folder itself.

    Not of times and sizes of files, which a build may set. A release at its path, and a sealed build, never change; a
    build that was made anew lies in a new folder."""
    if live.static_root is None:
        return str(live.generation)
    try:
        status = os.stat(live.static_root)
        itself = f"{status.st_dev}-{status.st_ino}-{status.st_ctime_ns}"
    except OSError:
        itself = str(live.generation)
    return hashlib.sha256(f"{live.static_root}\n{itself}".encode()).hexdigest()[:CONTENT_DIGITS]


def read_live(layout: Layout, slot: SlotName) -> Live | None:
    """Return what the slot serves, None if it never served; Stalled when what lies there is not ours to understand."""
    link = layout.live(slot)
    try:
        target = os.readlink(link)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Stalled("LiveUnreadable", f"{link} is not a link to a live folder: {error.strerror}") from error
    try:
        text = (link / LIVE_FILE).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Stalled("LiveUnreadable", f"{link} -> {target}: {LIVE_FILE} cannot be read: {error}") from error
    try:
        live = parse_live(text)
    except ValueError as error:
        raise Stalled("LiveUnreadable", f"{link} -> {target}: {LIVE_FILE} makes no sense: {error}") from error
    if live.slot != slot:
        raise Stalled("LiveUnreadable", f"{link} -> {target} speaks of {live.slot}, not of {slot}")
    return live


def read_live_version(layout: Layout, slot: SlotName, generation: int) -> Live | None:
    """Return what `live` said when run `generation` was switched to, None when that folder is gone or unreadable."""
    try:
        names = sorted(entry.name for entry in os.scandir(layout.live_versions(slot)))
    except FileNotFoundError:
        return None
    for name in names:
        if name.split("-", 1)[0] == str(generation):
            try:
                live = parse_live((layout.live_versions(slot) / name / LIVE_FILE).read_text())
            except (OSError, ValueError):
                continue
            if (live.slot, live.generation, live.state) == (slot, generation, "live"):
                return live
    return None


def point_current(layout: Layout, slot: SlotName, release: Sha, *, held: SlotLock) -> None:
    """Make the slot's `current` name `releases/<release>`, by one rename, synced and read back.

    Safe to repeat. Stalled when there is no such release, or a folder stands where the link belongs."""
    held.require(slot)
    target, link = layout.release(release), layout.slot_current(slot)
    if not target.is_dir():
        raise Stalled("ReleaseMissing", f"{link} cannot name {target}: there is no such folder")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        failpoint("current.before_rename")
        _replace_link(link, target=str(target.absolute()))
        failpoint("current.after_rename")
    except IsADirectoryError as error:
        raise Stalled("CurrentIsAFolder", f"{link} is a folder, not a link; move it away") from error
    except OSError as error:
        raise Unavailable(
            "CurrentNotWritten", f"{link} could not be made to name {release}: {error.strerror or error}"
        ) from error
    if read_current(layout, slot) != release:
        raise Stalled("CurrentMoved", f"{link} does not name {release} after it was written: who else writes it?")


def read_current(layout: Layout, slot: SlotName) -> Sha | None:
    """Return the release that the slot's `current` names, None without one; Stalled when it names anything else."""
    link = layout.slot_current(slot)
    try:
        target = Path(os.readlink(link))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Stalled("CurrentUnreadable", f"{link} is not a link: {error.strerror}") from error
    if (link.parent / target).parent.resolve() != layout.releases.resolve():
        raise Stalled("CurrentUnreadable", f"{link} -> {target} leads out of {layout.releases}")
    try:
        return parse_sha(target.name)
    except ValueError as error:
        raise Stalled("CurrentUnreadable", f"{link} -> {target} names no release: {error}") from error


def _replace_link(link: Path, *, target: str) -> None:
    """Make `link` a link to `target` by one rename, and its folder durable."""
    pending = f".{link.name}."
    for entry in os.scandir(link.parent):
        # Of a writer that was killed; only the holder of the lock writes these.
        if entry.name.startswith(pending) and entry.is_symlink():
            os.unlink(entry.path)
    temporary = link.with_name(f"{pending}{secrets.token_hex(6)}")
    os.symlink(target, temporary)
    os.replace(temporary, link)
    _sync_folder(link.parent)


def _remove_old_versions(versions: Path, *, serving: str) -> None:
    entries = sorted(os.scandir(versions), key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns)
    for entry in entries[:-VERSIONS_KEPT]:
        if entry.name != serving:
            shutil.rmtree(entry.path, ignore_errors=True)


def _write_synced(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with contextlib.closing(os.fdopen(descriptor, "w", encoding="utf-8")) as file:
        os.fchmod(descriptor, 0o644)
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
