"""Wire: requests -> replies and streams over asyncio, HTTP/1.1 as kck and its proxies speak it."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import AsyncIterator, Optional

from .calls import Reply, Request, Server
from .errors import ConnectionFailed, KckError, TimedOut, TooLarge, UnexpectedReply
from .pool import IDLE_CONNECTIONS, IDLE_SECONDS, Refused

_HEAD_BYTES = 64 * 1024
_PIECE = 64 * 1024

BROKEN = (OSError, EOFError, asyncio.IncompleteReadError)


class Connection:
    """One connection; one exchange at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.since = time.monotonic()
        self.reusable = False

    @classmethod
    async def open(cls, server: Server, tls: Optional[ssl.SSLContext]) -> Connection:
        reader, writer = await asyncio.open_connection(
            server.host, server.port, ssl=tls, limit=_HEAD_BYTES,
            server_hostname=server.host if tls else None,
        )
        return cls(reader, writer)

    @property
    def usable(self) -> bool:
        fresh = time.monotonic() - self.since < IDLE_SECONDS
        return fresh and not self._reader.at_eof() and not self._writer.is_closing()

    async def send(self, authority: str, request: Request) -> None:
        lines = [f"{request.method} {request.target} HTTP/1.1", f"Host: {authority}"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        lines.append("Accept-Encoding: identity")
        if request.body is not None:
            lines.append(f"Content-Length: {len(request.body)}")
        elif request.method != "GET":
            lines.append("Content-Length: 0")
        head = "\r\n".join(lines) + "\r\n\r\n"
        self._writer.write(head.encode("ascii") + (request.body or b""))
        await self._writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        while True:
            try:
                raw = await self._reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError as error:
                raise UnexpectedReply(f"the head has more than {_HEAD_BYTES} bytes") from error
            first, *lines = raw[:-4].decode("latin-1").split("\r\n")
            version, _, rest = first.partition(" ")
            status = rest[:3]
            if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdigit()):
                raise UnexpectedReply("the reply is not HTTP/1.1")
            if int(status) >= 200:
                break
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or name != name.strip():
                raise UnexpectedReply("a header without a colon")
            headers[name.lower()] = value.strip()
        connection = headers.get("connection", "").lower()
        self.reusable = version == "HTTP/1.1" and "close" not in connection
        return int(status), headers

    async def body(self, status: int, headers: dict[str, str]) -> AsyncIterator[bytes]:
        """The body in pieces, as they arrive."""
        length = headers.get("content-length")
        if status in (204, 304):
            return
        if "chunked" in headers.get("transfer-encoding", "").lower():
            self.reusable = self.reusable and length is None
            while True:
                left = await self._chunk_size()
                if left == 0:
                    break
                while left:
                    piece = await self._some(min(left, _PIECE))
                    left -= len(piece)
                    yield piece
                if await self._reader.readexactly(2) != b"\r\n":
                    raise UnexpectedReply("a chunk is longer than it says")
            while await self._line():
                pass  # Trailers say nothing that is asked for.
        elif length is not None:
            if not (length.isascii() and length.isdigit()):
                raise UnexpectedReply("a length that is no number")
            left = int(length)
            while left:
                piece = await self._some(min(left, _PIECE))
                left -= len(piece)
                yield piece
        else:
            self.reusable = False
            while True:
                piece = await self._reader.read(_PIECE)
                if not piece:
                    return
                yield piece

    async def _chunk_size(self) -> int:
        size = (await self._line()).split(b";")[0].strip()
        if not size or len(size) > 16 or size.strip(b"0123456789abcdefABCDEF"):
            raise UnexpectedReply("a chunk without a size")
        return int(size, 16)

    async def _line(self) -> bytes:
        try:
            return (await self._reader.readuntil(b"\r\n"))[:-2]
        except asyncio.LimitOverrunError as error:
            raise UnexpectedReply("a line without an end") from error

    async def _some(self, count: int) -> bytes:
        piece = await self._reader.read(count)
        if not piece:
            raise EOFError
        return piece

    def close(self) -> None:
        self._writer.close()


class Wire:
    """Idle connections of one event loop to one server."""

    def __init__(
        self, server: Server, timeout: float, answer_limit: int, tls: Optional[ssl.SSLContext]
    ) -> None:
        self._server = server
        self.timeout = timeout
        self.answer_limit = answer_limit
        self._tls = (tls or ssl.create_default_context()) if server.secure else None
        self._idle: list[Connection] = []
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._closed = False

    async def request(self, request: Request) -> Reply:
        """One exchange; sent again only on a kept connection that had been closed, and only if that is harmless."""
        try:
            return await asyncio.wait_for(self._request(request), self.timeout + request.wait)
        except asyncio.TimeoutError as error:
            raise failed(error, request.repeatable) from error
        except BROKEN as error:
            raise failed(error, request.repeatable) from error

    async def _request(self, request: Request) -> Reply:
        connection = self._take()
        if connection is not None:
            try:
                return await self._exchange(connection, request)
            except BROKEN:
                if not request.repeatable:
                    raise
        return await self._exchange(await self.open(), request)

    async def _exchange(self, connection: Connection, request: Request) -> Reply:
        whole = False
        try:
            await connection.send(self._server.authority, request)
            status, headers = await connection.head()
            body = await self._whole(connection, status, headers)
            whole = True
            return Reply(status, headers, body)
        finally:
            if whole and connection.reusable and len(self._idle) < IDLE_CONNECTIONS and not self._closed:
                connection.since = time.monotonic()
                self._idle.append(connection)
            else:
                connection.close()

    async def _whole(self, connection: Connection, status: int, headers: dict[str, str]) -> bytes:
        pieces, got = [], 0
        async for piece in connection.body(status, headers):
            got += len(piece)
            if got > self.answer_limit:
                raise TooLarge(
                    f"the reply has more than {self.answer_limit} bytes",
                    hint="give the client a larger answer_limit",
                )
            pieces.append(piece)
        return b"".join(pieces)

    async def stream(self, connection: Connection, request: Request) -> AsyncIterator[bytes]:
        """The bytes of a stream, on a connection of its own."""
        await connection.send(self._server.authority, request)
        status, headers = await connection.head()
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if status != 200 or kind != "text/event-stream":
            raise Refused(Reply(status, headers, await self._whole(connection, status, headers)))
        return connection.body(status, headers)

    async def open(self) -> Connection:
        if self._closed:
            raise ConnectionFailed("the client is closed")
        return await Connection.open(self._server, self._tls)

    def _take(self) -> Optional[Connection]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Connections belong to their loop; those of one that is gone are gone with it.
            self._loop, self._idle = loop, []
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return None

    def close(self) -> None:
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def failed(error: BaseException, repeatable: bool = True) -> KckError:
    doubt = "" if repeatable else "it is not known whether the write happened"
    # asyncio.TimeoutError and OSError's TimeoutError are two classes up to Python 3.10.
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return TimedOut("no whole reply in time", hint=doubt)
    ended = isinstance(error, EOFError)
    text = "it ended within a reply" if ended else str(error) or type(error).__name__
    return ConnectionFailed(f"the connection failed: {text}", hint=doubt)
