"""The stream's bytes are read the same however they are cut."""

import unittest

from kck import KckError, Trouble, Unauthorized, UnexpectedReply, Value
from kck.calls import order_of, seconds_of, span
from kck.errors import TooLarge, TooManyRequests
from kck.events import Follower, Message, Parser

STREAM = (
    "\ufeff: hello\n\n"
    "event: value\r\ndata: {\"a\":\r\ndata: \"ø\"}\r\nid: 7\r\n\r\n"
    "data:bare\rid: \r\r"
    "event: fresh\nid: 9\n\n"
    "unknown: x\ndata\n\n"
    "event: value\ndata: never ended"
).encode()
MESSAGES = [
    Message("value", '{"a":\n"ø"}', "7"),
    Message("message", "bare", ""),
    Message("message", "", "9"),
]


def value(key: str, version: int, id: str = "") -> Message:
    data = (
        f'{{"success":true,"key":"{key}","value":1,"version":{version},'
        '"modified":"2026-11-22T10:00:00.000000Z","stale":false,"expires":null,'
        '"as_of":{"lsn":"0/1","time":"2026-11-22T10:00:00.000000Z"}}'
    )
    return Message("value", data, id)


def follower(token_may_change: bool = False, chance: float = 1.0) -> Follower:
    import json

    return Follower(json.loads, token_may_change, lambda: chance)


class Parsing(unittest.TestCase):
    def test_any_cut_reads_the_same(self) -> None:
        for size in range(1, len(STREAM) + 1):
            parser = Parser("", 1000)
            got = []
            for at in range(0, len(STREAM), size):
                got += parser.feed(STREAM[at : at + size])
            self.assertEqual(got, MESSAGES, f"in pieces of {size}")

    def test_an_endless_event_is_refused(self) -> None:
        parser = Parser("", 100)
        with self.assertRaises(TooLarge):
            for _ in range(20):
                parser.feed(b"data: 0123456789\n")

    def test_comments_never_fill_an_event(self) -> None:
        parser = Parser("", 100)
        for _ in range(100):
            self.assertEqual(parser.feed(b": still here\n"), [])


class Following(unittest.TestCase):
    def test_an_older_version_is_left_out(self) -> None:
        follows = follower()
        self.assertIsInstance(follows.take(value("p/1", 5)), Value)
        self.assertIsNone(follows.take(value("p/1", 4)))
        self.assertIsInstance(follows.take(value("p/2", 4)), Value)
        self.assertIsInstance(follows.take(value("p/1", 5)), Value)

    def test_the_last_id_is_that_of_what_was_taken(self) -> None:
        follows = follower()
        follows.take(value("p/1", 5, "a"))
        with self.assertRaises(UnexpectedReply):
            follows.take(Message("value", '{"key":1}', "b"))
        with self.assertRaises(UnexpectedReply):
            follows.take(Message("value", "{", "b"))
        self.assertEqual(follows.last_id, "a")

    def test_an_unknown_event_is_let_be(self) -> None:
        self.assertIsNone(follower().take(Message("novelty", "{", "")))

    def test_an_error_of_a_key_is_told_and_one_of_the_stream_raised(self) -> None:
        follows = follower()
        broken = '{"success":false,"key":"p/1","error":{"name":"product_broken","message":"m"}}'
        event = follows.take(Message("error", broken, ""))
        self.assertIsInstance(event, Trouble)
        ended = '{"success":false,"error":{"name":"unauthorized","message":"m"}}'
        with self.assertRaises(Unauthorized) as raised:
            follows.take(Message("error", ended, ""))
        self.assertTrue(follows.is_final(raised.exception))
        self.assertFalse(follower(token_may_change=True).is_final(raised.exception))

    def test_delays_grow_to_a_limit_are_spread_and_begin_again(self) -> None:
        follows, lucky = follower(), follower(chance=0.0)
        error = KckError("x")
        delays = [follows.delay(error) for _ in range(12)]
        self.assertEqual(delays[:4], [0.2, 0.4, 0.8, 1.6])
        self.assertEqual(delays[-1], 30.0)
        self.assertEqual(lucky.delay(error), 0.1)
        follows.take(value("p/1", 5))
        self.assertEqual(follows.delay(error), 0.2)

    def test_retry_after_comes_on_top(self) -> None:
        self.assertEqual(follower().delay(TooManyRequests("x", status=429, retry_after=3.0)), 3.2)


class Words(unittest.TestCase):
    def test_positions_compare_as_numbers(self) -> None:
        ordered = ["0/9", "0/10", "0/FFFFFFFF", "1/0", "A/0", "1:0/0", "2:0/0", "10:0/0"]
        self.assertEqual(sorted(reversed(ordered), key=order_of), ordered)
        for text in ("", "0", "0/G", "0/123456789", "x:0/1"):
            with self.subTest(text=text), self.assertRaises(ValueError):
                order_of(text)

    def test_spans_are_whole_units(self) -> None:
        import datetime

        self.assertEqual(span(1.5), "1500ms")
        self.assertEqual(span(datetime.timedelta(minutes=2)), "120000ms")
        self.assertEqual(span("2m"), "2m")
        self.assertEqual(seconds_of("200ms"), 0.2)
        for bad in ("5", "1.5s", "-1s", -1.0, float("nan")):
            with self.subTest(bad=bad), self.assertRaises(ValueError):
                span(bad)
