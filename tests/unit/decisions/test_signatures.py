"""What does git's verification say, and what follows? The words are those of git 2.39, OpenSSH 9.2 and GnuPG 2.2."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decisions.order import HeadFacts, judge_head
from controller.decisions.plan import active_override, desired, plan_slot
from controller.decisions.report import project
from controller.decisions.signatures import Kind, judge_output, judge_signature, kind_of
from controller.model.names import MAIN, Topology
from controller.model.nouns import Override, Signature
from controller.model.states import RunState, StatusState
from controller.model.steps import EndOverride
from controller.model.world import HeadRefused, Hold, Observed, Wanted
from tests.builders import at, head, observed, release, run, serving, sha

NOW = at(1000)
R1 = run(1, 1, RunState.LIVE)
SSH_GOOD = 'Good "git" signature for ann@x with ED25519 key SHA256:F/325QNBwk\n'
SSH_STRANGER = 'Good "git" signature with ED25519 key SHA256:lpywlqLH7t\nNo principal matched.\n'
SSH_BROKEN = "Signature verification failed: incorrect signature\nCould not verify signature.\n"
PGP_GOOD = """[GNUPG:] NEWSIG ann@x
[GNUPG:] KEY_CONSIDERED 42E36B5FE1461C1560DBF0EAE17FE0D0CBFFCC42 0
[GNUPG:] GOODSIG E17FE0D0CBFFCC42 Ann <ann@x>
[GNUPG:] VALIDSIG 42E36B5FE1461C1560DBF0EAE17FE0D0CBFFCC42 2026-11-25 1795578452 0 4 0 22 8 00 42E36B5FE1461C15
[GNUPG:] TRUST_FULLY 0 always
"""
PGP_STRANGER = (
    "[GNUPG:] NEWSIG\n[GNUPG:] ERRSIG E17FE0D0CBFFCC42 22 8 00 1795578452 9 -\n[GNUPG:] NO_PUBKEY E17FE0D0CB\n"
)


@pytest.mark.parametrize(
    ("signature", "kind"),
    [
        (None, "none"),
        (b"", "none"),
        (b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----", "ssh"),
        (b"-----BEGIN PGP SIGNATURE-----\n\niHUE\n", "pgp"),
        (b"-----BEGIN SIGNED MESSAGE-----\nMII", "other"),
        (b"trust me", "other"),
    ],
)
def test_the_kind_is_that_of_the_first_line(signature: bytes | None, kind: Kind) -> None:
    assert kind_of(signature) == kind


@pytest.mark.parametrize(
    ("kind", "output", "code", "reason", "said"),
    [
        ("ssh", SSH_GOOD, 0, "", "ann@x"),
        ("ssh", SSH_STRANGER, 1, "SignatureUnknown", "SHA256:lpywlqLH7t"),
        ("ssh", SSH_BROKEN, 1, "SignatureBad", "Could not verify"),
        ("ssh", SSH_GOOD, 1, "SignatureBad", "ann@x"),
        ("ssh", SSH_GOOD + "Signature key revoked\n", 255, "SignatureBad", "revoked"),
        ("ssh", "", 0, "SignatureBad", ""),
        ("pgp", PGP_GOOD, 0, "", "Ann <ann@x>"),
        ("pgp", PGP_GOOD, 1, "SignatureBad", ""),
        ("pgp", PGP_STRANGER, 1, "SignatureUnknown", "E17FE0D0CB"),
        ("pgp", "[GNUPG:] BADSIG E17FE0D0CBFFCC42 Ann <ann@x>\n", 1, "SignatureBad", "does not fit"),
        ("pgp", PGP_GOOD.replace("GOODSIG", "EXPKEYSIG"), 0, "SignatureBad", "the key has expired: Ann"),
        ("pgp", PGP_GOOD.replace("GOODSIG", "REVKEYSIG"), 1, "SignatureBad", "revoked"),
        ("pgp", PGP_GOOD.replace("GOODSIG", "EXPSIG"), 0, "SignatureBad", "expired"),
        ("pgp", PGP_GOOD + PGP_STRANGER, 0, "SignatureUnknown", ""),
        ("pgp", PGP_GOOD + PGP_GOOD, 0, "SignatureBad", ""),
    ],
)
def test_only_what_is_plainly_good_is_good(kind: Kind, output: str, code: int, reason: str, said: str) -> None:
    found = judge_output(kind, output, code)
    assert found.reason == reason
    assert said in found.said


@given(kind=st.sampled_from(["ssh", "pgp"]), output=st.text(max_size=300), code=st.integers(-15, 255))
def test_no_other_words_are_good(kind: Kind, output: str, code: int) -> None:
    assert judge_output(kind, output, code).reason


def signature(reason: str = "", *, signers: str = "v1") -> Signature:
    return Signature(sha=sha(2), signers=signers, reason=reason, said="so", checked_at=at(0))


class TestRefusing:
    def test_what_is_not_known_yet_waits_and_what_is_good_may_come(self) -> None:
        waits = judge_signature(sha(2), (), signers="v1")
        assert waits is not None
        assert waits.is_pending
        assert judge_signature(sha(2), (signature(),), signers="v1") is None

    def test_other_files_of_the_host_ask_anew(self) -> None:
        waits = judge_signature(sha(2), (signature(),), signers="v2")
        assert waits is not None
        assert waits.is_pending

    @pytest.mark.parametrize(("reason", "blames"), [("CommitUnsigned", True), ("SignersMissing", False)])
    def test_a_commit_is_blamed_only_for_its_own_fault(self, reason: str, blames: bool) -> None:
        refused = judge_signature(sha(2), (signature(reason),), signers="v1")
        assert refused is not None
        assert (refused.reason, refused.blames_commit, refused.is_pending) == (reason, blames, False)

    def test_a_head_that_follows_is_refused_all_the_same(self) -> None:
        unsigned = HeadRefused(reason="CommitUnsigned", message="no", blames_commit=True, keeps_accepted=True)
        facts = HeadFacts(
            head=head(2),
            accepted=sha(1),
            serves=head(1),
            follows_accepted=True,
            follows_served=True,
            is_behind=False,
            unsigned=unsigned,
        )
        assert judge_head(facts, force_push="follow").refused == unsigned


REFUSED = HeadRefused(reason="CommitUnsigned", message="not signed", blames_commit=True, keeps_accepted=True)
ORDER = Override(
    id=9,
    slot=MAIN,
    kind="deploy",
    head=head(2),
    ordered_at_head=sha(3),
    accept_migrations=False,
    actor="ann",
    reason="",
    at=at(0),
)


def world(*, overrides: tuple[Override, ...] = ()) -> Observed:
    seen = observed(serving(R1), at_head=head(3), releases=(release(1),), overrides=overrides)
    return replace(seen, head_refused=REFUSED, accepted_head=head(2))


class TestWhatFollows:
    def test_the_last_accepted_head_is_still_wanted(self) -> None:
        wanted = desired(world(), world().slots[0])
        assert isinstance(wanted, Wanted)
        assert wanted.head == head(2)

    def test_without_one_nothing_is(self) -> None:
        seen = replace(world(), accepted_head=None)
        wanted = desired(seen, seen.slots[0])
        assert isinstance(wanted, Hold)
        assert wanted.reason == "CommitUnsigned"

    def test_an_order_of_an_unsigned_commit_ends_with_the_reason(self) -> None:
        seen = replace(world(overrides=(ORDER,)), order_refused=REFUSED)
        slot = seen.slots[0]
        assert active_override(seen, slot) is None
        steps = plan_slot(desired(seen, slot), seen, slot, now=NOW)
        assert EndOverride(slot=MAIN, id=9, reason="CommitUnsigned: not signed") in steps

    def test_an_order_waits_while_its_commit_is_verified(self) -> None:
        pending = replace(REFUSED, is_pending=True)
        seen = replace(world(overrides=(ORDER,)), order_refused=pending)
        slot = seen.slots[0]
        assert isinstance(desired(seen, slot), Hold)
        assert plan_slot(desired(seen, slot), seen, slot, now=NOW) == ()

    def test_the_commit_says_why(self) -> None:
        def said(seen: Observed) -> tuple[StatusState, str]:
            (one,) = [report for report in project(seen, (), Topology(), now=NOW) if report.sha == sha(3)]
            return one.state, one.description

        assert said(world()) == (StatusState.FAILURE, "CommitUnsigned: not signed")
        pending = replace(world(), head_refused=replace(REFUSED, is_pending=True, message="being checked"))
        assert said(pending) == (StatusState.PENDING, "being checked")
