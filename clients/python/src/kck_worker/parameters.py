"""Canonical texts of parameters, as Postgres prints them -> values of Python."""

from __future__ import annotations

import datetime
import json
import re
import typing
import uuid
from decimal import Decimal
from typing import Any, Callable, Dict

# Only hours where there are no minutes: Python understands that since 3.11.
_SHORT_ZONE = re.compile(r"([+-]\d\d)\Z")
# Python reads three or six digits of a second; Postgres prints as few as there are.
_FRACTION = re.compile(r"\.(\d{1,6})")


def _boolean(text: str) -> bool:
    if text in ("t", "true"):
        return True
    if text in ("f", "false"):
        return False
    raise ValueError(f"'{text}' is no boolean")


def _iso(text: str) -> str:
    text = _FRACTION.sub(lambda digits: "." + digits.group(1).ljust(6, "0"), text)
    return _SHORT_ZONE.sub(r"\1:00", text) if ":" in text else text


def _timestamp(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(_iso(text))


def _time(text: str) -> datetime.time:
    return datetime.time.fromisoformat(_iso(text))


_READERS: Dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: _boolean,
    Decimal: Decimal,
    datetime.date: datetime.date.fromisoformat,
    datetime.datetime: _timestamp,
    datetime.time: _time,
    uuid.UUID: uuid.UUID,
    dict: json.loads,
    Any: str,
}


def hints(function: Callable[..., Any]) -> Dict[str, Any]:
    """Those of a function, as types."""
    try:
        return typing.get_type_hints(function)
    except NameError as error:
        raise TypeError(f"an annotation of {function.__qualname__} names nothing: {error}") from error


def reader(function: str, parameter: str, annotation: Any) -> Callable[[str], Any]:
    """How the text of a parameter with this annotation is read."""
    if annotation is None:
        return str
    try:
        return _READERS[annotation]
    except (KeyError, TypeError):
        known = ", ".join(one.__name__ for one in _READERS if isinstance(one, type))
        raise TypeError(
            f"{function}: parameter '{parameter}' has an annotation that no text is read as: use one of {known},"
            f" or say how with params={{'{parameter}': function}}"
        ) from None
