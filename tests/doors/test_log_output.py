"""Does no line that a process of ours writes hold a secret?"""

from __future__ import annotations

import logging
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from controller.doors import log_output
from controller.doors.log_output import JournalOutput, OneLineAState, with_priority
from controller.model.errors import Unavailable

CHECKOUT = Path(__file__).resolve().parents[2]
TOKEN = "ghs_12345_eyJhbGciOi." + "Tk0-_" * 300 + ".tail"
SECRET = "w3bh00k-s3cret-of-the-tests"

WAYS = {
    "a line": "log.info('it is %s and %s', TOKEN, SECRET)",
    "a line of another logger": "logging.getLogger('httpx').warning(TOKEN + SECRET)",
    "a traceback": (
        "\ntry:\n    raise ValueError(TOKEN) from OSError(SECRET)\nexcept ValueError:\n    log.exception('x')"
    ),
    "a stack": "log.warning('x', stack_info=True); f = TOKEN + SECRET",
    "the end": "raise RuntimeError(TOKEN + ' ' + SECRET)",
    "the end of a thread": (
        "\nimport threading\ndef end():\n    raise RuntimeError(TOKEN + SECRET)\n"
        "t = threading.Thread(target=end)\nt.start()\nt.join()"
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_no_line_holds_a_secret(way: str, tmp_path: Path) -> None:
    secrets_file = tmp_path / "secrets"
    secrets_file.write_text(f"# the new one\n{SECRET}\n")
    program = (
        "import logging, sys\nfrom pathlib import Path\n"
        "from controller.doors.log_output import hide_contents_of, log_to_stderr\n"
        "TOKEN, SECRET = sys.argv[1:3]\nlog = logging.getLogger('x')\n"
        "log_to_stderr()\nhide_contents_of([Path('/nonexistent'), Path(sys.argv[3])])\n"
        f"{way}\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, TOKEN, SECRET, str(secrets_file)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PYTHONPATH": str(CHECKOUT)},
    )
    assert ended.stderr
    assert TOKEN[:20] not in ended.stderr
    assert TOKEN[-30:] not in ended.stderr
    assert SECRET not in ended.stderr


def read_fields(datagram: bytes) -> dict[str, str]:
    """Read what the native protocol of the journal carries, where each value comes with its length."""
    fields = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        (length,) = struct.unpack("<Q", rest[:8])
        fields[name.decode()] = rest[8 : 8 + length].decode()
        datagram = rest[8 + length + 1 :]
    return fields


def test_the_journal_gets_priority_fields_and_no_secret(tmp_path: Path) -> None:
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.bind(str(tmp_path / "journal"))
    journal.settimeout(10)
    output = JournalOutput("ouroboros-worker", address=str(tmp_path / "journal"))
    output.addFilter(log_output.NO_SECRETS)
    logger = logging.getLogger("journal.there")
    logger.addHandler(output)

    logger.error("gate: %s", Unavailable("DoorAway", f"no answer\nto {TOKEN}"), extra={"slot": "main", "run": 7})

    fields = read_fields(journal.recv(1 << 20))
    journal.close()
    output.close()
    logger.removeHandler(output)
    assert fields.pop("MESSAGE").startswith("gate: DoorAway: no answer\nto ")
    assert fields == {
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "ouroboros-worker",
        "OROBOROS_SLOT": "main",
        "OROBOROS_RUN": "7",
        "OROBOROS_REASON": "DoorAway",
    }
    assert TOKEN[:20] not in str(fields)


def test_what_the_journal_does_not_take_goes_to_stderr_with_its_priority(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = JournalOutput("ouroboros-worker", address=str(tmp_path / "nobody"))
    logger = logging.getLogger("journal.away")
    logger.addHandler(output)

    logger.warning("two\nlines")

    output.close()
    logger.removeHandler(output)
    assert capsys.readouterr().err == "<4>two\n<4>lines\n" == with_priority("two\nlines", 4)


def test_a_state_that_lasts_is_one_line_until_it_changes_or_ends() -> None:
    now = [0.0]
    said: list[str] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    output = Keeps()
    output.addFilter(OneLineAState(lambda: now[0]))
    logger = logging.getLogger("states")
    logger.setLevel(logging.INFO)
    logger.addHandler(output)

    def fails(text: str, **about: object) -> None:
        now[0] += 5
        logger.warning(text, extra={"action": "tick", **about})

    for tries in (1, 2, 3):
        fails(f"away, {tries} tries")
    fails("refused")
    fails("away, 4 tries")
    assert said == ["away, 1 tries", "refused", "away, 4 tries"]

    logger.info("works again", extra={"action": "over", "ends_state": True})
    fails("away, 1 tries")
    fails("away, 1 tries", run=8)
    now[0] += log_output.STATE_ENDS_AFTER_S
    fails("away, 2 tries", run=8)
    assert said[3:] == ["works again", "away, 1 tries", "away, 1 tries", "away, 2 tries"]

    logger.info("done", extra={"action": "tick"})
    logger.info("done", extra={"action": "tick"})
    assert said[7:] == ["done", "done"]
    logger.removeHandler(output)
