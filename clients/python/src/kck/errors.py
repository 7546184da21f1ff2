"""Errors: what kck refuses, and what keeps a client from reaching it -> one exception a name."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from .answers import AsOf


class KckError(Exception):
    """What went wrong; `name` is for programs, `message` and `hint` are for people."""

    name = "error"

    def __init__(
        self,
        message: str,
        *,
        name: Optional[str] = None,
        code: Optional[str] = None,
        hint: str = "",
        arguments: tuple[str, ...] = (),
        status: Optional[int] = None,
        key: Optional[str] = None,
        reached: Optional[AsOf] = None,
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(message)
        if name is not None:
            self.name = name
        self.code = code
        self.message = message
        self.hint = hint
        self.arguments = arguments
        """The facts of the message, one by one."""
        self.status = status
        """The HTTP status, where there was a reply."""
        self.key = key
        self.reached = reached
        """How far kck was when it gave up waiting."""
        self.retry_after = retry_after
        """Seconds after which kck asks to be asked again."""

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.name}: {self.message}{hint}"

    @property
    def permanent(self) -> bool:
        """Whether the same request will be refused again."""
        return (
            self.status is not None and 300 <= self.status < 500 and self.status not in (408, 429)
        )


class BadRequest(KckError):
    """kck does not understand the request."""

    name = "bad_request"


class BadParameter(BadRequest):
    """A text that is no value of its parameter's type."""

    name = "bad_parameter"


class ParameterCount(BadRequest):
    """Too few or too many parameters."""

    name = "parameter_count"


class Unauthorized(KckError):
    """No token, or one that is not valid (any more)."""

    name = "unauthorized"


class Forbidden(KckError):
    """The token does not allow this."""

    name = "forbidden"


class NotFound(KckError):
    """Nothing is there."""

    name = "not_found"


class UnknownProduct(NotFound):
    """No product of that name."""

    name = "unknown_product"


class UnknownUpdate(NotFound):
    """No update of that name."""

    name = "unknown_update"


class MethodNotAllowed(KckError):
    """The route does not take this method: most likely `server` is not a kck."""

    name = "method_not_allowed"


class Conflict(KckError):
    """The source refused the write: a constraint, or another write at the same time."""

    name = "conflict"


class TooLarge(KckError):
    """A body, a list of keys or an answer over its limit, kck's or this client's."""

    name = "too_large"


class TooManyRequests(KckError):
    """kck has as much to do as it takes; see `retry_after`."""

    name = "too_many_requests"


class Internal(KckError):
    """A defect of kck."""

    name = "internal"


class ProductBroken(KckError):
    """The product's file or SQL does not work."""

    name = "product_broken"


class SourceUnavailable(KckError):
    """Postgres cannot be asked now."""

    name = "source_unavailable"


class Draining(KckError):
    """kck is stopping."""

    name = "draining"


class NotFreshInTime(KckError):
    """The demand was not met within `wait`; `reached` says how far kck was."""

    name = "not_fresh_in_time"


class ConnectionFailed(KckError):
    """kck was not reached, or the connection broke; a write may have happened."""

    name = "connection_failed"


class TimedOut(ConnectionFailed):
    """No whole reply within `timeout`; a write may have happened."""

    name = "timed_out"


class UnexpectedReply(KckError):
    """A reply that kck does not give: most likely something in between answered."""

    name = "unexpected_reply"


_BY_NAME: Mapping[str, type[KckError]] = {
    kind.name: kind
    for kind in (
        BadRequest,
        BadParameter,
        ParameterCount,
        Unauthorized,
        Forbidden,
        NotFound,
        UnknownProduct,
        UnknownUpdate,
        MethodNotAllowed,
        Conflict,
        TooLarge,
        TooManyRequests,
        Internal,
        ProductBroken,
        SourceUnavailable,
        Draining,
        NotFreshInTime,
    )
}
# For replies of a gateway in front of kck, whose bodies are not kck's.
_BY_STATUS: Mapping[int, type[KckError]] = {
    401: Unauthorized,
    403: Forbidden,
    413: TooLarge,
    429: TooManyRequests,
}


def error_of(
    body: object, status: Optional[int] = None, retry_after: Optional[float] = None
) -> KckError:
    """The error that `{"success":false,"error":{…}}` tells of, or its status where the body says nothing."""
    error: Any = body.get("error") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(error, dict):
        kind = _BY_STATUS.get(status or 0, UnexpectedReply)
        message = f"status {status} without kck's JSON"
        return kind(message, status=status, retry_after=retry_after)
    name = str(error.get("name", "error"))
    reached, key, code, arguments = (
        body.get("reached"), body.get("key"), error.get("code"), error.get("args"),
    )
    return _BY_NAME.get(name, KckError)(
        str(error.get("message", name)),
        name=name,
        code=None if code is None else str(code),
        hint=str(error.get("hint") or ""),
        arguments=tuple(map(str, arguments)) if isinstance(arguments, list) else (),
        status=status,
        key=None if key is None else str(key),
        reached=AsOf.of(reached) if isinstance(reached, dict) else None,
        retry_after=retry_after,
    )
