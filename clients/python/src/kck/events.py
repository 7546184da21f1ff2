"""Events: the bytes of a stream -> what is told of watched keys, and when to open it again. No I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Callable, Optional

from .answers import Answer, AsOf, Event, Fresh, Trouble, Value
from .calls import reading
from .errors import KckError, TooLarge, Unauthorized, error_of

SILENCE_SECONDS = 15.0
"""kck says something every 5 s; a peer silent for this long is gone."""
DELAY_FIRST = 0.2
DELAY_MOST = 30.0


@dataclass(frozen=True)
class Message:
    event: str
    data: str
    id: str


class Parser:
    """text/event-stream, in whatever pieces it arrives (WHATWG HTML, section 9.2.6)."""

    def __init__(self, last_id: str, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._line: list[bytes] = []
        self._after_return = False
        self._first = True
        self._event, self._id = "", last_id
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[Message]:
        if self._after_return and piece.startswith(b"\n"):
            self._after_return, piece = False, piece[1:]
        if piece:
            self._after_return = piece.endswith(b"\r")
        messages = []
        for part in piece.splitlines(keepends=True):
            self._bytes += len(part)
            if self._bytes > self._bytes_max:
                raise TooLarge(f"an event has more than {self._bytes_max} bytes", status=413)
            self._line.append(part)
            if part.endswith((b"\r", b"\n")):
                line = b"".join(self._line)
                self._line.clear()
                if line.startswith(b":"):
                    self._bytes -= len(line)  # A comment is no part of an event.
                message = self._take(line.rstrip(b"\r\n").decode("utf-8", "replace"))
                if message is not None:
                    messages.append(message)
        return messages

    def _take(self, line: str) -> Optional[Message]:
        if self._first:
            self._first, line = False, line[1:] if line.startswith("\ufeff") else line
        if not line:
            return self._end()
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _end(self) -> Optional[Message]:
        message = Message(self._event or "message", "\n".join(self._data), self._id)
        empty = not self._data
        self._event, self._data, self._bytes = "", [], 0
        return None if empty else message


class Follower:
    """What must be known of a stream beyond one connection."""

    def __init__(
        self, parse: Callable[[str], Any], token_may_change: bool,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.last_id = ""
        self._parse = parse
        self._token_may_change = token_may_change
        self._chance = chance
        self._failures = 0
        self._versions: dict[str, int] = {}

    def take(self, message: Message) -> Optional[Event]:
        """What a message tells; raises the error with which kck ends the stream."""
        event = None
        with reading():
            json = self._parse(message.data) if message.event in ("value", "fresh", "error") else {}
            if message.event == "value":
                event = self._value(Answer.of(json))
            elif message.event == "fresh":
                event = Fresh(tuple(map(str, json["keys"])), AsOf.of(json["as_of"]))
            elif message.event == "error":
                error = error_of(json)
                if error.key is None:
                    raise error
                event = Trouble(error.key, error)
        self.last_id = message.id
        self._failures = 0
        return event

    def _value(self, answer: Answer) -> Optional[Event]:
        # Another node may be behind the one before; a reader is never taken back.
        if answer.version < self._versions.get(answer.key, 0):
            return None
        self._versions[answer.key] = answer.version
        return Value(answer)

    def is_final(self, error: KckError) -> bool:
        """Whether opening the stream again cannot help."""
        ended = isinstance(error, Unauthorized) and error.status is None
        return error.permanent or (ended and not self._token_may_change)

    def delay(self, error: KckError) -> float:
        """Seconds until the stream is opened again: growing, and spread so that clients do not return together."""
        most = min(DELAY_MOST, DELAY_FIRST * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return (error.retry_after or 0.0) + most * (0.5 + 0.5 * self._chance())
