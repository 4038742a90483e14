"""What do worker and judge tell each other? An order and a result, each a small file replaced by one rename.

Where Oroboros deploys itself, the worker that built and gated a release is replaced by it. So it writes what is to be
done, and a judge does that with the code of the release before. The order stays until the result is written: a judge
that died is started again and begins anew. The result stays until the next one: whichever worker comes up reads it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from controller.decisions.live_files import parse_live
from controller.disk import sync_folder
from controller.model.errors import Unavailable
from controller.model.names import MAIN, Layout, Sha, parse_sha
from controller.model.nouns import Live, Verdict
from controller.model.states import Outcome

_BYTES_MAX: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOrder:
    """What the judge is to do."""

    generation: int
    release: Sha
    #: What production is to serve, and what it goes back to.
    live: Live
    back: Live
    #: The folder of the release whose code the judge runs; "": what was installed.
    judge: str


def order_path(layout: Layout) -> Path:
    """Return where the order lies."""
    return layout.root / "judge" / "order.json"


def result_path(layout: Layout) -> Path:
    """Return where the result of the last order lies."""
    return layout.root / "judge" / "result.json"


def write_order(layout: Layout, order: JudgeOrder) -> None:
    """Replace the order, durable. Safe to repeat."""
    _replace(order_path(layout), dataclasses.asdict(order))


def read_order(layout: Layout) -> JudgeOrder | None:
    """Return the order that is open; None without one, or with one that makes no sense."""
    value = _read(order_path(layout))
    try:
        return JudgeOrder(
            generation=int(str(value["generation"])),
            release=parse_sha(str(value["release"])),
            live=parse_live(json.dumps(value["live"])),
            back=parse_live(json.dumps(value["back"])),
            judge=str(value["judge"]),
        )
    except (KeyError, ValueError):
        return None


def end_order(layout: Layout, verdict: Verdict) -> None:
    """Write the result, then remove the order; killed in between, the next judge finds its work done."""
    _replace(result_path(layout), dataclasses.asdict(verdict))
    order_path(layout).unlink(missing_ok=True)


def read_result(layout: Layout) -> Verdict | None:
    """Return what the judge said last; it is about one generation, and about no other."""
    value = _read(result_path(layout))
    try:
        return Verdict(
            kind="judge",
            slot=MAIN,
            generation=int(str(value["generation"])),
            release=Sha(str(value["release"])),
            outcome=Outcome(str(value["outcome"])),
            reason=str(value["reason"]),
            message=str(value["message"]),
            blames_release=value["blames_release"] is True,
        )
    except (KeyError, ValueError):
        return None


def _read(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text()[:_BYTES_MAX])
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _replace(path: Path, value: object) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
        sync_folder(str(path.parent))
    except OSError as error:
        raise Unavailable("JudgeFileNotWritten", f"{path} could not be written: {error.strerror}") from error
