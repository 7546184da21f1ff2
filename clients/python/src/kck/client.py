"""Client: kck for code that waits."""

from __future__ import annotations

import contextlib
import ssl
import threading
from types import TracebackType
from typing import Any, Callable, Generator, Iterable, Iterator, Optional, TypeVar, Union, overload

from . import keys
from .answers import Answer, Event, Problem, Refreshed, Trouble, Unchanged, Written
from .calls import Call, Caller, Span, Token
from .errors import ConnectionFailed, KckError, UnexpectedReply
from .events import SILENCE_SECONDS, Follower, Parser
from .keys import Parameter
from .pool import Pool, Refused, Stream

Result = TypeVar("Result")


class Client(Caller):
    """Asks one kck; any thread may use it.

    `server` and `token` come from KCK_SERVER and KCK_TOKEN where they are not given; `token` may be a
    function that gives the current one. `timeout` is in seconds, for a whole reply, beside the `wait` of
    a read. With `read_your_writes` a read waits until the client's own updates are in its answer.
    """

    def __init__(
        self, server: Optional[str] = None, token: Token = None, *, timeout: float = 30.0,
        answer_limit: int = 64 * 1024 * 1024, read_your_writes: bool = True,
        tls: Optional[ssl.SSLContext] = None, parse_float: Callable[[str], Any] = float,
    ) -> None:
        super().__init__(server, token, read_your_writes, parse_float)
        self._answer_limit = answer_limit
        self._silence = SILENCE_SECONDS
        self._pool = Pool(self._server, timeout, answer_limit, tls)

    @overload
    def fetch(
        self, product_or_key: str, /, *parameters: Parameter, min_lsn: Optional[str] = None,
        max_staleness: Optional[Span] = None, wait: Optional[Span] = None, fresh: bool = False,
        after: None = None,
    ) -> Answer: ...

    @overload
    def fetch(
        self, product_or_key: str, /, *parameters: Parameter, min_lsn: Optional[str] = None,
        max_staleness: Optional[Span] = None, wait: Optional[Span] = None, fresh: bool = False,
        after: int,
    ) -> Union[Answer, Unchanged]: ...

    def fetch(
        self, product_or_key: str, /, *parameters: Parameter, min_lsn: Optional[str] = None,
        max_staleness: Optional[Span] = None, wait: Optional[Span] = None, fresh: bool = False,
        after: Optional[int] = None,
    ) -> Union[Answer, Unchanged]:
        """The answer of `fetch("orders_of", 42)`, or of a key, `fetch("orders_of/42")`.

        `max_staleness`, `fresh` and `min_lsn` demand more than what is there; within `wait` kck gives it or
        raises NotFreshInTime. An explicit `min_lsn` takes the place of the client's own position.
        `after` is a version: waits for a newer one, and gives Unchanged when there is none.
        """
        key = keys.named(product_or_key, parameters)
        return self._run(self._fetch(key, min_lsn, max_staleness, wait, fresh, after))

    def fetch_many(
        self, keys: Iterable[str], *, min_lsn: Optional[str] = None,
        max_staleness: Optional[Span] = None, wait: Optional[Span] = None, fresh: bool = False,
    ) -> list[Union[Answer, Problem]]:
        """The answers of many keys by one request, in their order; one that has none is a Problem."""
        asked = list(keys)
        if not asked:
            return []
        return self._run(self._fetch_many(asked, min_lsn, max_staleness, wait, fresh))

    def update(self, name: str, /, **fields: Any) -> Written:
        """Runs `updates/NAME.sql` with these fields as its parameters."""
        return self._run(self._write("PUT", "update", name, fields))

    def create(self, name: str, /, **fields: Any) -> Written:
        """The same by the other verb."""
        return self._run(self._write("POST", "create", name, fields))

    def refresh(self, key_or_prefix: str, /, *parameters: Parameter) -> Refreshed:
        """Computes a key, or all followed keys below a prefix of whole segments, again now."""
        return self._run(self._administer("refresh", key_or_prefix, parameters))

    def purge(self, key_or_prefix: str, /, *parameters: Parameter) -> int:
        """Forgets a key, or all keys below a prefix; says how many."""
        return self._run(self._administer("purge", key_or_prefix, parameters)).keys

    def login(self, user: str, password: str) -> str:
        """Asks for a token, uses it from now on, and gives it."""
        return self._run(self._login(user, password))

    def subscribe(self, keys: Union[str, Iterable[str]]) -> Subscription:
        """Watches keys: an iterator of Value, Fresh and Trouble that ends at `close()`.

        Opens the stream again by itself, where it was; raises what makes that useless.
        """
        watched = [keys] if isinstance(keys, str) else list(keys)
        return Subscription(self, watched)

    def _run(self, call: Call[Result]) -> Result:
        return call.read(self._pool.request(call.request))

    def close(self) -> None:
        """Closes the idle connections, those of its sessions too."""
        self._pool.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


class Subscription(Iterator[Event]):
    """What is told of watched keys. One thread iterates, any may close."""

    def __init__(self, client: Client, watched: list[str]) -> None:
        self._client = client
        self._watched = [keys.checked(key) for key in watched]
        if not self._watched:
            raise ValueError("no key to watch")
        self._closed = threading.Event()
        self._stream: Optional[Stream] = None
        self._follower = Follower(client._parse, callable(client._token))
        self._events = self._run()

    def __next__(self) -> Event:
        return next(self._events)

    def _run(self) -> Generator[Event, None, None]:
        while not self._closed.is_set():
            try:
                yield from self._once()
                error: KckError = ConnectionFailed("the stream ended")
            except KckError as failed:
                error = failed
            if self._closed.is_set():
                return
            if self._follower.is_final(error):
                raise error
            delay = self._follower.delay(error)
            yield Trouble(None, error, delay)
            self._closed.wait(delay)

    def _once(self) -> Iterator[Event]:
        client, follower = self._client, self._follower
        request = client._subscribe(self._watched, follower.last_id)
        self._stream = stream = client._pool.stream(request)
        if self._closed.is_set():
            return
        parser = Parser(follower.last_id, client._answer_limit)
        try:
            with contextlib.closing(stream.pieces(client._silence)) as pieces:
                for piece in pieces:
                    for message in parser.feed(piece):
                        if self._closed.is_set():
                            return
                        event = follower.take(message)
                        if event is not None:
                            yield event
        except Refused as refused:
            client._json_of(refused.reply)
            raise UnexpectedReply("the reply is no stream of events") from None

    def close(self) -> None:
        """Ends the iteration, also while another thread waits in it."""
        self._closed.set()
        if self._stream is not None:
            self._stream.cut()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()
        try:
            self._events.close()
        except ValueError:
            pass  # Another thread is in it, and ends by itself.
