"""What a function returns -> JSON, the same bytes for the same value."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import re
import secrets
import uuid
from collections.abc import Mapping, Set
from decimal import Decimal
from typing import Any

# Stands before the digits of a Decimal until they are written as they are; no text of anybody begins so.
_EXACT = secrets.token_hex(12)
_QUOTED = re.compile(f'"{_EXACT}([^"]*)"')


class Raw(str):
    """JSON that is ready: it is sent as it is."""


def encoded(value: Any) -> str:
    """One line of JSON. Members are sorted, Decimals keep every digit, dates and times are in ISO form."""
    if isinstance(value, Raw):
        # Read and written, so that it is one line and valid.
        value = json.loads(value, parse_float=Decimal)
    text = json.dumps(
        value,
        default=_other,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return _QUOTED.sub(r"\1", text) if _EXACT in text else text


def _other(value: Any) -> Any:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"{value} is no number of JSON")
        return _EXACT + str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return sorted(value, key=repr)
    # Numbers and arrays of numpy and pandas; rows of SQLAlchemy; query sets and generators.
    for method in ("tolist", "_asdict"):
        if hasattr(value, method):
            return getattr(value, method)()
    if hasattr(value, "__iter__"):
        return list(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON: return plain values, or Raw(text)")
