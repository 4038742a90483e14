"""Write the log lines of our processes, to the journal under systemd and to stderr elsewhere, without any secret.

The journal gets each line with its priority and with fields that say what the line is about: the native protocol of
https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ . What cannot be sent goes to stderr, with the priority in front as
sd-daemon(3) has it. A failure that goes on the same way is one line, not one a try.
Every line passes one filter, with the traceback that belongs to it; so do the traceback that ends a process and those
that end its threads. What has a secret's form is masked always, what has none (webhook secrets) when its file is named.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

from controller.model.errors import OroborosError
from controller.model.redaction import redact

FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
SECRETS_BYTES_MAX: Final = 64 << 10
_FORMATTER: Final = logging.Formatter()
#: Longer than any pause between two tries.
STATE_ENDS_AFTER_S: Final = 900.0
STATES_MAX: Final = 500
JOURNAL: Final = "/run/systemd/journal/socket"
#: Well below what one datagram carries (net.core.wmem_default of Linux); the beginning of a longer line is kept.
MESSAGE_BYTES_MAX: Final = 48 << 10
#: syslog(3).
_CRITICAL, _ERROR, _WARNING, _INFO, _DEBUG = 2, 3, 4, 6, 7
#: What a line may be about, by the name that it has in `extra`.
FIELDS: Final = ("slot", "run", "sha", "reason", "action")


class NoSecrets(logging.Filter):
    """Masks secrets in all that a log line is made of; lets every line pass."""

    def __init__(self) -> None:
        super().__init__()
        self._known: set[str] = set()

    def hide(self, secrets: Iterable[str]) -> None:
        """Mask these, too."""
        self._known.update(secrets)

    def redact(self, text: str) -> str:
        """Return the text without secrets."""
        return redact(text, known=self._known)

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and not hasattr(record, "reason"):
            record.reason = next((one.reason for one in record.args if isinstance(one, OroborosError)), "")
        record.msg, record.args = self.redact(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        # The formatter takes the text that is there, and makes none of its own.
        record.exc_text = self.redact(record.exc_text) if record.exc_text else None
        record.stack_info = self.redact(record.stack_info) if record.stack_info else None
        return True


#: One for the process: what was named once is masked in every line after it.
NO_SECRETS: Final = NoSecrets()


class OneLineAState(logging.Filter):
    """Lets a warning or an error pass once for as long as it goes on the same way, whatever its figures.

    A line says by `action`, `slot` and `run` what it is about. It passes again once another was said of that, once it
    was not said for a while, or once some failure is over, which a line marks with `ends_state`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[tuple[str, ...], tuple[str, float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        action, now = getattr(record, "action", ""), self._clock()
        with self._lock:
            if getattr(record, "ends_state", False):
                self._said.clear()
            if not action or record.levelno < logging.WARNING:
                return True
            about = tuple(str(getattr(record, name, "")) for name in ("action", "slot", "run"))
            text = re.sub(r"[0-9]+", "#", record.getMessage())
            before, at = self._said.pop(about, ("", now))
            self._said[about] = (text, now)
            if len(self._said) > STATES_MAX:
                del self._said[next(iter(self._said))]
            return text != before or now - at >= STATE_ENDS_AFTER_S


class JournalOutput(logging.Handler):
    """Sends each line to the journal, with its priority and its fields."""

    def __init__(self, identifier: str, *, address: str = JOURNAL) -> None:
        super().__init__()
        self._address = address
        self.setFormatter(logging.Formatter("%(message)s"))
        self._identifier = identifier
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        about = {f"OROBOROS_{name.upper()}": str(getattr(record, name, "") or "") for name in FIELDS}
        text, priority = self.format(record), priority_of(record.levelno)
        fields = {"PRIORITY": str(priority), "SYSLOG_IDENTIFIER": self._identifier, **about}
        datagram = b"".join(journal_field(name, NO_SECRETS.redact(value)) for name, value in fields.items() if value)
        try:
            self._socket.sendto(datagram + journal_field("MESSAGE", text), self._address)
        except OSError:
            sys.stderr.write(with_priority(text, priority))

    def close(self) -> None:
        self._socket.close()
        super().close()


def priority_of(level: int) -> int:
    """Return the priority of syslog(3) of a level of `logging`."""
    levels = (
        (logging.CRITICAL, _CRITICAL),
        (logging.ERROR, _ERROR),
        (logging.WARNING, _WARNING),
        (logging.INFO, _INFO),
    )
    return next((priority for least, priority in levels if level >= least), _DEBUG)


def journal_field(name: str, value: str) -> bytes:
    """Return a field as the native protocol has it: with its length, so that a value may hold any bytes."""
    data = value.encode("utf-8", "replace")[:MESSAGE_BYTES_MAX]
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


def with_priority(text: str, priority: int) -> str:
    """Return lines as the journal reads their priority from a stream."""
    return "".join(f"<{priority}>{line}\n" for line in text.splitlines())


def is_journal() -> bool:
    """Say whether stderr is the journal: systemd names the file that it connected (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def tell_error(text: str) -> None:
    """Write to stderr why a command failed, as an error where that is the journal."""
    sys.stderr.write(with_priority(text, _ERROR) if is_journal() else f"{text}\n")


def log_to_stderr(form: str = FORMAT, *, identifier: str = "oroboros") -> None:
    """Begin to log, in the journal under an identifier. Safe to repeat: the newest form counts."""
    output: logging.Handler
    if is_journal():
        output = JournalOutput(identifier)
    else:
        output = logging.StreamHandler(sys.stderr)
        output.setFormatter(logging.Formatter(form))
    output.addFilter(NO_SECRETS)
    output.addFilter(OneLineAState())
    logging.basicConfig(level=logging.INFO, handlers=[output], force=True)
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    sys.excepthook = _tell_end
    threading.excepthook = _tell_end_of_thread


def hide_contents_of(files: Iterable[Path]) -> None:
    """Mask every line of these files from now on; one that cannot be read is somebody else's error."""
    for file in files:
        try:
            with file.open("rb") as opened:
                text = opened.read(SECRETS_BYTES_MAX).decode("utf-8", "replace")
        except OSError:
            continue
        NO_SECRETS.hide(line.strip() for line in text.splitlines() if not line.lstrip().startswith("#"))


def _tell_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = NO_SECRETS.redact("".join(traceback.format_exception(kind, error, trace)))
    sys.stderr.write(with_priority(text, _CRITICAL) if is_journal() else text)


def _tell_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        _tell_end(ended.exc_type, ended.exc_value, ended.exc_traceback)
