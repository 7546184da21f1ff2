"""Both clients against a kck in this process: what they send, what they read, and what faults do to them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
import unittest
from decimal import Decimal
from pathlib import Path
from typing import Any, Iterator, Optional
from unittest import mock

import kck
from kck import Answer, Fresh, Trouble, Unchanged, Value

from .fake import Asked, Connection, Fake, Handler, failure, hang, raw, refuse


def written(lsn: str) -> Handler:
    return lambda to, _: to.json(200, {"success": True, "lsn": lsn, "rows": 0})


class Blocking:
    """An AsyncClient that is used like a Client, so that each test is written once."""

    def __init__(self, *args: Any, of: Optional[kck.AsyncClient] = None, **options: Any) -> None:
        loop = options.pop("loop", None)
        self.client = of or kck.AsyncClient(*args, **options)
        self.loop = loop or asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Any:
        target = getattr(self.client, name)
        if not asyncio.iscoroutinefunction(target):
            return target
        return lambda *args, **options: self.loop.run_until_complete(target(*args, **options))

    def session(self, **options: Any) -> Blocking:
        return Blocking(of=self.client.session(**options), loop=self.loop)

    def subscribe(self, keys: Any) -> BlockingSubscription:
        return BlockingSubscription(self.loop, self.client.subscribe(keys))

    def silent_for(self, seconds: float) -> None:
        self.client._silence = seconds

    def close(self) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


class BlockingSubscription:
    def __init__(self, loop: asyncio.AbstractEventLoop, of: kck.AsyncSubscription) -> None:
        self.loop, self.of = loop, of

    def __iter__(self) -> Iterator[kck.Event]:
        return self

    def __next__(self) -> kck.Event:
        try:
            return self.loop.run_until_complete(self.of.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.of.close(), self.loop)

    def __enter__(self) -> BlockingSubscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run_until_complete(self.of.__aexit__(None, None, None))


class Plain(kck.Client):
    def silent_for(self, seconds: float) -> None:
        self._silence = seconds


class Cases:
    class Calls(unittest.TestCase):
        make: Any

        def setUp(self) -> None:
            self.kck = Fake()
            self.addCleanup(self.kck.__exit__)
            self.client = self.new()

        def new(self, **options: Any) -> Any:
            client = self.make(self.kck.address, **options)
            self.addCleanup(client.close)
            return client

        def last(self) -> Asked:
            return self.kck.asked[-1]

        # Reading.

        def test_fetch_gives_the_answer_and_how_fresh_it_is(self) -> None:
            for size, chunked in ((0, False), (0, True), (1, True), (1, False), (7, True)):
                with self.subTest(size=size, chunked=chunked):
                    self.kck.slice, self.kck.chunked = size, chunked
                    answer = self.client.fetch("items_of", 1)
                    self.assertEqual(answer.key, "items_of/1")
                    self.assertEqual(answer.value, [{"id": 1, "n": 0}, {"id": 2, "n": 0}])
                    self.assertEqual((answer.version, answer.stale), (1001, False))
                    self.assertEqual(answer.as_of.lsn, "0/16B3748")
                    self.assertEqual(answer.as_of.time.isoformat(), "2026-11-22T10:00:03.250000+00:00")
                    self.assertEqual(answer.modified.microsecond, 120000)
                    self.assertIsNone(answer.expires)
            self.assertEqual(self.kck.connections, 1, "the connection is kept")

        def test_a_key_is_encoded_once_in_the_path(self) -> None:
            self.assertEqual(self.client.fetch("echo", "a/b ø?").value, "a/b ø?")
            self.assertEqual(self.last().path, "/fetch/echo/a%2Fb%20%C3%B8%3F")
            self.assertEqual(self.client.fetch("echo/a%2Fb").value, "a/b")

        def test_what_a_path_cannot_carry_goes_by_query(self) -> None:
            for text in (".", "..", ""):
                with self.subTest(text=text):
                    self.assertEqual(self.client.fetch("echo", text).value, text)
                    self.assertEqual(self.last().path, "/fetch")
                    self.assertEqual(self.last().query, [("key", f"echo/{text}")])
            with self.assertRaises(kck.UnknownProduct) as raised:
                self.client.fetch("nothing", ".")
            self.assertEqual(raised.exception.key, "nothing/.")

        def test_demands_are_sent(self) -> None:
            self.client.fetch(
                "sum_of", 1, min_lsn="0/1", max_staleness=0.2, wait="2s", fresh=True,
            )
            self.assertEqual(
                self.last().query,
                [("min_lsn", "0/1"), ("max_staleness", "200ms"), ("wait", "2s"), ("fresh", "true")],
            )

        def test_after_a_version_is_a_newer_one_or_unchanged(self) -> None:
            answer = self.client.fetch("sum_of", 1)
            unchanged = self.client.fetch("sum_of", 1, after=answer.version)
            self.assertIsInstance(unchanged, Unchanged)
            self.assertEqual(unchanged.version, answer.version)
            self.assertEqual(unchanged.as_of, answer.as_of)
            self.client.update("set_n", id=1, n=5)
            newer = self.client.fetch("sum_of", 1, after=answer.version)
            self.assertIsInstance(newer, Answer)
            self.assertEqual(newer.value, 5)

        def test_many_answers_keep_their_order_and_their_problems(self) -> None:
            one, none, two = self.client.fetch_many(["sum_of/1", "nothing/1", "items_of/2"])
            self.assertEqual((one.value, two.key), (0, "items_of/2"))
            self.assertEqual(none.key, "nothing/1")
            self.assertIsInstance(none.error, kck.UnknownProduct)
            self.assertEqual(self.client.fetch_many([]), [])

        def test_numbers_are_read_as_asked(self) -> None:
            body = (
                b'{"success":true,"key":"p","value":19.90,"version":1,"stale":true,"ttl":60,'
                b'"modified":"2026-11-22T10:00:00.000000Z","expires":"2026-11-22T10:01:00.000000Z",'
                b'"as_of":{"lsn":"0/1","time":"2026-11-22T10:00:00.000000Z"}}'
            )
            self.kck.faults.append(lambda to, _: to.reply(200, body))
            answer = self.new(parse_float=Decimal).fetch("p")
            self.assertEqual(str(answer.value), "19.90")
            self.assertEqual((answer.ttl, answer.stale), (60, True))
            assert answer.expires is not None
            self.assertEqual(answer.expires.minute, 1)

        # Writing, and reading what was written.

        def test_a_client_reads_its_own_writes(self) -> None:
            self.client.fetch("sum_of", 1)
            self.assertIsNone(self.last().last("min_lsn"))
            written = self.client.update("set_n", id=1, n=5)
            self.assertEqual((self.last().method, self.last().path), ("PUT", "/update/set_n"))
            self.assertEqual(written.rows, 1)
            self.client.fetch("sum_of", 1)
            self.assertEqual(self.last().last("min_lsn"), written.lsn)
            self.client.fetch_many(["sum_of/1"])
            self.assertEqual(self.last().last("min_lsn"), written.lsn)
            self.client.fetch("sum_of", 1, min_lsn="0/0")
            self.assertEqual(self.last().last("min_lsn"), "0/0")
            self.client.forget_writes()
            self.client.fetch("sum_of", 1)
            self.assertIsNone(self.last().last("min_lsn"))

        def test_the_newest_write_counts(self) -> None:
            for lsn in ("0/9", "0/10", "0/A"):
                self.kck.faults.append(written(lsn))
                self.client.create("set_n", id=1)
                self.assertEqual(self.last().method, "POST")
            self.assertEqual(self.client.position, "0/10")

        def test_a_session_has_its_own_writes_and_token(self) -> None:
            session = self.client.session(token="other")
            written = session.update("set_n", id=1, n=1)
            self.assertEqual(self.last().headers["authorization"], "Bearer other")
            self.assertIsNone(self.client.position)
            self.client.fetch("sum_of", 1)
            self.assertNotIn("authorization", self.last().headers)
            later = self.client.session(position=session.position)
            later.fetch("sum_of", 1)
            self.assertEqual(self.last().last("min_lsn"), written.lsn)
            never = self.client.session(read_your_writes=False)
            never.update("set_n", id=1, n=2)
            never.fetch("sum_of", 1)
            self.assertIsNone(self.last().last("min_lsn"))
            self.assertEqual(self.kck.connections, 1)

        def test_a_write_is_never_sent_twice(self) -> None:
            self.client.fetch("sum_of", 1)
            self.kck.faults.append(raw(b""))
            with self.assertRaises(kck.ConnectionFailed) as raised:
                self.client.update("set_n", id=1, n=1)
            self.assertIn("not known", raised.exception.hint)
            self.assertEqual([asked.method for asked in self.kck.asked], ["GET", "PUT"])

        def test_a_read_is_sent_again_on_a_kept_connection_that_broke(self) -> None:
            self.client.fetch("sum_of", 1)
            self.kck.faults.append(raw(b""))
            self.assertEqual(self.client.fetch("sum_of", 1).value, 0)
            self.kck.faults.append(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"))
            self.assertEqual(self.client.fetch("sum_of", 1).value, 0)

        def test_a_connection_that_the_server_closed_is_not_written_to(self) -> None:
            self.client.fetch("sum_of", 1)
            self.kck.cut(self.kck.open)
            if isinstance(self.client, Blocking):
                self.client.loop.run_until_complete(asyncio.sleep(0.05))
            else:
                time.sleep(0.05)
            self.assertEqual(self.client.update("set_n", id=1, n=1).rows, 1)

        def test_refresh_and_purge_count_keys(self) -> None:
            refreshed = self.client.refresh("sum_of", 1)
            self.assertEqual((refreshed.keys, refreshed.failed), (3, 1))
            self.assertEqual((self.last().method, self.last().path), ("POST", "/refresh/sum_of/1"))
            self.assertEqual(self.client.purge("sum_of"), 3)
            self.assertEqual(self.last().path, "/purge/sum_of")
            self.client.purge("echo/")
            self.assertEqual(self.last().path, "/purge/echo/")
            self.client.purge("echo", "")
            self.assertEqual((self.last().path, self.last().query), ("/purge", [("key", "echo/")]))

        def test_login_gives_and_uses_the_token(self) -> None:
            self.kck.token = "t0ken"
            with self.assertRaises(kck.Unauthorized):
                self.client.fetch("sum_of", 1)
            with self.assertRaises(kck.Unauthorized):
                self.client.login("a@b/c", "wrong")
            self.assertEqual(self.client.login("a@b/c", "open sesame"), "t0ken")
            self.assertEqual(self.last().path, "/login/a%40b%2Fc")
            self.assertEqual(self.client.fetch("sum_of", 1).value, 0)

        # Errors.

        def test_each_error_has_its_class_and_facts(self) -> None:
            reached = {"lsn": "0/16", "time": "2026-11-22T10:00:03.250000Z"}
            self.kck.faults.append(refuse(504, "not_fresh_in_time", reached=reached))
            with self.assertRaises(kck.NotFreshInTime) as late:
                self.client.fetch("sum_of", 1)
            assert late.exception.reached is not None
            self.assertEqual(late.exception.reached.lsn, "0/16")
            self.kck.faults.append(refuse(429, "too_many_requests", {"Retry-After": "7"}))
            with self.assertRaises(kck.TooManyRequests) as many:
                self.client.fetch("sum_of", 1)
            self.assertEqual(many.exception.retry_after, 7.0)
            self.kck.faults.append(refuse(400, "bad_parameter"))
            with self.assertRaises(kck.BadRequest) as bad:
                self.client.fetch("sum_of", "x")
            self.assertIsInstance(bad.exception, kck.BadParameter)
            self.assertEqual(bad.exception.arguments, ("a",))
            self.assertEqual(str(bad.exception), "bad_parameter: this is bad_parameter (a hint)")
            self.kck.faults.append(refuse(418, "teapot"))
            with self.assertRaises(kck.KckError) as new:
                self.client.fetch("sum_of", 1)
            self.assertEqual((new.exception.name, new.exception.code), ("teapot", "KCK600"))

        def test_what_is_not_kcks_is_said_to_be_so(self) -> None:
            html = b"<html>"
            for reply in (
                lambda to, _: to.reply(200, html),
                lambda to, _: to.reply(502, html),
                lambda to, _: to.reply(302, b"", {"Location": "http://elsewhere/"}),
                lambda to, _: to.json(200, [1]),
                lambda to, _: to.json(200, {"success": True, "key": "k"}),
                lambda to, _: to.json(200, {"success": False, "error": {"reached": 1}, "reached": {}}),
            ):
                self.kck.faults.append(reply)
                with self.assertRaises(kck.UnexpectedReply):
                    self.client.fetch("sum_of", 1)
            self.kck.faults.append(lambda to, _: to.reply(403, html))
            with self.assertRaises(kck.Forbidden):
                self.client.fetch("sum_of", 1)

        def test_broken_http_is_an_error_of_the_client(self) -> None:
            for reply in (
                b"",
                b"nonsense\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n{",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
                b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
            ):
                with self.subTest(reply=reply[:40]):
                    self.kck.faults.append(raw(reply))
                    with self.assertRaises((kck.ConnectionFailed, kck.UnexpectedReply)):
                        self.new().fetch("sum_of", 1)

        def test_a_slow_reply_times_out(self) -> None:
            client = self.new(timeout=0.2)
            self.kck.faults.append(hang(1.0))
            began = time.monotonic()
            with self.assertRaises(kck.TimedOut):
                client.fetch("sum_of", 1, wait=0)
            self.assertLess(time.monotonic() - began, 0.9)

            def trickle(to: Connection, _: Asked) -> None:
                to.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _turn in range(20):
                    to.sock.sendall(b" ")
                    time.sleep(0.05)

            self.kck.faults.append(trickle)
            with self.assertRaises(kck.TimedOut):
                client.fetch("sum_of", 1, wait=0)

        def test_a_large_reply_is_refused(self) -> None:
            client = self.new(answer_limit=1000)
            for chunked in (False, True):
                self.kck.chunked = chunked
                with self.assertRaises(kck.TooLarge):
                    client.fetch("echo", "x" * 2000)
            self.assertEqual(client.fetch("sum_of", 1).value, 0)

        def test_no_server_is_an_error_of_the_client(self) -> None:
            self.kck.__exit__()
            with self.assertRaises(kck.ConnectionFailed):
                self.client.fetch("sum_of", 1)

        def test_environment_says_where_and_as_whom(self) -> None:
            self.kck.token = "secret"
            with mock.patch.dict(os.environ, KCK_SERVER=self.kck.address + "/", KCK_TOKEN="secret"):
                client = self.make()
            self.addCleanup(client.close)
            self.assertEqual(client.fetch("sum_of", 1).value, 0)
            for server in ("localhost:8080", "ftp://x", "http://u:p@x", "http://x/?a"):
                with self.assertRaises(ValueError):
                    self.make(server)
            with self.assertRaises(ValueError):
                self.new(token="a\r\nX: b").fetch("sum_of", 1)

        # Watching.

        def until(self, events: Any, wanted: Any) -> Any:
            for event in events:
                if wanted(event):
                    return event
            self.fail("the events ended")

        def test_values_arrive_and_then_changes(self) -> None:
            for size in (0, 1):
                self.kck.slice = size
                with self.subTest(size=size), self.client.subscribe(["sum_of/1", "sum_of/02"]) as events:
                    first = self.until(events, lambda event: isinstance(event, Value))
                    self.assertEqual(first.key, "sum_of/1")
                    self.until(events, lambda event: isinstance(event, Value) and event.key == "sum_of/2")
                    fresh = self.until(events, lambda event: isinstance(event, Fresh))
                    self.assertEqual(fresh.keys, ("sum_of/1", "sum_of/2"))
                    before = first.value
                    self.kck.items[1][1] += 7
                    event = self.until(events, lambda event: isinstance(event, Value))
                    self.assertEqual((event.key, event.value), ("sum_of/1", before + 7))
            self.assertEqual(self.kck.asked[0].query, [("key", "sum_of/1"), ("key", "sum_of/02")])

        def test_a_key_is_encoded_once_more_in_the_query(self) -> None:
            with self.client.subscribe(kck.key("echo", "a/b")) as events:
                self.assertEqual(next(events).value, "a/b")
            self.assertEqual(self.last().query, [("key", "echo/a%2Fb")])

        def test_a_cut_stream_goes_on_where_it_was(self) -> None:
            with self.client.subscribe(["sum_of/1"]) as events:
                self.until(events, lambda event: isinstance(event, Fresh))
                self.kck.cut()
                trouble = self.until(events, lambda event: isinstance(event, Trouble))
                self.assertIsNone(trouble.key)
                self.assertLess(trouble.again_in, 0.21)
                self.kck.items[1][1] = 9
                event = self.until(events, lambda event: isinstance(event, Value))
                self.assertEqual(event.value, 9)
            self.assertEqual(self.last().headers["last-event-id"], '{"sum_of/1": 1001}')

        def test_half_an_event_is_no_event(self) -> None:
            self.kck.faults.append(
                raw(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
                    b'event: value\nid: half\ndata: {"success":true,'
                )
            )
            with self.client.subscribe(["sum_of/1"]) as events:
                self.assertIsInstance(next(events), Trouble)
                self.assertIsInstance(next(events), Value)
            self.assertNotIn("last-event-id", self.last().headers)

        def test_a_silent_peer_is_left(self) -> None:
            self.kck.quiet = True
            self.client.silent_for(0.2)
            with self.client.subscribe(["sum_of/1"]) as events:
                self.assertIsInstance(next(events), Value)
                trouble = next(events)
                self.assertIsInstance(trouble.error, kck.TimedOut)
                self.kck.quiet = False
                self.assertIsInstance(next(events), Fresh)

        def test_a_busy_server_is_asked_again_when_it_says(self) -> None:
            self.kck.faults += [
                refuse(429, "too_many_requests", {"Retry-After": "1"}),
                refuse(503, "draining"),
                lambda to, _: to.reply(502, b"<html>"),
            ]
            with self.client.subscribe(["sum_of/1"]) as events:
                many, draining, gateway, value = (next(events) for _ in range(4))
                self.assertGreaterEqual(many.again_in, 1.0)
                self.assertIsInstance(draining.error, kck.Draining)
                self.assertIsInstance(gateway.error, kck.UnexpectedReply)
                self.assertIsInstance(value, Value)

        def test_what_will_not_get_better_is_raised(self) -> None:
            for status, name, error in (
                (401, "unauthorized", kck.Unauthorized),
                (403, "forbidden", kck.Forbidden),
                (404, "unknown_product", kck.UnknownProduct),
                (400, "bad_parameter", kck.BadParameter),
            ):
                self.kck.faults.append(refuse(status, name))
                with self.assertRaises(error):
                    next(self.client.subscribe(["sum_of/1"]))

        def test_the_end_of_a_token_ends_the_stream_unless_there_is_another(self) -> None:
            def ended(to: Connection, _: Asked) -> None:
                to.begin_stream()
                to.event("error", failure("unauthorized"))
                raise OSError("closed")

            self.kck.faults.append(ended)
            with self.assertRaises(kck.Unauthorized):
                next(self.client.subscribe(["sum_of/1"]))
            tokens = ["first", "second"]
            client = self.new(token=lambda: tokens.pop(0))
            self.kck.faults.append(ended)
            with client.subscribe(["sum_of/1"]) as events:
                self.assertIsInstance(next(events), Trouble)
                self.assertIsInstance(next(events), Value)
            self.assertEqual(self.last().headers["authorization"], "Bearer second")

        def test_trouble_of_one_key_does_not_end_the_stream(self) -> None:
            def one(to: Connection, _: Asked) -> None:
                to.begin_stream()
                to.event("error", failure("product_broken", key="sum_of/1"))
                to.event("value", self.kck.result("sum_of/2"))
                time.sleep(1)

            self.kck.faults.append(one)
            with self.client.subscribe(["sum_of/1", "sum_of/2"]) as events:
                trouble = next(events)
                self.assertEqual((trouble.key, trouble.again_in), ("sum_of/1", None))
                self.assertIsInstance(trouble.error, kck.ProductBroken)
                self.assertEqual(next(events).key, "sum_of/2")

        def test_close_ends_the_iteration_from_elsewhere(self) -> None:
            self.kck.quiet = True
            for when in ("reading", "waiting to open again"):
                with self.subTest(when=when):
                    if when != "reading":
                        self.kck.faults.append(refuse(429, "too_many_requests", {"Retry-After": "60"}))
                    events = self.client.subscribe(["sum_of/1"])
                    next(events)
                    threading.Timer(0.1, events.close).start()
                    began = time.monotonic()
                    self.assertEqual(list(events), [])
                    self.assertLess(time.monotonic() - began, 2)

        def test_the_live_script_passes(self) -> None:
            if isinstance(self.client, Blocking):
                self.skipTest("the script uses both clients")
            environment = {**os.environ, "KCK_SERVER": self.kck.address}
            script = Path(__file__).parent / "live.py"
            done = subprocess.run(
                [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=60,
            )
            self.assertEqual((done.returncode, done.stdout), (0, "ok\n"), done.stderr)


class Waiting(Cases.Calls):
    make = Plain

    def test_threads_share_a_client(self) -> None:
        wrong = []

        def read(number: int) -> None:
            for turn in range(30):
                text = f"{number}-{turn}"
                if self.client.fetch("echo", text).value != text:
                    wrong.append(text)

        threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertLessEqual(self.kck.connections, 8)


class Asyncio(Cases.Calls):
    make = Blocking

    def test_tasks_share_a_client(self) -> None:
        async def all_of_them() -> list[Any]:
            texts = [str(number) for number in range(50)]
            answers = await asyncio.gather(*(self.client.client.fetch("echo", text) for text in texts))
            return [answer.value == text for answer, text in zip(answers, texts)]

        self.assertTrue(all(self.client.loop.run_until_complete(all_of_them())))

    def test_a_cancelled_read_leaves_the_client_usable(self) -> None:
        async def cancelled() -> Any:
            self.kck.faults.append(hang(0.5))
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(self.client.client.fetch("sum_of", 1), 0.1)
            return (await self.client.client.fetch("sum_of", 1)).value

        self.assertEqual(self.client.loop.run_until_complete(cancelled()), 0)
