"""Pool: requests -> replies and streams, over kept connections, from any thread."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import ssl
import threading
import time
from typing import Generator, Iterator, Optional

from .calls import Reply, Request, Server
from .errors import ConnectionFailed, TimedOut, TooLarge, UnexpectedReply

# kck closes after 75 s of silence and usual balancers after 60: a connection is not used near that.
IDLE_SECONDS = 50.0
IDLE_CONNECTIONS = 10
_PIECE = 64 * 1024


class Pool:
    """Idle connections to one server."""

    def __init__(
        self, server: Server, timeout: float, answer_limit: int, tls: Optional[ssl.SSLContext]
    ) -> None:
        self._server = server
        self.timeout = timeout
        self._answer_limit = answer_limit
        self._tls = tls or (ssl.create_default_context() if server.secure else None)
        self._lock = threading.Lock()  # any thread takes and gives back
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._process = os.getpid()
        self._closed = False

    def request(self, request: Request) -> Reply:
        """One exchange; sent again only on a kept connection that had been closed, and only if that is harmless."""
        connection, kept = self._take()
        try:
            try:
                return self._exchange(connection, request)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                slow = isinstance(error, (TimeoutError, socket.timeout))
                if not kept or not request.repeatable or slow:
                    raise
                connection = self._new()
                return self._exchange(connection, request)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _failed(error, request.repeatable) from error
        except BaseException:
            connection.close()
            raise

    def _exchange(self, connection: http.client.HTTPConnection, request: Request) -> Reply:
        deadline = time.monotonic() + self.timeout + request.wait
        response = self.sent(connection, request, self.timeout + request.wait)
        # http.client lets go of the socket of a connection that will close, and goes on reading from it.
        sock = connection.sock
        body = b"".join(self.pieces(response, sock, deadline))
        response.close()
        if response.will_close:
            connection.close()
        else:
            self._give_back(connection)
        return Reply(response.status, _headers(response), body)

    def sent(
        self, connection: http.client.HTTPConnection, request: Request, timeout: float
    ) -> http.client.HTTPResponse:
        if connection.sock is None:
            connection.timeout = self.timeout
            connection.connect()
        sock: socket.socket = connection.sock
        sock.settimeout(timeout)
        connection.request(request.method, request.target, request.body, dict(request.headers))
        return connection.getresponse()

    def pieces(
        self, response: http.client.HTTPResponse, sock: Optional[socket.socket], deadline: float
    ) -> Iterator[bytes]:
        expected = response.length
        if expected is not None and expected > self._answer_limit:
            raise self._too_large()
        got = 0
        while True:
            if sock is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise socket.timeout("the reply is slow")
                sock.settimeout(left)
            piece = response.read1(_PIECE)
            if not piece:
                break
            got += len(piece)
            if got > self._answer_limit:
                raise self._too_large()
            yield piece
        # http.client takes the end of a connection for the end of a body of known length.
        if expected is not None and got < expected:
            raise http.client.IncompleteRead(b"", expected - got)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the reply has more than {self._answer_limit} bytes",
            hint="give the client a larger answer_limit",
        )

    def stream(self, request: Request) -> Stream:
        """A reply that goes on, on a connection of its own; `silence` ends it."""
        connection = self._new()
        return Stream(self, connection, request)

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        oldest = time.monotonic() - IDLE_SECONDS
        while True:
            with self._lock:
                if self._process != os.getpid():
                    # A forked child shares the sockets: both would read one reply.
                    self._process, self._idle = os.getpid(), []
                if not self._idle:
                    break
                since, connection = self._idle.pop()
            if since > oldest and not _has_something_to_read(connection.sock):
                return connection, True
            connection.close()
        return self._new(), False

    def _new(self) -> http.client.HTTPConnection:
        if self._closed:
            raise ConnectionFailed("the client is closed")
        server = self._server
        if server.secure:
            return http.client.HTTPSConnection(
                server.host, server.port, timeout=self.timeout, context=self._tls
            )
        return http.client.HTTPConnection(server.host, server.port, timeout=self.timeout)

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()


class Stream:
    """The bytes of one event stream, until it ends, is silent for too long, or is cut by any thread."""

    def __init__(
        self, pool: Pool, connection: http.client.HTTPConnection, request: Request
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._request = request
        self._socket: Optional[socket.socket] = None
        self._cut = False

    def pieces(self, silence: float) -> Generator[bytes, None, None]:
        try:
            response = self._open(silence)
            while True:
                piece = response.read1(_PIECE)
                if not piece:
                    return
                yield piece
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: cut while reading.
            raise _failed(error, True) from error
        finally:
            self._connection.close()

    def refusal(self, response: http.client.HTTPResponse, sock: Optional[socket.socket]) -> Reply:
        body = b"".join(self._pool.pieces(response, sock, time.monotonic() + self._pool.timeout))
        return Reply(response.status, _headers(response), body)

    def _open(self, silence: float) -> http.client.HTTPResponse:
        self._connection.connect()
        sock: socket.socket = self._connection.sock
        self._socket = sock
        if self._cut:
            raise ConnectionFailed("cut before it began")
        response = self._pool.sent(self._connection, self._request, silence)
        kind = response.headers.get_content_type()
        if response.status != 200 or kind != "text/event-stream":
            raise Refused(self.refusal(response, sock))
        return response

    def cut(self) -> None:
        """Wakes the thread that reads."""
        self._cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class Refused(Exception):
    """The reply to the opening of a stream, when it is none."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _has_something_to_read(sock: Optional[socket.socket]) -> bool:
    """Of an idle connection: it was closed by the server, or holds what nobody asked for."""
    if sock is None:
        return True
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])


def _failed(error: Exception, repeatable: bool) -> Exception:
    doubt = "" if repeatable else "it is not known whether the write happened"
    # `socket.timeout` is another class than TimeoutError up to Python 3.9.
    if isinstance(error, (TimeoutError, socket.timeout)):
        return TimedOut(f"no whole reply in time: {error}", hint=doubt)
    if isinstance(error, http.client.LineTooLong):
        return UnexpectedReply(f"not HTTP as kck speaks it: {error}")
    ended = isinstance(error, (http.client.IncompleteRead, http.client.RemoteDisconnected))
    text = "it ended within a reply" if ended else str(error) or type(error).__name__
    return ConnectionFailed(f"the connection failed: {text}", hint=doubt)
