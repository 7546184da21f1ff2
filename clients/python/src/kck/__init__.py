"""kck: answers of SQL files over Postgres, cached, kept right, and pushed."""

from .answers import (
    Answer, AsOf, Event, Fresh, Problem, Refreshed, Trouble, Unchanged, Value, Written,
)
from .async_client import AsyncClient, AsyncSubscription
from .client import Client, Subscription
from .errors import (
    BadParameter, BadRequest, Conflict, ConnectionFailed, Draining, Forbidden, Internal, KckError,
    MethodNotAllowed, NotFound, NotFreshInTime, ParameterCount, ProductBroken, SourceUnavailable,
    TimedOut, TooLarge, TooManyRequests, Unauthorized, UnexpectedReply, UnknownProduct,
    UnknownUpdate,
)
from .keys import Parameter, key

__all__ = [
    "Answer", "AsOf", "AsyncClient", "AsyncSubscription", "BadParameter", "BadRequest", "Client",
    "Conflict", "ConnectionFailed", "Draining", "Event", "Forbidden", "Fresh", "Internal",
    "KckError", "MethodNotAllowed", "NotFound", "NotFreshInTime", "Parameter", "ParameterCount",
    "Problem", "ProductBroken", "Refreshed", "SourceUnavailable", "Subscription", "TimedOut",
    "TooLarge", "TooManyRequests", "Trouble", "Unauthorized", "Unchanged", "UnexpectedReply",
    "UnknownProduct", "UnknownUpdate", "Value", "Written", "key",
]
