"""Answers: kck's JSON -> plain values."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping, Optional, Union

if TYPE_CHECKING:
    from .errors import KckError


def moment(text: str) -> datetime.datetime:
    """`2026-11-22T10:00:00.120000Z`, the source's clock."""
    # Python 3.9 and 3.10 do not read the Z.
    return datetime.datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)


@dataclass(frozen=True)
class AsOf:
    """A position in the source's log, and the source's clock at it."""

    lsn: str
    time: datetime.datetime

    @classmethod
    def of(cls, json: Mapping[str, Any]) -> AsOf:
        return cls(str(json["lsn"]), moment(json["time"]))


@dataclass(frozen=True)
class Answer:
    """What a product gives for its parameters, and how fresh that is."""

    key: str
    """In kck's own form: `orders_of/7`, also where `orders_of/007` was asked."""
    value: Any
    version: int
    """Grows with every change of the value."""
    modified: datetime.datetime
    """When the value last changed."""
    as_of: AsOf
    """The value is what the SQL gives on the source at some moment not before this."""
    stale: bool
    """Whether a later commit is known that may change it."""
    expires: Optional[datetime.datetime] = None
    ttl: Optional[int] = None
    """Seconds left until `expires`."""

    @classmethod
    def of(cls, json: Mapping[str, Any]) -> Answer:
        expires, ttl = json.get("expires"), json.get("ttl")
        return cls(
            key=str(json["key"]),
            value=json["value"],
            version=int(json["version"]),
            modified=moment(json["modified"]),
            as_of=AsOf.of(json["as_of"]),
            stale=bool(json["stale"]),
            expires=None if expires is None else moment(expires),
            ttl=None if ttl is None else int(ttl),
        )


@dataclass(frozen=True)
class Unchanged:
    """There is no version after the one that was named; that one is as fresh as this says."""

    key: str
    version: int
    as_of: AsOf
    stale: bool


@dataclass(frozen=True)
class Problem:
    """In a list of answers: why there is none for this key."""

    key: str
    error: KckError


@dataclass(frozen=True)
class Written:
    """What an update did: the position of its commit, and how many rows it touched."""

    lsn: str
    rows: int


@dataclass(frozen=True)
class Refreshed:
    """How many keys were computed again, and how many of them could not be."""

    keys: int
    failed: int


@dataclass(frozen=True)
class Value:
    """A watched key's current answer; some in between may have been left out, none is older than one before."""

    answer: Answer

    @property
    def key(self) -> str:
        return self.answer.key

    @property
    def value(self) -> Any:
        return self.answer.value


@dataclass(frozen=True)
class Fresh:
    """The newest values of these keys are exact as of this."""

    keys: tuple[str, ...]
    as_of: AsOf


@dataclass(frozen=True)
class Trouble:
    """A key has no answer now; or, with no key, the stream broke and is opened again by itself."""

    key: Optional[str]
    error: KckError
    again_in: Optional[float] = None
    """Seconds until the stream is opened again."""


Event = Union[Value, Fresh, Trouble]
