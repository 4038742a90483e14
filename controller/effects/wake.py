"""How does the worker learn at once that something happened? A bell in Redis: a hint, never a message.

Nothing is lost when a ring is: the worker polls behind it. Ringing is best effort and bounded, listening reconnects
for ever with a growing pause. Redis also carries nothing else of ours that must survive.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis

from controller.model.names import BELL_CHANNEL
from controller.threads import new_thread

RING_TIMEOUT_S = 0.2
CONNECT_TIMEOUT_S = 1.0
PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 5.0
#: Who heard nothing for so long asks whether Redis still answers: a subscription to one that hangs is silent too.
HEALTH_CHECK_S = 5

log = logging.getLogger(__name__)


class Bell:
    """The bell of one stack."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        #: Whoever listens hears rings: there is a subscription, as far as is known.
        self.is_heard = False

    def _client(self, *, read_timeout_s: float) -> redis.Redis:
        client: redis.Redis = redis.Redis.from_url(
            self._url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=read_timeout_s,
            health_check_interval=HEALTH_CHECK_S,
        )
        return client

    def ring(self) -> bool:
        """Ring once; False when Redis is away, which costs a poll interval and nothing else."""
        try:
            with self._client(read_timeout_s=RING_TIMEOUT_S) as client:
                client.publish(BELL_CHANNEL, b"")
        except (redis.RedisError, OSError):
            return False
        return True

    def is_there(self) -> bool:
        """Say whether Redis answers a ping."""
        try:
            with self._client(read_timeout_s=CONNECT_TIMEOUT_S) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    def listen(self, heard: Callable[[], None]) -> threading.Thread:
        """Call `heard` from a daemon thread at every ring, and after every reconnection, since rings may have been
        missed meanwhile."""
        thread = new_thread("bell", lambda: self._listen_for_ever(heard))
        thread.start()
        return thread

    def _listen_for_ever(self, heard: Callable[[], None]) -> None:
        pause_s = PAUSE_MIN_S
        waiting = threading.Event()  # never set: a bounded pause that ends with the process
        while True:
            try:
                with self._client(read_timeout_s=HEALTH_CHECK_S * 2) as client, client.pubsub() as subscription:
                    subscription.subscribe(BELL_CHANNEL)
                    self.is_heard = True
                    heard()
                    pause_s = PAUSE_MIN_S
                    while True:
                        message = subscription.get_message(ignore_subscribe_messages=True, timeout=HEALTH_CHECK_S)
                        if message is not None:
                            heard()
                        elif not self.is_there():
                            raise redis.ConnectionError("no answer to a ping")
            except (redis.RedisError, OSError, ValueError) as error:
                self.is_heard = False
                log.warning("bell: Redis is away (%s), polling", type(error).__name__, extra={"action": "bell.away"})
                waiting.wait(pause_s)
                pause_s = min(PAUSE_MAX_S, pause_s * 2)
