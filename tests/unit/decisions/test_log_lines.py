"""Is the line of a log that names the error the one that a person would point at, and does it only show?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.decisions.log_lines import LOG_LINE_CHARS_MAX, error_line, last_lines, without_colours

SAMPLES = Path(__file__).resolve().parents[2] / "samples"


def failures(file: str) -> Iterator[tuple[str, str, str]]:
    """Outputs of failures, each with its name and the line to point at."""
    for part in (SAMPLES / file).read_text().split("=====8< ")[1:]:
        head, _, body = part.partition("\n-----8<\n")
        name, _, line = head.partition("\n")
        yield name, line, body.replace("\\x1b", "\x1b")


#: What the programs themselves wrote, shortened.
FAILURES = list(failures("failures.txt"))


@pytest.mark.parametrize(("line", "body"), [one[1:] for one in FAILURES], ids=[one[0] for one in FAILURES])
def test_the_line_that_names_the_error_is_found(line: str, body: str) -> None:
    assert error_line(body.encode()) == line
    # Also behind what an app wrote before it failed, with colours, and with a last word of its own.
    before = "2026-11-30 12:00:00 INFO listening on 127.0.0.1:8200\nGET / 200 in 3 ms\n" * 40
    coloured = "".join(f"\x1b[31m{one}\x1b[0m\n" if one.strip() else "\n" for one in body.split("\n"))
    assert error_line(f"{before}{coloured}".encode()) == line


#: Forms that programs document or are known for, each with a part of the line to point at.
FORMS = list(failures("failure-forms.txt"))


@pytest.mark.parametrize(("told", "body"), [one[1:] for one in FORMS], ids=[one[1][:40] for one in FORMS])
def test_an_error_is_known_by_its_form(told: str, body: str) -> None:
    assert told in error_line(body.encode())


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("", ""),
        (" \n\n", ""),
        ("only words\n", "only words"),
        ("first\nsecond\n\n", "second"),
        ("3.1%\r50%\r100%\n", "100%"),
        ("\x1b[2J\x1b]0;owned\x07red \x1b[31malert\x1b[0m\x00\n", "red alert\\x00"),
        ("ValueError: bad \u202etext\u200b here\n", "ValueError: bad \\x202etext\\x200b here"),
        ("password=hunter2\n", "password=[secret]"),
    ],
)
def test_a_line_only_shows(body: str, line: str) -> None:
    assert error_line(body.encode()) == line


def test_a_secret_is_masked_before_a_line_is_cut() -> None:
    for size in range(150, 220):
        line = error_line(f"Error: {'x' * size} postgres://app:hunter2hunter2@db/shop\n".encode())
        assert "hunter" not in line
        assert len(line) <= LOG_LINE_CHARS_MAX


def test_the_last_lines_are_without_colours_and_secrets() -> None:
    body = b"-----BEGIN PRIVATE KEY-----\nMIIEvQ\nabc\n-----END PRIVATE KEY-----\n\x1b[1mbold\x1b[0m\ttext\x07\nlast"
    assert last_lines(body, lines=3) == ("[secret]", "bold\ttext\\x07", "last")
    assert last_lines(body, lines=0) == ()


#: Each grows with its number, and is what some expression might read again and again.
HARD: dict[str, Callable[[int], str]] = {
    "blanks": lambda n: " " * n + "x",
    "letters": lambda n: "a" * n,
    "names": lambda n: "a." * n,
    "places": lambda n: "a:1:" * n,
    "brackets": lambda n: "[a " * n,
    "boxes": lambda n: "- " * n,
    "escapes": lambda n: "\x1b[" * n,
    "lines": lambda n: "Error: a:\n" * n,
    "causes": lambda n: "Caused by:\n" * n,
    "objects": lambda n: "{" * n,
}


@pytest.mark.parametrize("grow", HARD.values(), ids=HARD.keys())
def test_eight_times_the_log_takes_no_more_than_a_multiple_of_the_time(grow: Callable[[int], str]) -> None:
    def took_s(text: str) -> float:
        began = time.process_time()
        error_line(text.encode())
        return time.process_time() - began

    small = took_s(grow(2_000))
    # What is quadratic takes 64 times as long. Below a fifth of a second nothing can be told apart.
    assert took_s(grow(16_000)) < max(0.2, 24 * small)


def test_colours_are_taken_out_whole() -> None:
    assert without_colours("\x1b[1;31ma\x1b[0m\x1b]8;;http://x\x1b\\b\x1b]8;;\x07\x1b(Bc\x9b2Kd") == "abcd"
