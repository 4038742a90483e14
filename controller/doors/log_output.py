"""Where do the log lines of our processes go, and what is never in them? To stderr, and no secret.

Every line passes one filter, with the traceback that belongs to it; so do the traceback that ends a process and those
that end its threads. What has a secret's form is masked always, what has none (webhook secrets) when its file is named.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

from controller.model.redaction import redact

FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
SECRETS_BYTES_MAX: Final = 64 << 10
_FORMATTER: Final = logging.Formatter()


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
        record.msg, record.args = self.redact(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        # The formatter takes the text that is there, and makes none of its own.
        record.exc_text = self.redact(record.exc_text) if record.exc_text else None
        record.stack_info = self.redact(record.stack_info) if record.stack_info else None
        return True


#: One for the process: what was named once is masked in every line after it.
NO_SECRETS: Final = NoSecrets()


def log_to_stderr(form: str = FORMAT) -> None:
    """Begin to log. Safe to repeat: the newest form counts."""
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(logging.Formatter(form))
    output.addFilter(NO_SECRETS)
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
    sys.stderr.write(NO_SECRETS.redact("".join(traceback.format_exception(kind, error, trace))))


def _tell_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        _tell_end(ended.exc_type, ended.exc_value, ended.exc_traceback)
