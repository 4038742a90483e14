"""Find the line of a log that names the error, and show lines of it. Bytes of a log's end in, text that only shows out.

The last line of a failure seldom says what failed: after it come stack frames, versions, hints and summaries. Each line
is weighed by its form, whichever program wrote it:

- an exception, a panic, a fatal error, by name; of several, the last, which is the outermost in Python and the root
  cause in Java and Ruby; of a compiler's errors the first, since the others often follow from it;
- else a line that a program marked as an error; else one with the words of an error; else the last that says something.

What belongs to no line: colours, prefixes of loggers' boxes, frames, quoted source, carets, banners, summaries.
Secrets are masked first, in the whole text, so that nothing is cut through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from controller.model.redaction import redact

#: Enough of a log's end for its last lines, and for the line that names an error.
LOG_END_BYTES: Final = 256 << 10
ERROR_TAIL_BYTES: Final = 32 << 10
LOG_LINE_CHARS_MAX: Final = 200
#: Lines in which the error is looked for.
LINES_WEIGHED_MAX: Final = 400
#: A line that a program marked as an error counts more than an exception that lies so many lines before it.
NEARBY_LINES: Final = 60
_JOINED_LINES: Final = 3
_WEIGHED_CHARS_MAX: Final = 2_000

#: ECMA-48: control sequences, strings to the terminal, and two-character escapes.
_ESCAPES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*+[ -/]*+[@-~]|(?:\x1b[]P^_X]|\x9d|\x90)[^\x07\x1b\x9c]*+(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*+[0-~]|\x1b"
)


class Weight(IntEnum):
    """How surely a line names the error."""

    NOISE = 0
    PLAIN = 1
    SUMMARY = 2
    WORDS = 3
    MARKED = 4
    NAMED = 5


@dataclass(frozen=True, slots=True)
class _Line:
    """A line as it is shown, and what it is."""

    text: str
    weight: Weight
    #: One of a compiler's: of these in a row the first counts.
    is_list: bool = False


def without_colours(text: str) -> str:
    """Return the text without what a terminal takes for colours and movements."""
    return _ESCAPES.sub("", text)


def visible_text(text: str) -> str:
    """Return a line without colours; tabs stay, other control characters are spelled."""
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in without_colours(text))


def last_lines(end: bytes, *, lines: int) -> tuple[str, ...]:
    """Return the last lines, without secrets, and without what a terminal takes for an order."""
    text = redact(without_colours(end.decode("utf-8", "replace")))
    found = text.splitlines()[-lines:] if lines > 0 else []
    return tuple(visible_text(line) for line in found)


def last_visible_line(tail: bytes) -> str:
    """Return the last line that says something, on one line and bounded; "" when there is none."""
    text = redact(without_colours(tail.decode("utf-8", "replace")))
    return next((_shown(line) for line in reversed(text.splitlines()) if line.strip()), "")


def error_line(end: bytes) -> str:
    """Return the line of a log's end that names the error, bounded; the last that says something where none does; ""
    for an empty log."""
    text = redact(without_colours(end.decode("utf-8", "replace")))
    lines = [_last_state(line)[:_WEIGHED_CHARS_MAX] for line in text.splitlines()[-LINES_WEIGHED_MAX:]]
    return _shown(_chosen(_inner(lines)))


def _shown(text: str) -> str:
    return visible_text(" ".join(text.split()))[:LOG_LINE_CHARS_MAX]


def _last_state(line: str) -> str:
    """Return what a line shows at last: a progress bar writes over itself."""
    return next((part for part in reversed(line.split("\r")) if part.strip()), "")


# -- which line -------------------------------------------------------------------------------------------------------

#: What pip shows of another program.
_OUTPUT_BEGINS: Final = re.compile(r"\[\d+ lines? of output\]\s*$")
_OUTPUT_ENDS: Final = re.compile(r"\[end of output\]\s*$")


def _inner(lines: Sequence[str]) -> Sequence[str]:
    """Return the lines of a program that another one quotes because it failed; all without one."""
    ends = next((n for n in range(len(lines) - 1, -1, -1) if _OUTPUT_ENDS.search(lines[n])), None)
    if ends is None:
        return lines
    begins = next((n for n in range(ends, -1, -1) if _OUTPUT_BEGINS.search(lines[n])), None)
    quoted = lines[begins + 1 : ends] if begins is not None else ()
    return quoted if any(line.strip() for line in quoted) else lines


def _chosen(lines: Sequence[str]) -> str:
    weighed = _weigh(lines)
    places = [n for n, line in enumerate(weighed) if line.weight is not Weight.NOISE]
    if not places:
        return next((line for line in reversed(lines) if line.strip()), "")
    named = [n for n in places if weighed[n].weight is Weight.NAMED]
    marked = [n for n in places if weighed[n].weight is Weight.MARKED]
    if named and not (marked and marked[-1] - named[-1] > NEARBY_LINES):
        at = _first_of_list(weighed, named)
    elif marked:
        at = _first_of_list(weighed, marked)
    else:
        most = max(weighed[n].weight for n in places)
        at = [n for n in places if weighed[n].weight is most][-1]
    return _with_message(lines, weighed, at)


def _first_of_list(weighed: Sequence[_Line], places: Sequence[int]) -> int:
    """Return the last place; where that is one of a compiler's list, the first of that list."""
    last = places[-1]
    if not weighed[last].is_list:
        return last
    first = last
    for place in reversed(places):
        if not weighed[place].is_list:
            break
        first = place
    return first


#: After these comes what it is about.
_ANNOUNCES: Final = re.compile(
    r"(?::|\[|\{|validation errors? for \S+(?: [\w.\[\]]+)?|ERROR in \S+(?: \S+)?|Failed to compile\.?|^(?:\w+\\)+\w+)$"
)
#: Symfony and what is built with it: then a paragraph follows.
_PLACE_IN_PHP: Final = re.compile(r"^In \S+\.php line \d+:$")
_MESSAGE: Final = re.compile(r"^\s*\"?message\"?: ([\"'])(.*)\1,?$")
_CAUSE: Final = re.compile(r"^\s*\[?cause\]?: (.+)$")
_CAUSES: Final = re.compile(r"^Caused by:$")
_CAUSE_IN_LIST: Final = re.compile(r"^\s+(?:\d+: )?(\S.*)$")
#: Node's own words around the reason of a rejected promise.
_REASON: Final = re.compile(r"This error originated either by throwing .* with the reason \"(.*)\"\.$")
_LOOK_AHEAD: Final = 30


def _with_message(lines: Sequence[str], weighed: Sequence[_Line], at: int) -> str:
    """Return a line, joined with those after it as long as it only announces something, and with its cause."""
    text = _REASON.sub(r"\1", weighed[at].text)
    after = lines[at + 1 : at + 1 + _LOOK_AHEAD]
    if _PLACE_IN_PHP.match(text):
        return _paragraph(after) or text
    if text.endswith(("[", "{")):
        message = next((found[2] for line in after if (found := _MESSAGE.match(line)) is not None), "")
        text = text.rstrip("[{ ")
        if message and text.endswith(":"):
            return f"{text} {message}"
    joined = 0
    for place in range(at + 1, len(lines)):
        if joined == _JOINED_LINES or not _ANNOUNCES.search(text):
            break
        line = weighed[place]
        if line.text and line.weight is not Weight.NOISE:
            text, joined = f"{text}{':' if joined and not text.endswith(':') else ''} {line.text}", joined + 1
        elif line.text and not _FRAME.match(lines[place]) and not _HEADING.fullmatch(line.text):
            break
    cause = _cause(after)
    return f"{text} (cause: {cause})" if cause and cause not in text else text


def _paragraph(lines: Sequence[str]) -> str:
    found: list[str] = []
    for line in lines:
        if not line.strip() and found:
            break
        if line.strip():
            found.append(line.strip())
    return " ".join(found)


def _cause(after: Sequence[str]) -> str:
    """Return the last of the causes that a program lists below its error; "" without one."""
    found = ""
    in_list = False
    for line in after:
        if (one := _CAUSE.match(line)) is not None:
            found = one[1].rstrip(" {")
        elif _CAUSES.match(line):
            in_list = True
        elif in_list and (one := _CAUSE_IN_LIST.match(line)) is not None and not _FRAME.match(line):
            found = one[1]
        elif in_list and line.strip():
            break
    return found


# -- what a line is ---------------------------------------------------------------------------------------------------

#: What draws a box, a bullet or a branch around a line.
_BOX: Final = re.compile(
    r"^[\s|+>*\u00b7\u00bb\u00d7\u2022\u203a\u2139\u2190-\u21ff\u2300-\u23ff\u2500-\u257f\u25a0-\u27bf\u2a2f-]*+(?<![-\w])"
)
_RULE: Final = re.compile(r"[\s\W_]*")
_HEADING: Final = re.compile(
    r"(?:ERRORS|Require stack|Stack trace|stack backtrace|Caused by|Traceback[^:]*):?", re.IGNORECASE
)
#: A time, a process, a logger, a severity, as loggers put them before a message.
_STAMP: Final = re.compile(
    r"^(?:\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?\]?:?\s+"
    r"|\[?\d\d:\d\d:\d\d(?:[.,]\d+)?(?: [AP]M)?\]?\s+|\[\d{1,9}\]\s+)+"
)
_LEVEL: Final = re.compile(
    r"^(?:\[?(?P<bad>ERROR|ERR|FATAL|CRITICAL|CRIT|PANIC|ALERT|EMERG|SEVERE)\]?(?=[\s:|\]])"
    r"|\[?(?P<good>INFO|WARN|WARNING|DEBUG|NOTICE|TRACE|VERBOSE)\]?(?=[\s:|\]]))(?:[\s:|-]|\]\s?)*",
)
_LEVEL_INSIDE: Final = re.compile(r"^\S{1,60}(?: \S{1,60}){0,3}? (?:- )?\[?(ERROR|FATAL|CRITICAL|SEVERE)\]?(?=[\s:|])")
_LOGFMT: Final = re.compile(r"\b(?:level|lvl|severity)=\"?(error|fatal|critical|panic|crit|alert)\b", re.IGNORECASE)
_LOGFMT_GOOD: Final = re.compile(r"\b(?:level|lvl|severity)=\"?(?:info|warn|warning|debug|trace)\b", re.IGNORECASE)

_FRAME: Final = re.compile(
    r"^\s*+(?:at\s(?!least|most|the|a)\S.*|File \".*\", line \d+.*|from .*:\d+:in .*|#\d+\s.*|\d+: +0x[0-9a-f]+.*"
    r"|\.\.\. \d+ (?:more|common frames).*|goroutine \d+ \[.*|created by .*|\t?\S+\(.*\)$|\t\S+\.(?:go|s):\d+ .*"
    r"|\d+:\s+(?:\S+::)+\S+.*|\[<[0-9a-f]+>\].*|thrown in .* on line \d+|from .*\.rb:\d+.*|main\.\w+\(.*"
    r"|node:internal/.*|internal/.*\.js:\d+.*|file:///.*:\d+|/\S+:\d+|[A-Za-z]:\\\S+:\d+|\S+\.(?:js|mjs|cjs|ts|rb|py|php):\d+)$"
)
_SOURCE: Final = re.compile(
    r"^\s*+(?:[>|\u2192\u276f]?\s*+\d+\s*+[|│].*|│.*|[|│]\s*+|[|│]?\s*+[\^~].*|\.\.\.|-->\s.*|╭─.*|╰─++\s*+|=\s(?:note|help):.*)$"
)
#: What comes after an error and names none: by its beginning.
_TRAILER_BEGINNINGS: Final = (
    # Python, its libraries and servers
    *("Traceback (most recent call last):", "The above exception was", "During handling of the", "Call stack:"),
    *("Arguments:", "(Background on this error at", "For further information visit", "[SQL:", "[parameters:"),
    *("Ran ", "FAILED (", "=====", "-----", "_____", "Exception in worker process", "Reason: Worker failed"),
    *("Reason: App failed", "Shutting down", "Worker exiting", "Handling signal", "Booting worker", "Listening at"),
    *("Control socket", "Application startup", "Application shutdown", "Started server process", "Waiting for"),
    *("Finished server process", "[end of output]", "See above for output"),
    # Node, its package managers and bundlers
    *("Node.js v", "at ignore-listed frames", "(Use `node --trace", "Require stack:", "[errors]: [", "errors: ["),
    *("npm warn", "npm WARN", "npm notice", "npm info", "ELIFECYCLE", "info Visit", "error during build:", "$ "),
    *("error Command failed with", "error: script ", "Build failed in", "Build failed with", "Build failed because"),
    *("Export encountered", "Static worker exited", "Next.js build worker exited", "Error occurred prerendering"),
    *("Test Suites:", "Tests:", "Snapshots:", "Time:", "# tests", "# suites", "# pass", "# fail", "# cancelled"),
    *("# skipped", "# todo", "# duration_ms", "Done in "),
    # Rust, Go, C
    *("error: could not compile", "error: aborting due to", "For more information about this error", "note:"),
    *("Some errors have detailed", "stack backtrace:", "[signal ", "collect2: error", "compilation terminated"),
    *("Finished `", "Running `", "Compiling ", "exit status "),
    # Ruby, PHP, Perl, Java
    *("bin/rails aborted!", "rails aborted!", "rake aborted!", "Tasks: TOP", "(See full trace", "Stack trace:"),
    *("BEGIN failed--", "Compilation failed in require", "APPLICATION FAILED TO START", "FAILURE: Build failed"),
    *("BUILD FAILED", "BUILD FAILURE", "* Try", "* Get more", "* Where", "Run with --", "Re-run Maven", "-> [Help"),
    *("To see the full stack trace", "For more information", "[Help "),
    # Postgres
    *("DETAIL:", "CONTEXT:", "STATEMENT:", "QUERY:", "LOCATION:", "HINT:", "Is the server running"),
    # any
    *("help:", "hint:", "Hint:", "Read more", "Learn more", "See http", "See also", "See more", "Visit ", "More info"),
    *("http://", "https://", "Process exited", "Aborted!", "oroboros: ended after"),
)
_NPM_TRAILER: Final = re.compile(
    r"npm (?:error|ERR!)(?: (?:code|errno|syscall|path|command|node|npm|cwd|argv|stack|dest|workspace|location|signal"
    r"|type|spawnargs)\b.*| (?:Lifecycle script|Error: command failed|A complete log|For a full|See |Usage:|Options:"
    r"|This is probably not|Failed at the|a package version that|notarget (?:In most|a package)|To see a list"
    r"|Fix the upstream|this command with|to accept an|Try |Run \"|404 +(?:Note that|You should|'.* is not in)).*"
    r"| {2,}.*)?"
)
_TRAILER: Final = re.compile(
    r"(?i:exit(?:ed)?(?: with)?(?: (?:code|status))?:? \d+.*)|Found \d+ errors?.*"
    r"|\d+ (?:errors?|warnings?)(?: generated)?\.?"
    r"|.*compiled with \d+ errors?.*|\d+ (?:failed|passed)\b.*\bin [\d.]+s.*|LINE \d+:.*|thrown in .*"
    r"|Worker \(pid:?\d+\) (?:exited|terminated|was sent SIG(?!KILL)).*"
    r"|make(?:\[\d+\])?: (?:\*\*\* Waiting|Entering|Leaving|Nothing|Target).*"
    # The rest of an object: brackets, and fields that explain nothing.
    r"|[\[\](){}<>,;.\s]*"
    r"|(?!error|message|reason|detail)\w+: (?:'[^']*'|\"[^\"]*\"|-?\d+|\[\w+\]|undefined|null|true|false),?\s*}?"
)


def _is_trailer(text: str) -> bool:
    return text.startswith(_TRAILER_BEGINNINGS) or any(one.fullmatch(text) for one in (_NPM_TRAILER, _TRAILER))


_NAME: Final = (
    r"(?:[A-Za-z_$][\w$]*+(?:\.|::|\\|/))*"
    r"(?:[A-Z_$][\w$]*(?:Error|Exception|Fault|Failure|Failed|Violation|NotFound|Required|Missing|Invalid|Refused|Denied"
    r"|Timeout|Exhausted|Mismatch|Overflow|Interrupt|Exit|Rejection|Configured|DoesNotExist)|Error|Exception)"
)
_BEFORE_NAME: Final = (
    r"Uncaught |Unhandled exception\. |Error: |error: |fatal: |Caused by: |Next |exception: "
    r"|Exception in thread \"[^\"]*\" "
)
_AFTER_NAME: Final = r"(?:: |:$|\]|$| \{| - |\()"
#: An exception, a panic, or the error of a program that cannot go on.
_NAMED: Final = re.compile(
    "|".join(
        (
            # Python, Node, Java, .NET, Deno: a name, and what it says.
            rf"(?:{_BEFORE_NAME}){{0,4}}(?:\[(?={_NAME}))?{_NAME}(?: ?\[[\w-]+\])?(?: \(.{{1,60}}\))?{_AFTER_NAME}",
            # Ruby, Elixir
            r"\S+:\d+:in .*: .+ \([A-Z]\w*(?:::\w+)*\)$",
            r".* \((?:[A-Z]\w*::)*[A-Z]\w*(?:Error|Exception)\)$",
            r"\(\w+\) ",
            # PHP, Symfony
            r"(?:PHP )?(?:Fatal|Parse|Compile|Catchable fatal|Recoverable fatal) error: ",
            r"In \S+\.php line \d+:$",
            # Go, Rust, C
            r"(?:fatal error|fatal|panic|FATAL|FATAL ERROR): ",
            r"panic\(",
            r"thread '.*' (?:\(\d+\) )?panicked at",
            r"(?:Segmentation fault|Bus error|Illegal instruction|Killed|Out of memory)\b",
            # Perl, Spring, Jest, webpack, pnpm
            r"Can't locate .* in @INC",
            r"Description:$",
            r"expect\(",
            r"Module (?:not found|parse failed|build failed)\b",
            r"ERR_\w+\s",
            # Shells and the programs that they call
            r".{1,200}: (?:command )?not found$",
            r".{1,200}: command not found: ",
            r".{1,200}: (?:Permission denied|No such file or directory|unbound variable|Exec format error)$",
            r".{1,200}: (?:bad interpreter|cannot execute)",
            r"make(?:\[\d+\])?: \*\*\* (?!\[)",
            # Postgres
            r"(?:psql|pg_dump|pg_restore|createdb)(?::\S+)?: (?:error|fatal|ERROR|FATAL|PANIC): ",
            r"(?:ERROR|FATAL|PANIC): {2}",
            r"oroboros: (?:cannot start|could not)",
            r"E: ",
        )
    )
)
#: Compilers, checkers and installers: many errors, of which the first counts.
_LISTED: Final = re.compile(
    r"\S+[(:]\d+(?:[:,]\d+)*\)?:? ?(?:-|:)? ?(?:fatal )?(?:error|Error|ERROR)\b"
    r"|\S+\.(?:go|rs|c|cc|cpp|h|java|kt|swift|scala|ts|tsx|vue|svelte):\d+(?::\d+)?: "
    r"|\S+:\[\d+,\d+\] "
    r"|(?:error|ERROR|fatal)(?:\[\w+\])?: "
    r"|\[ERROR\] |\[[A-Z]+_[A-Z0-9_]+\] |ERROR in |error TS\d+: "
    r"|npm (?:error|ERR!) |not ok \d|FAILED \S+::"
    r"|.*: undefined reference to "
)
_MADE: Final = re.compile(r"make(?:\[\d+\])?: \*\*\* \[.*\] (?:Error \d+|\w+)")
_WORDS: Final = re.compile(
    r"(?i)\b(?:errors?|exception|failed|failure|fails|fatal|cannot|can't|could not|couldn't|unable|not found|denied"
    r"|refused|missing|invalid|undefined|unknown|unexpected|abort(?:ed|ing)?|killed|timed out|timeout|no such"
    r"|unsupported|conflict|must(?: be)?|required|does not exist|already in use|in use|unauthorized|forbidden"
    r"|not (?:set|installed|defined|allowed|permitted|valid|supported|exist|configured)|illegal|corrupt|panicked"
    r"|unresolved|crash(?:ed)?|mismatch|out of)\b"
)
_GOOD: Final = re.compile(
    r"(?i)\b(?:0 errors?|no errors?|without errors?|0 failed|error[-_ ]?(?:handler|page|log)s?)\b"
)
_TRACEBACK: Final = re.compile(r"^(?P<before>.*?)Traceback \(most recent call last\):$")
_GROUP: Final = re.compile(r"^\s*[|+]")


def _weigh(lines: Sequence[str]) -> list[_Line]:
    """Return each line with its weight."""
    found: list[_Line] = []
    in_traceback = in_errors = False
    for line in lines:
        traceback = _TRACEBACK.match(line)
        one = _weigh_line(line)
        bare = re.sub(r"^\s*(?:[|+] ?)+", "", line) if _GROUP.match(line) else line
        if traceback is not None:
            in_traceback, one = True, _Line("", Weight.NOISE)
        elif in_traceback and bare.strip() and not bare.startswith((" ", "\t")) and not bare.startswith("+-"):
            # The first line that is not indented is the exception, whatever its name is.
            in_traceback = False
            is_group = "ExceptionGroup:" in bare
            one = _Line(bare.strip(), Weight.PLAIN if is_group else Weight.NAMED, is_list=bool(_GROUP.match(line)))
        elif in_traceback:
            one = _Line("", Weight.NOISE)
        elif in_errors and one.weight is Weight.NAMED:
            one = _Line(one.text, Weight.PLAIN)  # Node shows the errors of an AggregateError in it
        in_errors = line.strip() == "[errors]: [" or (in_errors and line.strip() != "]")
        found.append(one)
    return found


def _weigh_line(line: str) -> _Line:
    text = _STAMP.sub("", _BOX.sub("", line).strip()).strip()
    if not text or _RULE.fullmatch(text):
        return _Line("", Weight.NOISE)
    if text.startswith("{") and (told := _from_json(text)) is not None:
        return told
    level = _LEVEL.match(text)
    is_marked = bool(level and level["bad"]) or bool(_LEVEL_INSIDE.match(text)) or bool(_LOGFMT.search(text))
    bare = text[level.end() :].strip() if level else text
    if _FRAME.match(line.rstrip()) or _FRAME.match(text) or _SOURCE.match(line):
        return _Line(text, Weight.NOISE)
    if _is_trailer(text) or (bare and _is_trailer(bare)):
        return _Line(text, Weight.NOISE)
    if level and not _RULE.sub("", bare):
        return _Line("", Weight.NOISE)
    if (level and level["good"]) or _LOGFMT_GOOD.search(text):
        return _Line(text, Weight.PLAIN)
    if _MADE.match(text):
        return _Line(text, Weight.SUMMARY)
    if _LISTED.match(text):
        return _Line(text, Weight.NAMED, is_list=True)
    if _NAMED.match(text) or (level and _NAMED.match(bare)):
        return _Line(text, Weight.NAMED)
    if is_marked:
        return _Line(text, Weight.MARKED)
    if _WORDS.search(_GOOD.sub("", text)):
        return _Line(text, Weight.WORDS)
    return _Line(text, Weight.PLAIN)


def _from_json(text: str) -> _Line | None:
    """Read a line of a logger that writes JSON: what it says, and how bad it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    level = str(value.get("level", value.get("severity", value.get("levelname", "")))).lower()
    is_bad = level in ("error", "fatal", "critical", "panic", "50", "60")
    parts = [value.get(key) for key in ("message", "msg", "event", "error", "err", "exception")]
    texts = [part.get("message") if isinstance(part, dict) else part for part in parts]
    told = ": ".join(dict.fromkeys(part.splitlines()[0] for part in texts if isinstance(part, str) and part.strip()))
    if not told:
        return None
    return _Line(told, Weight.MARKED if is_bad else Weight.PLAIN)
