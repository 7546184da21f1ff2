"""How a city's sales move, by SQLAlchemy and some arithmetic that SQL has no words for."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Dict, List

import sqlalchemy as sa
from kck_worker import Failure, client, product

# psycopg 3; one pool for all threads of the worker.
engine = sa.create_engine(os.environ["DATABASE_URL"], pool_pre_ping=True)
sales = sa.table("sales", sa.column("city"), sa.column("day"), sa.column("amount"))


@product
def trend(city: str) -> Dict[str, object]:
    """Sales by day, smoothed over three days, and where they will be tomorrow."""
    question = (
        sa.select(sales.c.day, sa.func.sum(sales.c.amount))
        .where(sales.c.city == city)
        .group_by(sales.c.day)
        .order_by(sales.c.day)
    )
    # A transaction of its own: it sees whatever is committed now.
    with engine.connect() as connection:
        rows = connection.execute(question).all()
    if not rows:
        raise Failure("nothing was ever sold there")
    amounts = [amount for _, amount in rows]
    return {
        "days": [day for day, _ in rows],
        "smooth": smoothed(amounts),
        "tomorrow": amounts[-1] + slope(amounts),
    }


@product
def ranking(country: str) -> List[Dict[str, object]]:
    """Cities of a country by where their sales go: a product over products."""
    kck = client()
    cities = kck.fetch("cities_of", country).value
    tomorrow = {city: kck.fetch("trend", city).value["tomorrow"] for city in cities}
    order = sorted(tomorrow, key=lambda city: (-tomorrow[city], city))
    return [{"city": city, "tomorrow": tomorrow[city]} for city in order]


def smoothed(amounts: List[Decimal]) -> List[Decimal]:
    """The mean of each and its two neighbours."""
    windows = (amounts[max(0, at - 1) : at + 2] for at in range(len(amounts)))
    return [round(sum(window, Decimal()) / len(window), 2) for window in windows]


def slope(amounts: List[Decimal]) -> Decimal:
    """Of the line that is nearest to all of them, a day."""
    middle = Decimal(len(amounts) - 1) / 2
    mean = sum(amounts, Decimal()) / len(amounts)
    spread = sum(((at - middle) ** 2 for at in range(len(amounts))), Decimal())
    if not spread:
        return Decimal(0)
    moved = sum(((at - middle) * (amount - mean) for at, amount in enumerate(amounts)), Decimal())
    return round(moved / spread, 2)
