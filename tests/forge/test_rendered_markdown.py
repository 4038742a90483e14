"""Whatever others wrote stays text in GitHub's own renderer, in every body that we make."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import cmarkgfm
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decisions.github.checks import TEXT_CHARS_MAX
from controller.decisions.github.comments import MARKER
from controller.decisions.markdown import CODE_CHARS_MAX, block, cell, chars, code, table, visible
from controller.decisions.projection import project_all
from controller.decisions.report_checks import LOG_LINES_MAX, PROBLEMS_MAX, STEPS_MAX, JournalStep, Story, write_check
from controller.model.names import Topology
from controller.model.nouns import CommandAnswer
from controller.model.redaction import redact
from controller.model.reports import FORGE_SURFACES, WantedCheck, WantedComment
from controller.model.states import CheckState, Outcome, RunState
from controller.model.world import SlotObserved
from tests.builders import PREVIEW_1, at, free, lease, observed, pull, run, verdict

#: GitHub's own renderer, with what GitHub switches on.
GFM_EXTENSIONS = ["table", "strikethrough", "autolink", "tagfilter", "tasklist"]
EVIL = (
    "`" * 81 + " @team fixes #1 <img src=evil> www.evil.example",
    "``` @team\n```\n@team evil\n```",
    "`" * 300 + "\n" + "`" * 300 + "\n@team evil",
    "~~~\n@team\n~~~",
    "<!-- oroboros: the one comment of this pull request --> @team",
    "--> evil @team <!--",
    "</code></td></table><img src=x onerror=evil()>",
    "| a | @team | evil |\n| --- |",
    "closes #1, fixes acme/shop#1, GH-1, https://evil.example/?a=b",
    "www.evil.example evil@example.com http://evil.example",
    "# evil\n===\n- [x] @team\n[^1]: evil\n[^1]",
    "![evil](http://evil.example/x.png) [evil](javascript:alert)",
    "&#64;team &commat;team &lt;evil&gt; \\@team \\` evil",
    "\u202eevil\u2066@team\u200b\u200d\ufeff\u2028@team\u2029# evil\x85@team",
    "evil\x00\x1b[31m@team\x1b[0m\ud800\U0001f41b\U000e0041",
    "evil \\",
    " `evil` ",
)
HOSTILE = st.lists(
    st.sampled_from(["`", "``", "`" * 80, "`" * 81, "`" * 255, "@team", "|", "<", "-->", " ", "\n", "\\", "~~~"])
).map("".join)


def render(body: str) -> tuple[list[str], str]:
    """Return what is code when GitHub's renderer shows this, each piece as it reads, and the HTML around it."""
    options = cmarkgfm.cmark.Options
    html = cmarkgfm.markdown_to_html_with_extensions(
        body,
        options=options.CMARK_OPT_FOOTNOTES | options.CMARK_OPT_GITHUB_PRE_LANG | options.CMARK_OPT_UNSAFE,
        extensions=GFM_EXTENSIONS,
    )
    pieces = re.findall(r"<code>(.*?)</code>", html, re.DOTALL)
    rest = re.sub(r"<code>.*?</code>", "", html, flags=re.DOTALL)
    if MARKER in body:
        rest = rest.replace(MARKER, "", 1)
    return [unescape(piece) for piece in pieces], re.sub(
        r"</?(p|pre|table|thead|tbody|tr|th|td|h3|ul|li|strong)( lang=\"text\")?>", "", rest
    )


FAILED = run(5, 2, RunState.FAILED, reason="BuildFailed", message="it did not end well", slot=PREVIEW_1, fence=50)


def check_page(story: Story, *, title: str = "BuildFailed", problems: tuple[str, ...] = ()) -> str:
    wanted = WantedCheck(
        sha=story.run.head.sha,
        context="oroboros/preview",
        state=CheckState.FAILURE,
        title=title,
        details_url=None,
        generation=5,
    )
    return write_check(wanted, story, problems=problems).summary


@given(st.lists(st.text(max_size=2_000) | HOSTILE, max_size=200))
def test_whatever_a_program_writes_the_page_fits_and_its_block_is_closed_once(lines: list[str]) -> None:
    told = check_page(Story(run=FAILED, log_unit="build-preview1", log=tuple(lines)))
    assert chars(told) <= TEXT_CHARS_MAX
    if "### The last" in told:
        shown_log = told.partition("### The last")[2]
        blocks, around = render(shown_log.partition("\n\n")[2])
        assert len(blocks) == 1
        assert not around.strip()


@given(st.text() | HOSTILE)
def test_a_text_of_others_is_one_span_of_code(text: str) -> None:
    found = code(text)
    assert "\n" not in found
    if found:
        ((shown,), around) = render(f"a {found} b")
        assert around.split() == ["a", "b"]
        assert shown == visible(redact(text)) or "`" * 80 in text or len(visible(text)) > CODE_CHARS_MAX
    assert "|" not in cell(text)


@pytest.mark.parametrize("size", [1, 2, 3, 79, 80, 81, 82, 254, 255, 256, 300])
@pytest.mark.parametrize("where", ["{0}{1}", "{1}{0}", "{1}{0}{1}", "{0} {1} {0}", "~~~\n{0}\n{1}"])
def test_backticks_of_any_number_do_not_break_out_of_what_we_quote(size: int, where: str) -> None:
    text = where.format("`" * size, "@team www.example.com fixes #1")
    ((_,), around) = render(f"a {code(text)} b")
    assert around.split() == ["a", "b"]
    ((_,), around) = render(table(("a",), [(cell(text),)]))
    assert around.split() == ["a"]
    ((_,), around) = render(block(text.splitlines()))
    assert not around.strip()


def test_all_lengths_of_fences_at_once_do_not_break_out() -> None:
    every = " ".join("`" * size for size in range(1, 90))
    ((_,), around) = render(f"a {code(f'{every} @team', chars_max=10_000)} b")
    assert around.split() == ["a", "b"]
    ((shown,), around) = render(block(["`" * size for size in range(90)]))
    assert not around.strip()
    assert [line.count("`") for line in shown.splitlines()] == list(range(90))


@pytest.mark.parametrize("text", EVIL)
def test_what_others_wrote_is_text_in_every_body_that_we_make(text: str) -> None:
    this = replace(FAILED, message=text)
    bodies = [comment(text)]
    for log in ((text,), tuple(text.splitlines()), (f"{text}\n```", text)):
        step = JournalStep(step=text[:60], began_at=at(0), ended_at=at(1), error=text)
        judged = replace(verdict(this, "gate", Outcome.FAIL), message=text)
        story = Story(run=this, log_unit="build-preview1", log=log, steps=(step,), verdicts=(judged,))
        bodies.append(check_page(story, title=text, problems=(text,)))
    for body in bodies:
        quoted, around = render(body)
        start = visible(text).replace("|", "\N{BROKEN BAR}")[:20]
        assert any(start in one.replace("|", "\N{BROKEN BAR}") for one in quoted)
        for word in ("@", "evil", "#1", "closes", "<!--", "<img", "[x]", "javascript", "\u202e", "\u200b"):
            assert word not in around, (word, around)
        assert all(ord(c) <= 0xFFFF for c in body)


def comment(text: str) -> str:
    """Return our comment at a pull request that failed, and at which a command was given, all in these words."""
    this = replace(FAILED, message=text)
    slot = SlotObserved(slot=PREVIEW_1, live=free(PREVIEW_1), lease=lease(42), recent_runs=(this,))
    said = CommandAnswer(
        pull_request=42,
        comment_id=1,
        author=text,
        permission="write",
        said=f"/hold {text}",
        state="refused",
        reason="NotHeld",
        message=text,
        sha=None,
        commented_at=at(0),
        decided_at=at(1),
    )
    seen = replace(observed(slot, pulls=(pull(42),)), commands=(said,))
    (found,) = (
        one
        for one in project_all(seen, (), Topology(), surfaces=FORGE_SURFACES, now=at(5000))
        if isinstance(one, WantedComment)
    )
    return found.body


def test_the_longest_page_fits() -> None:
    long = "\U0001f41b" * 5_000
    step = JournalStep(step="build", began_at=at(0), ended_at=at(1), error=long)
    judged = replace(verdict(FAILED, "gate", Outcome.FAIL), message=long)
    story = Story(
        run=replace(FAILED, message=long),
        log_unit="build-preview1",
        log=(long,) * LOG_LINES_MAX,
        steps=(step,) * STEPS_MAX,
        verdicts=(judged,) * 3,
    )
    assert chars(check_page(story, title=long, problems=(long,) * PROBLEMS_MAX)) <= TEXT_CHARS_MAX
