"""AsyncClient: kck for asyncio."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import (
    Any, AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Optional, TypeVar, Union, overload,
)

from . import keys
from .answers import Answer, Event, Problem, Refreshed, Trouble, Unchanged, Written
from .calls import Call, Caller, Span, Token
from .errors import ConnectionFailed, KckError, UnexpectedReply
from .events import SILENCE_SECONDS, Follower, Parser
from .keys import Parameter
from .pool import Refused
from .wire import BROKEN, Wire, failed

Result = TypeVar("Result")


class AsyncClient(Caller):
    """Asks one kck from one event loop; otherwise as Client, whose methods say more."""

    def __init__(
        self, server: Optional[str] = None, token: Token = None, *, timeout: float = 30.0,
        answer_limit: int = 64 * 1024 * 1024, read_your_writes: bool = True,
        tls: Optional[ssl.SSLContext] = None, parse_float: Callable[[str], Any] = float,
    ) -> None:
        super().__init__(server, token, read_your_writes, parse_float)
        self._silence = SILENCE_SECONDS
        self._wire = Wire(self._server, timeout, answer_limit, tls)

    @overload
    async def fetch(
        self, product_or_key: str, /, *parameters: Parameter, min_lsn: Optional[str] = None,
        max_staleness: Optional[Span] = None, wait: Optional[Span] = None, fresh: bool = False,
        after: None = None,
    ) -> Answer: ...

    @overload
    async def fetch(
        self, product_or_key: str, /, *parameters: Parameter, min_lsn: Optional[str] = None,
        max_staleness: Optional[Span] = None, wait: Optional[Span] = None, fresh: bool = False,
        after: int,
    ) -> Union[Answer, Unchanged]: ...

    async def fetch(
        self, product_or_key: str, /, *parameters: Parameter, min_lsn: Optional[str] = None,
        max_staleness: Optional[Span] = None, wait: Optional[Span] = None, fresh: bool = False,
        after: Optional[int] = None,
    ) -> Union[Answer, Unchanged]:
        """The answer of a product with these parameters, or of a key."""
        key = keys.named(product_or_key, parameters)
        return await self._run(self._fetch(key, min_lsn, max_staleness, wait, fresh, after))

    async def fetch_many(
        self, keys: Iterable[str], *, min_lsn: Optional[str] = None,
        max_staleness: Optional[Span] = None, wait: Optional[Span] = None, fresh: bool = False,
    ) -> list[Union[Answer, Problem]]:
        """The answers of many keys by one request, in their order; one that has none is a Problem."""
        asked = list(keys)
        if not asked:
            return []
        return await self._run(self._fetch_many(asked, min_lsn, max_staleness, wait, fresh))

    async def update(self, name: str, /, **fields: Any) -> Written:
        """Runs `updates/NAME.sql` with these fields as its parameters."""
        return await self._run(self._write("PUT", "update", name, fields))

    async def create(self, name: str, /, **fields: Any) -> Written:
        """The same by the other verb."""
        return await self._run(self._write("POST", "create", name, fields))

    async def refresh(self, key_or_prefix: str, /, *parameters: Parameter) -> Refreshed:
        """Computes a key, or all followed keys below a prefix of whole segments, again now."""
        return await self._run(self._administer("refresh", key_or_prefix, parameters))

    async def purge(self, key_or_prefix: str, /, *parameters: Parameter) -> int:
        """Forgets a key, or all keys below a prefix; says how many."""
        return (await self._run(self._administer("purge", key_or_prefix, parameters))).keys

    async def login(self, user: str, password: str) -> str:
        """Asks for a token, uses it from now on, and gives it."""
        return await self._run(self._login(user, password))

    def subscribe(self, keys: Union[str, Iterable[str]]) -> AsyncSubscription:
        """Watches keys: an async iterator of Value, Fresh and Trouble that ends at `close()`."""
        watched = [keys] if isinstance(keys, str) else list(keys)
        return AsyncSubscription(self, watched)

    async def _run(self, call: Call[Result]) -> Result:
        return call.read(await self._wire.request(call.request))

    async def close(self) -> None:
        """Closes the idle connections, those of its sessions too."""
        self._wire.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()


class _Closed(Exception):
    """The subscription was closed while something was waited for."""


class AsyncSubscription(AsyncIterator[Event]):
    """What is told of watched keys. One task iterates, any may close."""

    def __init__(self, client: AsyncClient, watched: list[str]) -> None:
        self._client = client
        self._watched = [keys.checked(key) for key in watched]
        if not self._watched:
            raise ValueError("no key to watch")
        self._ended = False
        self._closed: Optional[asyncio.Future[None]] = None
        self._follower = Follower(client._parse, callable(client._token))
        self._events = self._run()

    async def __anext__(self) -> Event:
        return await self._events.__anext__()

    async def _run(self) -> AsyncGenerator[Event, None]:
        # Made here because a future belongs to the loop that runs.
        self._closed = asyncio.get_running_loop().create_future()
        while not self._ended:
            try:
                events = self._once()
                try:
                    async for event in events:
                        yield event
                finally:
                    await events.aclose()
                error: KckError = ConnectionFailed("the stream ended")
            except _Closed:
                return
            except BROKEN as broken:
                error = failed(broken)
            except asyncio.TimeoutError as silent:
                error = failed(silent)
            except KckError as refused:
                error = refused
            if self._ended:
                return
            if self._follower.is_final(error):
                raise error
            delay = self._follower.delay(error)
            yield Trouble(None, error, delay)
            try:
                await self._unless_closed(asyncio.sleep(delay), None)
            except _Closed:
                return

    async def _once(self) -> AsyncGenerator[Event, None]:
        wire, follower = self._client._wire, self._follower
        request = self._client._subscribe(self._watched, follower.last_id)
        parser = Parser(follower.last_id, wire.answer_limit)
        connection = await self._unless_closed(wire.open(), wire.timeout)
        try:
            silence = self._client._silence
            pieces = await self._unless_closed(wire.stream(connection, request), silence)
            while True:
                try:
                    piece = await self._unless_closed(pieces.__anext__(), silence)
                except StopAsyncIteration:
                    return
                for message in parser.feed(piece):
                    event = follower.take(message)
                    if event is not None:
                        yield event
        except Refused as refused:
            self._client._json_of(refused.reply)
            raise UnexpectedReply("the reply is no stream of events") from None
        finally:
            connection.close()

    async def _unless_closed(self, wanted: Awaitable[Result], seconds: Optional[float]) -> Result:
        assert self._closed is not None, "made when the iteration began"
        task = asyncio.ensure_future(_value_of(wanted))
        either: set[asyncio.Future[Any]] = {task, self._closed}
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if self._closed.done():
                raise _Closed
            if not task.done():
                raise asyncio.TimeoutError
            return _unwrapped(task.result())
        finally:
            if not task.done():
                task.cancel()
                # Waited for, so that nothing reads from the connection any more.
                await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # Looked at, or asyncio complains that nobody did.

    async def close(self) -> None:
        """Ends the iteration, also while another task waits in it."""
        self._ended = True
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    async def __aenter__(self) -> AsyncSubscription:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()
        try:
            await self._events.aclose()
        except RuntimeError:
            pass  # Another task is in it, and ends by itself.


# A task cannot end with StopAsyncIteration raised through a generator's frame: the end travels as a value.
class _End:
    pass


async def _value_of(wanted: Awaitable[Result]) -> Union[Result, _End]:
    try:
        return await wanted
    except StopAsyncIteration:
        return _End()


def _unwrapped(value: Union[Result, _End]) -> Result:
    if isinstance(value, _End):
        raise StopAsyncIteration
    return value
