"""Does no line that a process of ours writes hold a secret?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
