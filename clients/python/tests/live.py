"""Both clients against a real kck: prints `ok` and exits 0, or says what is wrong and exits 1.

    KCK_SERVER=http://127.0.0.1:8080 [KCK_TOKEN=…] python3 clients/python/tests/live.py

The server has the products `sum_of/:owner` (a value, the sum of `n`) and `items_of/:owner` (rows with `id` and `n`),
and the update `set_n` with the parameters `id` and `n`. KCK_LIVE_OWNER names an owner that has items, else 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import socket
import sys
import threading
import urllib.parse
from typing import Any, Callable, Iterable, TypeVar

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "src"))

import kck  # noqa: E402

OWNER = os.environ.get("KCK_LIVE_OWNER", "1")
DEADLINE_SECONDS = 60.0

Event = TypeVar("Event")


class Cutter:
    """A way to the server that can be cut: bytes pass in both directions until then."""

    def __init__(self, server: str) -> None:
        to = urllib.parse.urlsplit(server)
        assert to.scheme == "http" and to.hostname, "the connection is cut below TLS: give an http:// server"
        self._to = (to.hostname, to.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.sent = b""
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}{to.path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._to)
            self._open += [client, server]
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, a: socket.socket, b: socket.socket, keep: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := a.recv(65536):
                if keep:
                    self.sent += piece
                b.sendall(piece)
        for end in (a, b):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        ends, self._open = self._open, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def check(got: object, want: object, what: str) -> None:
    if got != want:
        raise SystemExit(f"{what}: wanted {want!r}, got {got!r}")


def until(events: Iterable[Event], wanted: Callable[[Event], bool], what: str) -> Event:
    for event in events:
        if wanted(event):
            return event
    raise SystemExit(f"{what}: the events ended")


def sum_is(want: Any) -> Callable[[kck.Event], bool]:
    return lambda event: (
        isinstance(event, kck.Value) and event.key.startswith("sum_of/") and event.value == want
    )


def items(answer: kck.Answer) -> list[dict[str, Any]]:
    rows = answer.value
    if not rows or not {"id", "n"} <= set(rows[0]):
        raise SystemExit(f"items_of/{OWNER} has no rows with id and n: {rows!r}")
    return list(rows)


def waiting() -> None:
    with kck.Client() as client:
        rows = items(client.fetch("items_of", OWNER))
        total = sum(row["n"] for row in rows)
        answer = client.fetch("sum_of", OWNER)
        check(answer.value, total, "fetch")

        both = client.fetch_many([kck.key("sum_of", OWNER), "no_such_product/1", kck.key("items_of", OWNER)])
        check(
            [type(result) for result in both], [kck.Answer, kck.Problem, kck.Answer], "fetch_many",
        )

        one = rows[0]["id"]
        n = rows[0]["n"] + 1
        total += 1
        check(client.update("set_n", id=one, n=n).rows, 1, "update")
        check(client.fetch("sum_of", OWNER).value, total, "reading the own write")
        unchanged = client.fetch("sum_of", OWNER, after=client.fetch("sum_of", OWNER).version, wait=0.1)
        check(type(unchanged), kck.Unchanged, "fetch with after")

        way = Cutter(os.environ["KCK_SERVER"])
        with kck.Client(way.address) as watcher:
            with watcher.subscribe([kck.key("sum_of", OWNER), kck.key("items_of", OWNER)]) as events:
                until(events, sum_is(total), "the first value")
                n, total = n + 1, total + 1
                client.update("set_n", id=one, n=n)
                until(events, sum_is(total), "the value after an update")
                until(events, lambda event: isinstance(event, kck.Fresh), "a certificate")
                way.cut()
                n, total = n + 1, total + 1
                client.update("set_n", id=one, n=n)
                trouble = until(events, lambda event: isinstance(event, kck.Trouble), "the cut")
                assert isinstance(trouble, kck.Trouble) and trouble.key is None, trouble
                until(events, sum_is(total), "the value after the cut")
        check(b"last-event-id: " in way.sent.lower(), True, "resuming by Last-Event-ID")

        try:
            client.fetch("no_such_product", 1)
        except kck.UnknownProduct as error:
            check(error.name, "unknown_product", "the error's name")
        else:
            raise SystemExit("an unknown product was answered")


async def tasks() -> None:
    async with kck.AsyncClient() as client:
        rows = items(await client.fetch("items_of", OWNER))
        total = sum(row["n"] for row in rows)
        answers = await asyncio.gather(*(client.fetch("sum_of", OWNER) for _ in range(10)))
        check([answer.value for answer in answers], [total] * 10, "ten reads at once")

        one, n = rows[0]["id"], rows[0]["n"] + 1
        total += 1
        await client.update("set_n", id=one, n=n)
        check((await client.fetch("sum_of", OWNER)).value, total, "reading the own write")

        way = Cutter(os.environ["KCK_SERVER"])
        async with kck.AsyncClient(way.address) as watcher:
            async with watcher.subscribe(kck.key("sum_of", OWNER)) as events:
                cut = False
                async for event in events:
                    if sum_is(total)(event):
                        if cut:
                            break
                        n, total, cut = n + 1, total + 1, True
                        way.cut()
                        await client.update("set_n", id=one, n=n)

        try:
            await client.fetch("no_such_product", 1)
        except kck.UnknownProduct:
            pass
        else:
            raise SystemExit("an unknown product was answered")


def late() -> None:
    print(f"not done within {DEADLINE_SECONDS:.0f} s", file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    if not os.environ.get("KCK_SERVER"):
        print("KCK_SERVER names no server", file=sys.stderr)
        sys.exit(2)
    timer = threading.Timer(DEADLINE_SECONDS, late)
    timer.daemon = True
    timer.start()
    waiting()
    asyncio.run(tasks())
    print("ok")
