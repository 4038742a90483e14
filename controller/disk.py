"""How is a whole folder synced, or removed, however it was made? System calls for trees, without recursion.

Nothing here knows releases or builds; it is used by the effects that do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import operator
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from controller.model.errors import Unavailable

_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SYNC_THREADS: Final = 8
_SYNC_FILE_RANGE_WRITE: Final = 2


def _find_sync_file_range() -> ctypes._NamedFuncPointer | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


_sync_file_range: Final = _find_sync_file_range()


def open_folder(path: str | bytes, *, inside: int | None = None) -> int:
    """Return a descriptor of a folder that is not a link."""
    return os.open(path, _OPEN_FOLDER, dir_fd=inside)


@contextlib.contextmanager
def opened_folder(path: str | bytes, *, inside: int | None = None) -> Iterator[int]:
    """Hold a descriptor of a folder that is not a link."""
    descriptor = open_folder(path, inside=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_folder(path: str | bytes) -> None:
    """Make what was created, renamed and removed in a folder durable."""
    with opened_folder(path) as descriptor:
        os.fsync(descriptor)


def sync_files(paths: Iterable[bytes]) -> None:
    """Make the content of files durable, several at a time: file systems join the syncs that wait together.

    All are begun before the first is waited for, so that one commit of the journal serves most [half the time, ext4].
    """
    every = list(paths)
    if len(every) < 2 * _SYNC_THREADS:
        for path in every:
            _sync_file(path)
        return
    with ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="sync") as pool:
        for each in (_begin_sync, _sync_file):
            for _ in pool.map(
                functools.partial(_for_all, each), (every[k::_SYNC_THREADS] for k in range(_SYNC_THREADS))
            ):
                pass  # an error of any of them is raised here


def _for_all(each: Callable[[bytes], None], paths: list[bytes]) -> None:
    for path in paths:
        each(path)


def _begin_sync(path: bytes) -> None:
    """Have the kernel begin to write a file out; a hint, so that its failure shows at the fsync."""
    if _sync_file_range is not None:
        with _opened_file(path) as descriptor:
            _sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


def _sync_file(path: bytes) -> None:
    with _opened_file(path) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def _opened_file(path: bytes) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def remove_tree(path: str | bytes) -> None:
    """Remove a folder and all in it; nothing when it is not there. Follows no link, whatever the depth.

    A folder inside a folder is moved up beside the others before it is emptied, so that neither a path, nor the stack,
    nor the number of open descriptors grows with the depth. Safe to repeat: killed in the middle, the rest is removed
    the next time.
    """
    try:
        if os.path.islink(path):
            raise NotADirectoryError(errno.ENOTDIR, "a link, not a folder", path)
        os.chmod(path, 0o700)
        top = open_folder(path)
    except FileNotFoundError:
        return
    try:
        moved = 0
        pending = _unlink_all_but_folders(top)
        while pending:
            name = pending.pop()
            with opened_folder(name, inside=top) as inner:
                for child in _unlink_all_but_folders(inner):
                    moved = _move_up(child, source=inner, top=top, number=moved + 1)
                    pending.append(f".{moved}")
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)


def remove_folder(path: Path) -> None:
    """Remove a folder that an app or a build wrote, however deep; Unavailable when something of it stays."""
    try:
        remove_tree(os.fsencode(path))
    except OSError as error:
        raise Unavailable("SlotNotWiped", f"{path} could not be removed: {error.strerror or error}") from error


#: acl(5) as the kernel keeps it in `system.posix_acl_access`: a version, then (tag, permissions, id) for each entry.
_ACL_VERSION: Final = 2
_ACL_USER_OBJ, _ACL_USER, _ACL_GROUP_OBJ, _ACL_GROUP, _ACL_MASK, _ACL_OTHER = 1, 2, 4, 8, 16, 32
_ACL_NO_ID: Final = 0xFFFF_FFFF
READ_AND_ENTER, READ_WRITE_AND_ENTER = 5, 7


def allow_user(path: Path, uid: int, permissions: int, *, inherited: bool = False) -> None:
    """Add a user to the access list of a folder; with `inherited`, to the list that what is made in it begins with.

    What the list says of others stays. Safe to repeat. Unavailable where the file system has no access lists."""
    name = "system.posix_acl_default" if inherited else "system.posix_acl_access"
    try:
        entries = _read_acl(path, name)
        if entries.get((_ACL_USER, uid)) == permissions:
            return
        entries[(_ACL_USER, uid)] = permissions
        _write_acl(path, name, entries)
    except OSError as error:
        message = f"{path} could not be opened to user {uid}: {error.strerror}; does the file system keep access lists?"
        raise Unavailable("AccessListRefused", message) from error


def forget_user(path: Path, uid: int) -> None:
    """Take a user from the access list of a folder. What the list says of others stays. Safe to repeat, also when the
    folder is gone."""
    name = "system.posix_acl_access"
    try:
        entries = _read_acl(path, name)
        if entries.pop((_ACL_USER, uid), None) is not None:
            _write_acl(path, name, entries)
    except FileNotFoundError:
        return
    except OSError as error:
        message = f"{path} could not be closed to user {uid}: {error.strerror}"
        raise Unavailable("AccessListRefused", message) from error


def _write_acl(path: Path, name: str, entries: dict[tuple[int, int], int]) -> None:
    named = [bits for (tag, _), bits in entries.items() if tag in (_ACL_USER, _ACL_GROUP_OBJ, _ACL_GROUP)]
    entries[(_ACL_MASK, _ACL_NO_ID)] = functools.reduce(operator.or_, named)
    packed = [struct.pack("<HHI", tag, bits, who) for (tag, who), bits in sorted(entries.items())]
    os.setxattr(path, name, struct.pack("<I", _ACL_VERSION) + b"".join(packed))


def _read_acl(path: Path, name: str) -> dict[tuple[int, int], int]:
    try:
        packed = os.getxattr(path, name)[struct.calcsize("<I") :]
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        mode = os.stat(path).st_mode
        return {
            (_ACL_USER_OBJ, _ACL_NO_ID): mode >> 6 & 7,
            (_ACL_GROUP_OBJ, _ACL_NO_ID): mode >> 3 & 7,
            (_ACL_OTHER, _ACL_NO_ID): mode & 7,
        }
    return {(tag, who): bits for tag, bits, who in struct.iter_unpack("<HHI", packed)}


def _move_up(child: str, *, source: int, top: int, number: int) -> int:
    """Move a folder into `top` under the first free number from `number` on; return it."""
    while True:
        try:
            os.rename(child, f".{number}", src_dir_fd=source, dst_dir_fd=top)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            number += 1
        else:
            return number


def _unlink_all_but_folders(folder: int) -> list[str]:
    """Empty a folder of everything that is no folder; return the names of those, made open to us."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    folders: list[str] = []
    for name, is_folder in found:
        if is_folder:
            os.chmod(name, 0o700, dir_fd=folder)
            folders.append(name)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
    return folders
