"""What is being answered: for the function that does it."""

from __future__ import annotations

import contextvars
import threading
from typing import Dict, NamedTuple, Optional

import kck


class Request(NamedTuple):
    """A request of kck."""

    #: The product or process.
    name: str
    #: Every parameter, as text.
    params: Dict[str, str]
    #: Whatever was committed up to here can be seen: `epoch:lsn`.
    as_of: str
    #: Where kck serves.
    server: str


_current: "contextvars.ContextVar[Optional[Request]]" = contextvars.ContextVar("request", default=None)
_clients: Dict[str, kck.Client] = {}
# Only ever touched by the one loop.
_async_clients: Dict[str, kck.AsyncClient] = {}
_lock = threading.Lock()


def current() -> Request:
    """The request that the calling function answers."""
    request = _current.get()
    if request is None:
        raise RuntimeError("nothing is being answered here")
    return request


def enter(request: Request) -> None:
    """The rest of this context answers it."""
    _current.set(request)


def client() -> kck.Client:
    """A client of the kck that asked, whose reads are at least as new as the answer must be.

    Its token, where one is needed, is that of the environment, `KCK_TOKEN`.
    """
    request = current()
    with _lock:
        known = _clients.get(request.server)
        if known is None:
            known = _clients[request.server] = kck.Client(request.server)
    return known.session(position=request.as_of or None)


def async_client() -> kck.AsyncClient:
    """The same for functions that are `async`."""
    request = current()
    known = _async_clients.get(request.server)
    if known is None:
        known = _async_clients[request.server] = kck.AsyncClient(request.server)
    return known.session(position=request.as_of or None)
