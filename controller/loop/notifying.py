"""How is a notification sent? Signed with what the secret file holds now, so that a secret can be changed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from controller.decisions.notifications import SECRET_BYTES_MIN, post
from controller.effects.notifier import post_notification
from controller.loop.reporter import Outgoing, Sender
from controller.model.errors import Unavailable
from controller.model.reports import WantedNotification


def notification_sender(
    url: str, *, repository: str, host: str, read_secret: Callable[[], bytes], clock: Callable[[], datetime]
) -> Sender:
    """Return the sender of notifications to one address. Safe to repeat: the id of a notification stays."""

    def send(outgoing: Outgoing) -> None:
        wanted = outgoing.wanted
        assert isinstance(wanted, WantedNotification)
        secret = read_secret()
        if len(secret) < SECRET_BYTES_MIN:
            message = f"the secret of notifications has fewer than {SECRET_BYTES_MIN} bytes"
            raise Unavailable("NotifySecretShort", message)
        posted = post(wanted, repository=repository, host=host, secret=secret, now=clock())
        post_notification(url, posted.body, posted.headers)

    return send
