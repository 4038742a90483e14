"""How does each kind of report reach the forge? One sender a surface; the outbox decides what is sent, and when.

Safe to repeat: what may be at the forge already is looked up before it is made, and what was made is changed.
"""

from __future__ import annotations

from controller.effects.github_http import Forge
from controller.loop.reporter import Outgoing, Sender
from controller.model.reports import WantedReaction, WantedStatus


def forge_senders(forge: Forge) -> dict[str, Sender]:
    """Return the senders to the forge by surface, the most urgent first."""
    return {
        "status": lambda outgoing: send_status(forge, outgoing),
        "reaction": lambda outgoing: send_reaction(forge, outgoing),
    }


def send_reaction(forge: Forge, outgoing: Outgoing) -> None:
    """React to a comment; the forge keeps one of a kind."""
    wanted = outgoing.wanted
    assert isinstance(wanted, WantedReaction)
    forge.react(wanted.comment_id, wanted.content)


def send_status(forge: Forge, outgoing: Outgoing) -> None:
    """Set a commit's status, unless the forge shows it already: of one context, the newest counts."""
    wanted = outgoing.wanted
    assert isinstance(wanted, WantedStatus)
    if outgoing.is_doubtful:
        shown = next((one for one in forge.statuses(wanted.sha) if one.context == wanted.context), None)
        if shown is not None and (shown.state, shown.description, shown.target_url) == (
            wanted.state,
            wanted.description,
            wanted.target_url,
        ):
            return
    forge.post_status(wanted)
