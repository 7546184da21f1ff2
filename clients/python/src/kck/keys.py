"""Keys: a product and its parameters -> the text that names an answer, and where that text can be sent."""

from __future__ import annotations

import datetime
import enum
import re
import urllib.parse
import uuid
from decimal import Decimal
from typing import Union

Parameter = Union[
    str, int, float, bool, Decimal, datetime.date, datetime.time, uuid.UUID, enum.Enum
]

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
# What a path may hold without being encoded; a key of `key()` holds less.
_PATH = re.compile(r"[A-Za-z0-9\-._~%/:@!$&'()*+,;=]+\Z")


def key(product: str, *parameters: Parameter) -> str:
    """The key of a product's answer: `key("orders_of", 42, "a/b")` is `orders_of/42/a%2Fb`.

    kck brings each parameter into the form that Postgres prints: `007` and `7` are one key to it.
    """
    if not _NAME.match(product):
        raise ValueError(f"'{product}' is no product's name: [a-z][a-z0-9_]*")
    return "/".join([product, *(encoded(text_of(parameter)) for parameter in parameters)])


def text_of(parameter: Parameter) -> str:
    """A parameter as text that Postgres reads as a value of its type."""
    if isinstance(parameter, enum.Enum):
        return text_of(parameter.value)
    if isinstance(parameter, bool):
        return "true" if parameter else "false"
    if isinstance(parameter, str):
        return str(parameter)
    if isinstance(parameter, (int, float, Decimal, uuid.UUID)):
        return str(parameter)
    if isinstance(parameter, (datetime.date, datetime.time)):
        return parameter.isoformat()
    if parameter is None:
        raise TypeError("a parameter is None: parameters of products are never NULL")
    raise TypeError(f"a parameter is a {type(parameter).__name__}: give its text")


def encoded(text: str) -> str:
    """Percent-encoded as UTF-8 except A-Z a-z 0-9 - . _ ~."""
    return urllib.parse.quote(text, safe="")


def checked(text: str) -> str:
    """A key that was given as text."""
    if not _PATH.match(text):
        raise ValueError(f"'{text}' is no key: build it with key(product, *parameters)")
    return text


def goes_in_path(text: str) -> bool:
    """Whether a key survives in a path: proxies and URL parsers take `.` and `..` away, encoded or not."""
    segments = text.split("/")
    return segments[-1] != "" and not any(
        urllib.parse.unquote(segment) in (".", "..") for segment in segments
    )


def named(product_or_key: str, parameters: tuple[Parameter, ...]) -> str:
    """What `fetch(key)` and `fetch(product, *parameters)` name."""
    return key(product_or_key, *parameters) if parameters else checked(product_or_key)
