"""Traffic for the time of a switch: GETs and POSTs, over kept and new connections, each answer judged."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType


@dataclass(slots=True)
class Tally:
    """What one line of traffic saw."""

    answers: Counter[str] = field(default_factory=Counter)
    posted: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Load:
    """Several lines of traffic at once, from entering to leaving the context.

    `judge` names what is wrong with the body of a GET's answer, None if nothing is. Nothing is ever tried again."""

    def __init__(
        self,
        *,
        targets: tuple[tuple[str, int], ...],
        judge: Callable[[str], str | None] = lambda body: None,  # noqa: ARG005
        path: str = "/",
        posts: bool = True,
    ) -> None:
        self._targets, self._judge, self._path, self._posts = targets, judge, path, posts
        self._stop = threading.Event()
        self.lines: list[Tally] = []
        self._threads: list[threading.Thread] = []

    @property
    def requests(self) -> int:
        return sum(sum(line.answers.values()) for line in self.lines)

    @property
    def failures(self) -> list[str]:
        return [failure for line in self.lines for failure in line.failures]

    @property
    def posted(self) -> list[str]:
        return [name for line in self.lines for name in line.posted]

    @property
    def bodies(self) -> set[str]:
        return {body for line in self.lines for body in line.answers}

    def __enter__(self) -> Load:  # noqa: PYI034
        for host, port in self._targets:
            for keep in (True, False):
                line = Tally()
                self.lines.append(line)
                name = f"{host}-{port}-{'kept' if keep else 'new'}"
                self._threads.append(
                    threading.Thread(target=self._run, args=(line, name, host, port), kwargs={"keep": keep})
                )
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, line: Tally, name: str, host: str, port: int, *, keep: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        number = 0
        while not self._stop.is_set():
            number += 1
            is_post = self._posts and number % 2 == 0
            body = f"{name}-{number}" if is_post else None
            try:
                connection.request(
                    "POST" if is_post else "GET", "/apply" if is_post else self._path, body=body, headers={"Host": host}
                )
                response = connection.getresponse()
                text = response.read().decode()
                wrong = f"status {response.status}: {text:.60}" if response.status != 200 else None
                if wrong is None and not is_post:
                    wrong = self._judge(text)
            except (OSError, http.client.HTTPException) as error:
                wrong, text = f"{type(error).__name__}: {error}", ""
                connection.close()
            if wrong is not None:
                line.failures.append(f"{name} {number} {'POST' if is_post else 'GET'}: {wrong}")
            if body is not None:
                line.posted.append(body)
            line.answers[text] += 1
            if not keep:
                connection.close()
        connection.close()
