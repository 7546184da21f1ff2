"""Answers made of Django's models, and a process that writes by them."""

from typing import Any, Dict

from django.db.models import Count, Sum
from kck_worker import process, product

from .models import Customer, Order


@product
def customer_page(customer_id: int) -> Dict[str, Any]:
    """What a page about a customer shows."""
    customer = Customer.objects.filter(pk=customer_id).first()
    if customer is None:
        return {}
    orders = customer.orders.filter(open=True)
    return {
        "name": customer.name,
        "open": orders.order_by("-total", "id").values("id", "total"),
        **orders.aggregate(sum=Sum("total"), count=Count("id")),
    }


@process
def close_small_orders() -> int:
    """Orders under one are not worth a bill."""
    return Order.objects.filter(open=True, total__lt=1).update(open=False)
