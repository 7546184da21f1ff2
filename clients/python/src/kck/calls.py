"""Calls: what is sent for each thing a client can ask, and how its reply is read. No I/O."""

from __future__ import annotations

import copy
import datetime
import enum
import json
import os
import re
import threading
import urllib.parse
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Callable, Generic, Iterable, Mapping, Optional, TypeVar, Union

from . import keys
from .answers import Answer, AsOf, Problem, Refreshed, Unchanged, Written, moment
from .errors import UnexpectedReply, error_of
from .keys import Parameter

Span = Union[float, datetime.timedelta, str]
"""Seconds, a timedelta, or text as kck reads it: `200ms`, `5s`, `2m`, `1h`."""

# How long kck lets a read wait that does not say.
_WAIT_SECONDS = 5.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Result = TypeVar("Result")
Self = TypeVar("Self", bound="Caller")


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Optional[bytes] = None
    repeatable: bool = True
    """Whether sending it twice does no more than sending it once."""
    wait: float = 0.0
    """Seconds that kck may spend on it by intent, beside what the network takes."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    """Their names in lower case."""
    body: bytes


@dataclass(frozen=True)
class Call(Generic[Result]):
    request: Request
    read: Callable[[Reply], Result]


@dataclass(frozen=True)
class Server:
    """Where kck is."""

    secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Server:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"server is '{url}': give it as http://host:port or https://host")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError("server is an address only: no user, query or fragment")
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        return cls(secure, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


class Writes:
    """The newest position that this client or session has written."""

    def __init__(self, position: Optional[str] = None) -> None:
        self._lock = threading.Lock()  # threads of one client write at once
        self._position = None if position is None else str(position)
        if self._position is not None:
            order_of(self._position)

    @property
    def position(self) -> Optional[str]:
        with self._lock:
            return self._position

    def note(self, lsn: str) -> None:
        order = order_of(lsn)
        with self._lock:
            if self._position is None or order > order_of(self._position):
                self._position = lsn

    def forget(self) -> None:
        with self._lock:
            self._position = None


def order_of(position: str) -> tuple[int, int]:
    """Positions compare as numbers: `0/9` is before `0/10`. `3:0/9` names its epoch as well."""
    match = re.match(r"(?:(\d+):)?([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z", position)
    if match is None:
        raise ValueError(f"'{position}' is no position in a log: write it like 0/16B3748")
    epoch, high, low = match.groups()
    return int(epoch or 0), (int(high, 16) << 32) | int(low, 16)


Token = Union[str, Callable[[], str], None]


class Caller:
    """What a client and its sessions have in common: where kck is, who asks, how far they have written."""

    def __init__(
        self,
        server: Optional[str],
        token: Token,
        read_your_writes: bool,
        parse_float: Callable[[str], Any],
    ) -> None:
        self._server = Server.of(server or os.environ.get("KCK_SERVER") or "http://127.0.0.1:8080")
        self._token: Token = token if token is not None else os.environ.get("KCK_TOKEN") or None
        self._read_your_writes = read_your_writes
        self._parse_float = parse_float
        self._writes = Writes()

    def session(
        self: Self, *, token: Token = None, position: Optional[str] = None,
        read_your_writes: Optional[bool] = None,
    ) -> Self:
        """A client on the same connections that remembers its own writes only.

        One a user, where one client serves many: else each of them waits for the writes of all.
        `position` goes on where another session was, also of another process.
        """
        other = copy.copy(self)
        other._writes = Writes(position)
        if token is not None:
            other._token = token
        if read_your_writes is not None:
            other._read_your_writes = read_your_writes
        return other

    @property
    def position(self) -> Optional[str]:
        """How far this client has written; its reads are not older than this."""
        return self._writes.position

    def forget_writes(self) -> None:
        """Stops demanding its own writes: after the source was restored to an earlier state."""
        self._writes.forget()

    # What is sent.

    def _fetch(
        self, key: str, min_lsn: Optional[str], max_staleness: Optional[Span],
        wait: Optional[Span], fresh: bool, after: Optional[int],
    ) -> Call[Union[Answer, Unchanged]]:
        query, seconds = self._demand(min_lsn, max_staleness, wait, fresh)
        if after is not None:
            query.append(("after", str(int(after))))
        if keys.goes_in_path(key):
            target = self._target(f"/fetch/{key}", query)
            request = Request("GET", target, self._headers(), wait=seconds)
            return Call(request, lambda reply: self._read_answer(key, reply))
        target = self._target("/fetch", [("key", key), *query])
        request = Request("GET", target, self._headers(), wait=seconds)
        return Call(request, self._read_only_answer)

    def _fetch_many(
        self, asked: list[str], min_lsn: Optional[str], max_staleness: Optional[Span],
        wait: Optional[Span], fresh: bool,
    ) -> Call[list[Union[Answer, Problem]]]:
        query, seconds = self._demand(min_lsn, max_staleness, wait, fresh)
        body = {"keys": [keys.checked(key) for key in asked]}
        target = self._target("/fetch", query)
        request = Request("POST", target, self._headers(json=True), _json(body), wait=seconds)
        return Call(request, lambda reply: self._read_answers(asked, reply))

    def _write(self, method: str, route: str, name: str, fields: Mapping[str, Any]) -> Call[Written]:
        target = self._target(f"/{route}/{keys.key(name)}")
        request = Request(method, target, self._headers(json=True), _json(fields), repeatable=False)
        return Call(request, self._read_written)

    def _administer(
        self, route: str, key_or_prefix: str, parameters: tuple[Parameter, ...]
    ) -> Call[Refreshed]:
        key = keys.named(key_or_prefix, parameters)
        # `orders_of/` as text is the prefix; `orders_of` with "" is the key of an empty text.
        prefix = not parameters and keys.goes_in_path(key.rstrip("/"))
        in_path = prefix or keys.goes_in_path(key)
        target = self._target(f"/{route}/{key}") if in_path else self._target(f"/{route}", [("key", key)])
        return Call(Request("POST", target, self._headers()), self._read_refreshed)

    def _login(self, user: str, password: str) -> Call[str]:
        body = urllib.parse.urlencode({"password": password}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        request = Request("POST", self._target(f"/login/{keys.encoded(user)}"), headers, body)
        return Call(request, self._read_token)

    def _subscribe(self, watched: Iterable[str], last_id: str) -> Request:
        headers = {**self._headers(), "Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        target = self._target("/subscribe", [("key", key) for key in watched])
        return Request("GET", target, headers)

    def _target(self, path: str, query: Iterable[tuple[str, str]] = ()) -> str:
        encoded = "&".join(f"{name}={keys.encoded(value)}" for name, value in query)
        return f"{self._server.path}{path}" + (f"?{encoded}" if encoded else "")

    def _headers(self, json: bool = False) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if json:
            headers["Content-Type"] = "application/json"
        token = self._token() if callable(self._token) else self._token
        if token:
            if not token.isascii() or not token.isprintable():
                raise ValueError("the token has characters that no header may carry")
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _demand(
        self, min_lsn: Optional[str], max_staleness: Optional[Span], wait: Optional[Span], fresh: bool
    ) -> tuple[list[tuple[str, str]], float]:
        if min_lsn is None and self._read_your_writes:
            min_lsn = self._writes.position
        query = []
        if min_lsn is not None:
            query.append(("min_lsn", min_lsn))
        if max_staleness is not None:
            query.append(("max_staleness", span(max_staleness)))
        if wait is not None:
            query.append(("wait", span(wait)))
        if fresh:
            query.append(("fresh", "true"))
        return query, _WAIT_SECONDS if wait is None else seconds_of(wait)

    # How replies are read.

    def _read_answer(self, key: str, reply: Reply) -> Union[Answer, Unchanged]:
        if reply.status == 304:
            with reading():
                version = int(re.sub(r'^W/|"', "", reply.headers["etag"]))
                as_of = AsOf(reply.headers["kck-as-of-lsn"], moment(reply.headers["kck-as-of"]))
                return Unchanged(key, version, as_of, reply.headers["kck-stale"] == "true")
        json = self._json_of(reply)
        with reading():
            return Answer.of(json)

    def _read_only_answer(self, reply: Reply) -> Answer:
        results = self._results_of(reply, 1)
        if not results[0].get("success"):
            raise error_of(results[0])
        with reading():
            return Answer.of(results[0])

    def _read_answers(self, asked: list[str], reply: Reply) -> list[Union[Answer, Problem]]:
        results = self._results_of(reply, len(asked))
        with reading():
            return [
                Answer.of(result) if result.get("success") else Problem(key, error_of(result))
                for key, result in zip(asked, results)
            ]

    def _results_of(self, reply: Reply, count: int) -> list[dict[str, Any]]:
        json = self._json_of(reply)
        with reading():
            results: list[dict[str, Any]] = json["results"]
            if len(results) != count:
                raise UnexpectedReply(f"{count} keys were asked, {len(results)} answered")
            return results

    def _read_written(self, reply: Reply) -> Written:
        json = self._json_of(reply)
        with reading():
            written = Written(str(json["lsn"]), int(json["rows"]))
            self._writes.note(written.lsn)
            return written

    def _read_refreshed(self, reply: Reply) -> Refreshed:
        json = self._json_of(reply)
        with reading():
            return Refreshed(int(json["keys"]), int(json.get("failed", 0)))

    def _read_token(self, reply: Reply) -> str:
        json = self._json_of(reply)
        with reading():
            self._token = str(json["auth_token"])
            return self._token

    def _json_of(self, reply: Reply) -> dict[str, Any]:
        try:
            json = self._parse(reply.body)
        except ValueError:
            json = None
        if reply.status != 200 or not isinstance(json, dict) or json.get("success") is not True:
            with reading():
                raise error_of(json, reply.status, retry_after(reply.headers))
        return json

    def _parse(self, text: Union[bytes, str]) -> Any:
        return json.loads(text, parse_float=self._parse_float)


class reading:
    """What is read in here has kck's form, or the reply is not kck's."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError)):
            raise UnexpectedReply(f"not kck's JSON: {type(error).__name__} {error}") from error


def span(value: Span) -> str:
    """As kck reads it."""
    if isinstance(value, str):
        seconds_of(value)
        return value
    return f"{round(seconds_of(value) * 1000)}ms"


def seconds_of(value: Span) -> float:
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        match = re.match(r"(\d+)(ms|s|m|h)\Z", value)
        if match is None:
            raise ValueError(f"'{value}' is no span of time: 200ms, 5s, 2m, 1h, or seconds as a number")
        return int(match.group(1)) * _UNITS[match.group(2)]
    if not 0 <= value < float("inf"):
        raise ValueError(f"a span of {value} seconds")
    return float(value)


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """Seconds; kck does not write it as a date, and a proxy's date is not worth a clock comparison."""
    text = headers.get("retry-after", "").strip()
    return float(text) if text.isdigit() and text.isascii() else None


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, default=_plain, allow_nan=False).encode()


def _plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise TypeError(f"a field is a {type(value).__name__}: give what JSON can say")
