"""Functions that the tests of kck_worker ask for."""

from __future__ import annotations

import asyncio
import datetime
import threading
import uuid
from decimal import Decimal
from typing import Any, Dict, List

from kck_worker import Failure, Raw, current, process, product

_both = threading.Barrier(2)
DONE: List[str] = []


@product
def typed(n: int, share: Decimal, when: datetime.datetime, on: bool, own: uuid.UUID) -> Dict[str, Any]:
    return {"when": when, "share": share + 1, "n": n + 1, "on": on, "own": own, "minute": when.minute}


@product(name="renamed", params={"words": lambda text: text.split(",")})
def other(words: List[str], **others: str) -> Dict[str, Any]:
    return {"words": words, "others": others}


@product
def together(n: int) -> int:
    """Answered only where two threads are in it."""
    _both.wait(timeout=20)
    return n


@product
async def waits(n: int) -> Dict[str, Any]:
    await asyncio.sleep(0)
    return {"n": n, "as_of": current().as_of, "name": current().name}


@product
def prints() -> str:
    print("this is not an answer")
    return "fine"


@product
def refuses(city: str) -> None:
    raise Failure(f"no history of {city}")


@product
def breaks() -> None:
    raise KeyError("gone")


@product
def raw() -> Raw:
    return Raw('{"b": 1.50,\n "a": "ü"}')


@product
def odd() -> float:
    return float("nan")


@product
def generated() -> Any:
    return (n * n for n in range(4))


@process
def nightly() -> str:
    DONE.append("nightly")
    return f"{len(DONE)}"
