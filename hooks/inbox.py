"""How is an accepted delivery kept, durably, before anybody is told that it was?

Group commit: what queues while one commit runs is the next batch, so nothing lingers and many deliveries share one
fsync. One batch is one INSERT and one deadline; after its commit the bell is rung once, and never waited for. Why so:
docs/decisions/0008-group-commit.md.

Rules. (1) One row per delivery id. (2) The same id again, not done: armed again. (3) The same signed bytes under
another id: counted, rung, not stored twice, since id and event name are not covered by the signature. Bytes that were
kept as ignored under a wrong event name are taken up when the right one comes. (4) Whoever waits gets an answer by the
deadline, a refusal at worst; who queued behind a database that did not answer is refused with those in front.
(5) After deliveries were refused, the worker is told to look at the forge itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

import psycopg
import redis.asyncio
import redis.exceptions

from controller.model.errors import Unavailable
from controller.model.names import BELL_CHANNEL
from hooks.payload import Ours

#: From the moment that a batch is taken; with the cut below it stays under the 5 s that we promise.
COMMIT_DEADLINE_S = 4.0
CUT_S = 0.5
CONNECT_TIMEOUT_S = 2
#: The server gives up first, so that it holds no locks for a client that went away.
STATEMENT_TIMEOUT_MS = 3_500
ASK_DEADLINE_S = 2.0
BELL_TIMEOUT_S = 0.2
BATCH_ROWS_MAX = 256
BATCH_BYTES_MAX = 32 << 20
QUEUE_ROWS_MAX = 4_096
ANNOUNCE_RETRY_S = 1.0
ANNOUNCE_PAUSE_S = 10.0

log = logging.getLogger(__name__)

Answer = Literal["accepted", "duplicate", "ignored"]
_Connection = psycopg.AsyncConnection[tuple[object, ...]]
_T = TypeVar("_T")

# `ON CONFLICT` without a target minds both constraints, and rows of this very statement too.
_INSERT = """
INSERT INTO deliveries (id, event, signature, body, state, reason, repository, target, sha)
SELECT * FROM unnest(%b::text[], %b::text[], %b::bytea[], %b::bytea[], %b::text[], %b::text[], %b::text[], %b::text[],
                     %b::text[])
ON CONFLICT DO NOTHING
RETURNING id
"""

# For those that the INSERT left out: which row is theirs, whether they arm it, how often each row was told of. Rows are
# locked in one order, so that two receivers never wait for each other.
_AGAIN = """
WITH came AS (
    SELECT t.*, coalesce((SELECT seq FROM deliveries WHERE id = t.id),
                         (SELECT seq FROM deliveries WHERE signature = t.signature)) AS seq
    FROM unnest(%b::text[], %b::text[], %b::bytea[], %b::text[], %b::text[], %b::text[], %b::text[])
         WITH ORDINALITY AS t (id, event, signature, state, repository, target, sha, n)
), known AS (
    SELECT came.*, came.state = 'pending' AND CASE
               WHEN d.state = 'ignored'
               THEN d.signature = came.signature AND (d.id = came.id OR d.event <> came.event)
               ELSE d.state <> 'done' AND d.id = came.id
           END AS arms
    FROM came JOIN deliveries AS d USING (seq) ORDER BY d.seq FOR UPDATE OF d
), told AS (
    SELECT seq, count(*)::integer AS times, bool_or(arms) AS arms,
           (array_agg(event) FILTER (WHERE arms))[1] AS event,
           (array_agg(repository) FILTER (WHERE arms))[1] AS repository,
           (array_agg(target) FILTER (WHERE arms))[1] AS target,
           (array_agg(sha) FILTER (WHERE arms))[1] AS sha
    FROM known GROUP BY seq
), counted AS (
    UPDATE deliveries AS d SET
        seen_count = d.seen_count + told.times,
        armed_at = CASE WHEN told.arms THEN now() ELSE d.armed_at END,
        looks = CASE WHEN told.arms THEN 0 ELSE d.looks END,
        reason = CASE WHEN told.arms THEN '' ELSE d.reason END,
        event = CASE WHEN told.arms AND d.state = 'ignored' THEN told.event ELSE d.event END,
        repository = CASE WHEN told.arms AND d.state = 'ignored' THEN told.repository ELSE d.repository END,
        target = CASE WHEN told.arms AND d.state = 'ignored' THEN told.target ELSE d.target END,
        sha = CASE WHEN told.arms AND d.state = 'ignored' THEN told.sha ELSE d.sha END,
        state = CASE WHEN told.arms THEN 'pending' ELSE d.state END
    FROM told WHERE d.seq = told.seq
)
SELECT n, arms FROM known
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One verified delivery. `signature` is the HMAC that was verified: the key of its bytes."""

    id: str
    event: str
    signature: bytes
    body: bytes = field(repr=False)
    state: Literal["pending", "ignored"]
    reason: str = ""
    repository: str | None = None
    target: str | None = None
    sha: str | None = None


@dataclass(slots=True, eq=False)
class _Waiting:
    delivery: Incoming
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _Link:
    """One connection, made when it is needed, and every use of it bounded in time."""

    def __init__(self, database_url: str, *, name: str) -> None:
        self._database_url = database_url
        self._name = name
        self._connection: _Connection | None = None

    async def use(self, work: Callable[[_Connection], Coroutine[None, None, _T]], *, deadline_s: float) -> _T:
        """Return what `work` returns; TimeoutError when it took too long, and then nothing of it goes on here.

        A connection that broke while it lay idle is made anew once: `work` must be safe to repeat."""
        using = asyncio.ensure_future(self._use(work))
        try:
            done, _ = await asyncio.wait({using}, timeout=deadline_s)
            if not done:
                # Cancelling would ask the very server that does not answer, and wait for it. A cut socket ends at once.
                self._cut()
                await asyncio.wait({using}, timeout=CUT_S)
                raise TimeoutError(f"no answer within {deadline_s:g} s")
            return using.result()
        finally:
            if not using.done():
                using.cancel()
            elif not using.cancelled():
                using.exception()  # was seen: either raised above, or told by the deadline

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _use(self, work: Callable[[_Connection], Awaitable[_T]]) -> _T:
        was_idle = self._connection is not None and not self._connection.closed
        try:
            return await work(await self._connect())
        except psycopg.OperationalError as error:
            await self.close()
            # 57014: the statement took too long. 57P01 to 57P03: the server stops or starts.
            if not was_idle or error.sqlstate == "57014":
                raise
        return await work(await self._connect())

    async def _connect(self) -> _Connection:
        if self._connection is None or self._connection.closed:
            connection = await psycopg.AsyncConnection.connect(
                self._database_url,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name=self._name,
                prepare_threshold=0,
            )
            self._connection = connection
            # Durable whatever the database's default is: the 202 says so.
            await connection.execute(
                "SELECT set_config('statement_timeout', %s, false), set_config('synchronous_commit', 'on', false)",
                [str(STATEMENT_TIMEOUT_MS)],
            )
        return self._connection

    def _cut(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not connection.closed:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as ours:
                ours.shutdown(socket.SHUT_RDWR)


class Inbox:
    """The inbox of one receiver process. `start` and `close` belong to the server's lifespan."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._redis_url = redis_url
        self._writing = _Link(database_url, name="oroboros inbox")
        self._asking = _Link(database_url, name="oroboros inbox, questions")
        self._asks = asyncio.Lock()
        self._queue: list[_Waiting] = []
        self._filled = asyncio.Event()
        self._rung = asyncio.Event()
        self._missed = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._is_away = False
        self._is_closing = False

    async def start(self) -> None:
        """Begin to write. A database that is away now is found later."""
        self._missed.set()  # before now nobody was here
        self._tasks = (
            asyncio.create_task(self._write_for_ever(), name="inbox"),
            asyncio.create_task(self._announce_for_ever(), name="inbox announcement"),
            asyncio.create_task(self._ring_for_ever(), name="bell"),
        )

    async def close(self) -> None:
        """Stop writing; who still waits is refused."""
        tasks, self._tasks = self._tasks, ()
        # Told as well as cancelled: redis-py may take a cancellation for a timeout of its own.
        self._is_closing = True
        self._rung.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._refuse_queue("the receiver is stopping")
        for link in (self._writing, self._asking):
            with contextlib.suppress(psycopg.Error, OSError):
                await link.close()

    async def keep(self, delivery: Incoming) -> Answer:
        """Return once the delivery is committed; Unavailable when it could not be, in time."""
        if not self._tasks:
            raise Unavailable("InboxAway", "the receiver is stopping; send it again")
        if len(self._queue) >= QUEUE_ROWS_MAX:
            raise Unavailable("InboxFull", "too many deliveries wait to be stored; send it again")
        waiting = _Waiting(delivery)
        self._queue.append(waiting)
        self._filled.set()
        return await waiting.answer

    async def is_reachable(self) -> bool:
        """Say whether the database would take a delivery now: it answers, and the table is there and not locked."""
        try:
            async with asyncio.timeout(ASK_DEADLINE_S + CUT_S), self._asks:
                await self._asking.use(_look_at_table, deadline_s=ASK_DEADLINE_S)
        except (psycopg.Error, OSError, TimeoutError):
            return False
        return True

    async def load_ours(self, name: str) -> Ours:
        """Return what the forge calls the repository of that name by now; Unavailable when that cannot be known."""
        try:
            async with asyncio.timeout(ASK_DEADLINE_S + CUT_S), self._asks:
                return await self._asking.use(partial(_ask_for_ours, name=name), deadline_s=ASK_DEADLINE_S)
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise Unavailable("InboxAway", "it is not known whether this repository is ours; send it again") from error

    # -- the writer -------------------------------------------------------------------------------------------------

    async def _write_for_ever(self) -> None:
        while True:
            await self._filled.wait()
            batch = self._take_batch()
            if batch:
                try:
                    await self._write(batch)
                finally:
                    _refuse(batch, "the receiver is stopping")  # no one, unless we were cancelled
            else:
                self._filled.clear()

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
        """Settle the answer of everyone in the batch."""
        deliveries = [waiting.delivery for waiting in batch]
        try:
            answers = await self._writing.use(
                lambda connection: _commit(connection, deliveries), deadline_s=COMMIT_DEADLINE_S
            )
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            # A row that the database refuses is a bug of ours: it must not take its neighbours with it.
            if len(batch) > 1:
                for waiting in batch:
                    await self._write([waiting])
                return
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
        except (psycopg.Error, OSError, TimeoutError) as error:
            self._note_away(error, refused=len(batch) + len(self._queue))
            _refuse(batch, "the database did not take it in time")
            self._refuse_queue("the database did not take the one before it in time")
        else:
            self._is_away = False
            self._rung.set()
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    def _note_away(self, error: Exception, *, refused: int) -> None:
        self._missed.set()
        if not self._is_away:
            log.warning(
                "inbox: deliveries are refused, %d now: %s", refused, type(error).__name__, extra={"action": "inbox"}
            )
        self._is_away = True

    def _refuse_queue(self, why: str) -> None:
        queue, self._queue = self._queue, []
        _refuse(queue, why)

    # -- what the worker should know --------------------------------------------------------------------------------

    async def _announce_for_ever(self) -> None:
        """Have the worker look at the forge by itself: deliveries before now may have found nobody, or a 503."""
        while True:
            await self._missed.wait()
            self._missed.clear()
            try:
                async with self._asks:
                    await self._asking.use(_announce, deadline_s=ASK_DEADLINE_S)
            except (psycopg.Error, OSError, TimeoutError):
                self._missed.set()
                await asyncio.sleep(ANNOUNCE_RETRY_S)
            else:
                self._rung.set()
                await asyncio.sleep(ANNOUNCE_PAUSE_S)

    async def _ring_for_ever(self) -> None:
        """Ring after every commit. Rings that come while one is under way are one: a hint says nothing twice."""
        while True:
            try:
                async with redis.asyncio.Redis.from_url(
                    self._redis_url,
                    socket_timeout=BELL_TIMEOUT_S,
                    socket_connect_timeout=BELL_TIMEOUT_S,
                    single_connection_client=True,
                ) as bell:
                    while True:
                        await self._rung.wait()
                        if self._is_closing:
                            return
                        self._rung.clear()
                        await bell.publish(BELL_CHANNEL, b"")
            except (redis.exceptions.RedisError, OSError, TimeoutError):
                # The worker polls behind the bell; it is rung once Redis is back. The pause keeps one that is away from
                # costing a core.
                self._rung.set()
                await asyncio.sleep(BELL_TIMEOUT_S)


async def _look_at_table(connection: _Connection) -> None:
    await connection.execute("SELECT seq FROM deliveries LIMIT 1")


async def _ask_for_ours(connection: _Connection, *, name: str) -> Ours:
    cursor = await connection.execute("SELECT forge_id, renamed_to FROM repositories WHERE full_name = %s", [name])
    row = await cursor.fetchone()
    forge_id, renamed_to = (None, None) if row is None else row
    return Ours(
        name=name,
        forge_id=forge_id if isinstance(forge_id, int) else None,
        renamed_to=renamed_to if isinstance(renamed_to, str) else None,
    )


async def _announce(connection: _Connection) -> None:
    await _look_at_table(connection)
    await connection.execute("UPDATE repositories SET receiver_started_at = now()")


async def _commit(connection: _Connection, deliveries: Sequence[Incoming]) -> list[Answer]:
    """Write the deliveries and return an answer for each. Safe to repeat: what was written is known the second time."""
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
    if cursor.rowcount == len(deliveries):
        return [_answer(d) for d in deliveries]
    inserted = {row[0] for row in await cursor.fetchall()}
    answers: list[Answer] = []
    again: list[int] = []
    for index, delivery in enumerate(deliveries):
        answers.append(_answer(delivery) if delivery.id in inserted else "duplicate")
        if delivery.id not in inserted:
            again.append(index)
        inserted.discard(delivery.id)  # the same id twice in one batch: only the first of them was inserted
    for place, arms in await _tell_again(connection, [deliveries[index] for index in again]):
        if arms:
            answers[again[place]] = "accepted"
    return answers


async def _tell_again(connection: _Connection, deliveries: Sequence[Incoming]) -> list[tuple[int, bool]]:
    cursor = await connection.execute(
        _AGAIN,
        [
            [d.id for d in deliveries],
            [d.event for d in deliveries],
            [d.signature for d in deliveries],
            [d.state for d in deliveries],
            [d.repository for d in deliveries],
            [d.target for d in deliveries],
            [d.sha for d in deliveries],
        ],
    )
    found: list[tuple[int, bool]] = []
    for place, arms in await cursor.fetchall():
        assert isinstance(place, int)
        found.append((place - 1, bool(arms)))
    if len(found) != len(deliveries):
        # Retention took the row between our two statements: refused, and stored when it is sent again.
        raise psycopg.OperationalError("a row that was known is gone")
    return found


def _answer(delivery: Incoming) -> Answer:
    return "ignored" if delivery.state == "ignored" else "accepted"


def _refuse(batch: Sequence[_Waiting], why: str) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(Unavailable("InboxAway", f"{why}; send it again"))
