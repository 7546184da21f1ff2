"""Keys are encoded as kck reads them, and sent where they survive."""

import datetime
import enum
import unittest
import uuid
from decimal import Decimal
from typing import Any

from kck import key
from kck.keys import checked, goes_in_path


class Colour(str, enum.Enum):
    RED = "red"


class Keys(unittest.TestCase):
    def test_each_kind_of_parameter_is_its_text(self) -> None:
        utc = datetime.timezone.utc
        cases: list[tuple[Any, str]] = [
            (42, "42"),
            (-1, "-1"),
            ("a/b", "a%2Fb"),
            ("", ""),
            ("Ærø 100%", "%C3%86r%C3%B8%20100%25"),
            ("a+b~c.d_e-f", "a%2Bb~c.d_e-f"),
            (True, "true"),
            (False, "false"),
            (Decimal("19.90"), "19.90"),
            (1.5, "1.5"),
            (Colour.RED, "red"),
            (datetime.date(2026, 11, 22), "2026-11-22"),
            (datetime.datetime(2026, 11, 22, 10, tzinfo=utc), "2026-11-22T10%3A00%3A00%2B00%3A00"),
            (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ]
        for parameter, segment in cases:
            with self.subTest(parameter=parameter):
                self.assertEqual(key("p", parameter), f"p/{segment}")

    def test_segments_keep_their_order(self) -> None:
        self.assertEqual(key("orders_of", 42, "a/b"), "orders_of/42/a%2Fb")
        self.assertEqual(key("all_orders"), "all_orders")

    def test_what_is_no_parameter_is_refused(self) -> None:
        for parameter in (None, b"bytes", [1], datetime.timedelta(1)):
            with self.subTest(parameter=parameter), self.assertRaises(TypeError):
                key("p", parameter)  # type: ignore[arg-type]
        with self.assertRaises(ValueError):
            key("p", "\ud800")

    def test_what_is_no_product_is_refused(self) -> None:
        for name in ("", "Orders", "a/b", "9a", "a b", "a\n"):
            with self.subTest(name=name), self.assertRaises(ValueError):
                key(name)

    def test_what_is_no_key_is_refused(self) -> None:
        for text in ("", "p/a b", "p/é", "p?x=1", "p#1", "p/1\r\nX: y"):
            with self.subTest(text=text), self.assertRaises(ValueError):
                checked(text)

    def test_dots_and_an_empty_end_do_not_go_in_a_path(self) -> None:
        for text in ("p/.", "p/..", "p/%2E", "p/%2e%2E/1", "p/", "p/../1"):
            with self.subTest(text=text):
                self.assertFalse(goes_in_path(text))
        for text in ("p", "p/1", "p//1", "p/...", "p/.a"):
            with self.subTest(text=text):
                self.assertTrue(goes_in_path(text))
