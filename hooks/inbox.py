"""How is an accepted delivery kept, durably, before anybody is told that it was?

Group commit: what queues while one commit runs is the next batch, so nothing lingers and many deliveries share one
fsync. One batch is one INSERT and one deadline; after its commit the bell is rung once, and never waited for.

Rules. (1) One row per delivery id. (2) The same id again, not done: armed again. (3) The same signed bytes under
another id: counted, rung, not stored twice, since id and event name are not covered by the signature. (4) Whoever waits
gets an answer by the deadline, a refusal at worst.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import psycopg
import redis.asyncio
import redis.exceptions

from controller.model.errors import Unavailable
from controller.model.names import BELL_CHANNEL

COMMIT_DEADLINE_S = 4.0
CONNECT_TIMEOUT_S = 2
STATEMENT_TIMEOUT_MS = 3_500
BELL_TIMEOUT_S = 0.2
BATCH_ROWS_MAX = 256
BATCH_BYTES_MAX = 32 << 20
QUEUE_ROWS_MAX = 4_096

log = logging.getLogger(__name__)

Answer = Literal["accepted", "duplicate", "ignored"]

# Bodies travel in one array; `ON CONFLICT` cannot name two constraints, so rows that are known already are told apart
# first, and a race with another process is settled by the constraint and read again.
_INSERT = """
INSERT INTO deliveries (id, event, signature, body, state, reason, repository, target, sha)
SELECT * FROM unnest(%b::text[], %b::text[], %b::bytea[], %b::bytea[], %b::text[], %b::text[], %b::text[], %b::text[],
                     %b::text[])
ON CONFLICT DO NOTHING
RETURNING id
"""
_AGAIN = """
UPDATE deliveries SET seen_count = seen_count + 1,
    armed_at = CASE WHEN state = 'pending' THEN now() ELSE armed_at END
WHERE id = ANY(%b::text[]) OR signature = ANY(%b::bytea[])
RETURNING id, signature, state
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One verified delivery. `signature` is the HMAC that was verified: the key of its bytes."""

    id: str
    event: str
    signature: bytes
    body: bytes
    state: Literal["pending", "ignored"]
    reason: str = ""
    repository: str | None = None
    target: str | None = None
    sha: str | None = None


@dataclass(slots=True)
class _Waiting:
    delivery: Incoming
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Inbox:
    """The inbox of one receiver process. `start` and `close` belong to the server's lifespan."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._database_url = database_url
        self._redis_url = redis_url
        self._queue: list[_Waiting] = []
        self._filled = asyncio.Event()
        self._connection: psycopg.AsyncConnection[tuple[object, ...]] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._bells: set[asyncio.Task[None]] = set()
        self._redis: redis.asyncio.Redis | None = None

    async def start(self) -> None:
        """Begin to write. A database that is away now is found later."""
        self._redis = redis.asyncio.Redis.from_url(
            self._redis_url, socket_timeout=BELL_TIMEOUT_S, socket_connect_timeout=BELL_TIMEOUT_S
        )
        self._writer = asyncio.create_task(self._write_for_ever(), name="inbox")
        with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
            await self._note_start()

    async def close(self) -> None:
        """Stop writing; who still waits is refused."""
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
        self._refuse(self._queue, "the receiver is stopping")
        self._queue = []
        await self._disconnect()
        if self._redis is not None:
            await self._redis.aclose()

    async def keep(self, delivery: Incoming) -> Answer:
        """Return once the delivery is committed; Unavailable when it could not be, in time."""
        if len(self._queue) >= QUEUE_ROWS_MAX:
            raise Unavailable("InboxFull", "too many deliveries wait to be stored; send it again")
        waiting = _Waiting(delivery)
        self._queue.append(waiting)
        self._filled.set()
        try:
            return await asyncio.wait_for(waiting.answer, COMMIT_DEADLINE_S)
        except TimeoutError:
            raise Unavailable("InboxAway", "the delivery could not be stored in time; send it again") from None

    async def is_reachable(self) -> bool:
        """Say whether the database answers."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await psycopg.AsyncConnection.connect(
                    self._database_url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
                )
                try:
                    await connection.execute("SELECT 1")
                finally:
                    await connection.close()
        except (psycopg.Error, OSError, TimeoutError):
            return False
        return True

    # -- the writer -------------------------------------------------------------------------------------------------

    async def _write_for_ever(self) -> None:
        while True:
            await self._filled.wait()
            batch = self._take_batch()
            if not batch:
                self._filled.clear()
                continue
            try:
                async with asyncio.timeout(COMMIT_DEADLINE_S):
                    await self._write(batch)
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.warning(
                    "inbox: %d deliveries not stored: %s", len(batch), type(error).__name__, extra={"action": "inbox"}
                )
                await self._disconnect()
                self._refuse(batch, "the database did not take it")
            except BaseException:
                self._refuse(batch, "the receiver met a bug")
                raise
            else:
                self._ring()

    def _take_batch(self) -> list[_Waiting]:
        taken, size = 0, 0
        for waiting in self._queue:
            size += len(waiting.delivery.body)
            if taken and (taken >= BATCH_ROWS_MAX or size > BATCH_BYTES_MAX):
                break
            taken += 1
        batch, self._queue = self._queue[:taken], self._queue[taken:]
        return [waiting for waiting in batch if not waiting.answer.done()]

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        ids: dict[str, _Waiting] = {}
        signatures: dict[bytes, _Waiting] = {}
        new: list[_Waiting] = []
        again: list[_Waiting] = []
        for waiting in batch:
            delivery = waiting.delivery
            if delivery.id in ids or delivery.signature in signatures:
                again.append(waiting)
            else:
                ids[delivery.id] = signatures[delivery.signature] = waiting
                new.append(waiting)
        connection = await self._connect()
        async with connection.transaction():
            inserted = await self._insert(connection, [waiting.delivery for waiting in new])
            again += [waiting for waiting in new if waiting.delivery.id not in inserted]
            states = await self._note_again(connection, [waiting.delivery for waiting in again]) if again else {}
        for waiting in batch:
            delivery = waiting.delivery
            if delivery.id in inserted and ids.get(delivery.id) is waiting:
                answer: Answer = "ignored" if delivery.state == "ignored" else "accepted"
            else:
                answer = _answer_again(delivery, states)
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    async def _insert(
        self, connection: psycopg.AsyncConnection[tuple[object, ...]], deliveries: Sequence[Incoming]
    ) -> set[str]:
        if not deliveries:
            return set()
        cursor = await connection.execute(
            _INSERT,
            [
                [d.id for d in deliveries],
                [d.event for d in deliveries],
                [d.signature for d in deliveries],
                [d.body for d in deliveries],
                [d.state for d in deliveries],
                [d.reason for d in deliveries],
                [d.repository for d in deliveries],
                [d.target for d in deliveries],
                [d.sha for d in deliveries],
            ],
        )
        return {str(row[0]) for row in await cursor.fetchall()}

    async def _note_again(
        self, connection: psycopg.AsyncConnection[tuple[object, ...]], deliveries: Sequence[Incoming]
    ) -> dict[str | bytes, str]:
        """Count what came again, arm what is not done; return the state by id and by signature."""
        cursor = await connection.execute(_AGAIN, [[d.id for d in deliveries], [d.signature for d in deliveries]])
        states: dict[str | bytes, str] = {}
        for known_id, signature, state in await cursor.fetchall():
            assert isinstance(signature, bytes)
            states[str(known_id)] = states[signature] = str(state)
        return states

    async def _connect(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(
                self._database_url,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={STATEMENT_TIMEOUT_MS}",
                application_name="oroboros inbox",
                prepare_threshold=1,
            )
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    async def _note_start(self) -> None:
        """Tell the worker that deliveries before now may have found nobody here: it looks at the forge again."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connection = await self._connect()
            await connection.execute("UPDATE repositories SET receiver_started_at = now()")
        self._ring()

    def _refuse(self, batch: Sequence[_Waiting], why: str) -> None:
        for waiting in batch:
            if not waiting.answer.done():
                waiting.answer.set_exception(Unavailable("InboxAway", f"{why}; send it again"))

    # -- the bell ---------------------------------------------------------------------------------------------------

    def _ring(self) -> None:
        if len(self._bells) < 2:  # one rings, one more will: a third would say nothing new
            task = asyncio.create_task(self._ring_once())
            self._bells.add(task)
            task.add_done_callback(self._bells.discard)

    async def _ring_once(self) -> None:
        if self._redis is None:
            return
        with contextlib.suppress(redis.exceptions.RedisError, OSError, TimeoutError):
            async with asyncio.timeout(BELL_TIMEOUT_S):
                await self._redis.publish(BELL_CHANNEL, b"")


def _answer_again(delivery: Incoming, states: dict[str | bytes, str]) -> Answer:
    """The same id, not done yet, is accepted again; anything else that is known is a duplicate."""
    if states.get(delivery.id) == "pending":
        return "accepted"
    return "ignored" if delivery.state == "ignored" else "duplicate"
