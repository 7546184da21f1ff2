"""One request of the protocol -> the message that answers it."""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from typing import Any, Callable, Dict, Iterator, NamedTuple, Union

from . import request as requests
from .encode import encoded
from .registry import Failure, Known, processes, products

log = logging.getLogger("kck_worker")


class Asked(NamedTuple):
    """A request, and the function that it is for."""

    id: int
    known: Known
    request: requests.Request

    @property
    def is_async(self) -> bool:
        """Whether the function belongs into the loop rather than into a thread."""
        return inspect.iscoroutinefunction(self.known.function)


def read(message: Dict[str, Any], server: str) -> Union[Asked, str]:
    """What is asked; or the refusal, ready to be sent."""
    number = message["id"]
    for kind, known in (("product", products), ("process", processes)):
        name = message.get(kind)
        if name is None:
            continue
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            return _refusal(number, f"this worker knows no {kind} '{name}'; of its modules it has {there}")
        request = requests.Request(name, message.get("params", {}), message.get("as_of", ""), server)
        return Asked(number, known[name], request)
    return _refusal(number, "the request names neither a product nor a process")


def answer(asked: Asked) -> str:
    """Calls a plain function, in its thread."""
    return _message(asked, lambda: _called(asked))


async def answer_async(asked: Asked) -> str:
    """Awaits a function that is `async`, in the loop."""
    requests.enter(asked.request)
    try:
        value = await _arguments_applied(asked)
    except Exception as error:  # one answer fails, the worker goes on
        return _failed(asked, error)
    return _message(asked, lambda: value)


def _called(asked: Asked) -> Any:
    requests.enter(asked.request)
    with _connections_of_django():
        value = _arguments_applied(asked)
        # Query sets and generators are read while their connections are open.
        return _Encoded(encoded(value))


class _Encoded(str):
    pass


def _arguments_applied(asked: Asked) -> Any:
    arguments = asked.known.arguments(asked.request.params)
    return asked.known.function(**arguments)


def _message(asked: Asked, value: Callable[[], Any]) -> str:
    try:
        given = value()
        text = given if isinstance(given, _Encoded) else encoded(given)
    except Exception as error:
        return _failed(asked, error)
    # Not encoded once more: it may be large.
    return f'{{"id":{asked.id},"value":{text}}}'


def _failed(asked: Asked, error: Exception) -> str:
    if isinstance(error, Failure):
        return _refusal(asked.id, str(error))
    log.error("%s failed", asked.known.name, exc_info=error)
    return _refusal(asked.id, f"{type(error).__name__}: {error}")


def _refusal(number: int, why: str) -> str:
    return encoded({"id": number, "error": why})


@contextlib.contextmanager
def _connections_of_django() -> Iterator[None]:
    """Django keeps a connection a thread, and closes stale ones around its own requests: these are no others."""
    database = sys.modules.get("django.db")
    if database is None:
        yield
        return
    database.reset_queries()
    database.close_old_connections()
    try:
        yield
    finally:
        database.close_old_connections()


