"""A small kck in this process: the HTTP contract over items in memory, and faults on demand."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

Handler = Callable[["Connection", "Asked"], None]


@dataclass
class Asked:
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes

    def last(self, name: str) -> Optional[str]:
        return next((value for given, value in self.query if given == name), None)


class Connection:
    """The server's side of a connection."""

    def __init__(self, kck: Fake, sock: socket.socket) -> None:
        self.kck = kck
        self.sock = sock
        self.file = sock.makefile("rb")

    def read(self) -> Optional[Asked]:
        first = self.file.readline()
        if not first:
            return None
        method, target, _ = first.decode().split(" ")
        headers = {}
        while (line := self.file.readline().strip()):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = self.file.read(int(headers.get("content-length", "0")))
        path, _, query = target.partition("?")
        return Asked(method, path, urllib.parse.parse_qsl(query, keep_blank_values=True), headers, body)

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), self.kck.slice or len(data) or 1):
            self.sock.sendall(data[at : at + (self.kck.slice or len(data))])

    def reply(
        self, status: int, body: bytes, headers: Optional[dict[str, str]] = None, chunked: bool = False
    ) -> None:
        lines = [f"HTTP/1.1 {status} Fine"]
        given = {"Content-Type": "application/json", **(headers or {})}
        if chunked:
            given["Transfer-Encoding"] = "chunked"
        elif status != 304:
            given["Content-Length"] = str(len(body))
        lines += [f"{name}: {value}" for name, value in given.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if not chunked:
            self.send(head + body)
            return
        self.send(head)
        half = len(body) // 2
        for part in (body[:half], body[half:]):
            if part:
                self.chunk(part)
        self.send(b"0\r\nX-Trailer: yes\r\n\r\n")

    def json(self, status: int, value: Any, headers: Optional[dict[str, str]] = None) -> None:
        self.reply(status, json.dumps(value).encode(), headers, chunked=self.kck.chunked)

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def error(
        self, status: int, name: str, headers: Optional[dict[str, str]] = None, **more: Any
    ) -> None:
        self.json(status, failure(name, **more), headers)

    def begin_stream(self) -> None:
        self.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )

    def event(self, event: str, data: Any, id: Optional[str] = None) -> None:
        text = f"event: {event}\ndata: {json.dumps(data)}\n"
        self.chunk((text + (f"id: {id}\n" if id else "") + "\n").encode())


def failure(name: str, key: Optional[str] = None, **more: Any) -> dict[str, Any]:
    error = {"name": name, "code": "KCK600", "message": f"this is {name}", "hint": "a hint", "args": ["a"]}
    of_key = {} if key is None else {"key": key}
    return {"success": False, **of_key, "error": error, **more}


@dataclass
class Fake:
    token: Optional[str] = None
    slice: int = 0
    chunked: bool = False
    fresh_seconds: float = 0.05
    quiet: bool = False
    asked: list[Asked] = field(default_factory=list)
    faults: list[Handler] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self.items = {id: [1 if id <= 2 else 2, 0] for id in range(1, 5)}
        self.lsn = 0x16B3748
        self.versions: dict[str, tuple[Any, int]] = {}
        self.changed = threading.Condition()
        self.streams: set[socket.socket] = set()
        self.open: set[socket.socket] = set()
        self.stopping = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        if self.stopping:
            return
        self.stopping = True
        # Wakes accept, which closing alone does not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut(self.open)
        with self.changed:
            self.changed.notify_all()

    def cut(self, sockets: Optional[set[socket.socket]] = None) -> None:
        """Breaks these connections, else all streams."""
        for sock in list(self.streams if sockets is None else sockets):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self) -> None:
        while not self.stopping:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(self, sock)
        try:
            while (asked := connection.read()) is not None:
                self.asked.append(asked)
                handler = self.faults.pop(0) if self.faults else self._answer
                handler(connection, asked)
        except OSError:
            pass
        finally:
            self.open.discard(sock)
            self.streams.discard(sock)
            connection.file.close()
            sock.close()

    def _answer(self, to: Connection, asked: Asked) -> None:
        if self.token and asked.headers.get("authorization") != f"Bearer {self.token}":
            if not asked.path.startswith("/login/"):
                return to.error(401, "unauthorized")
        route, _, rest = asked.path[1:].partition("/")
        if route == "fetch" and asked.method == "POST":
            keys = json.loads(asked.body)["keys"]
            return to.json(200, {"success": True, "results": [self.result(key) for key in keys]})
        if route == "fetch" and not rest:
            keys = [value for name, value in asked.query if name == "key"]
            return to.json(200, {"success": True, "results": [self.result(key) for key in keys]})
        if route == "fetch":
            return self._fetch(to, asked, rest)
        if route == "subscribe":
            return self._subscribe(to, asked)
        if route in ("update", "create"):
            return self._update(to, asked, rest)
        if route in ("refresh", "purge"):
            return to.json(200, {"success": True, "keys": 3, **({"failed": 1} if route == "refresh" else {})})
        if route == "login":
            form = urllib.parse.parse_qs(asked.body.decode())
            if form.get("password") != ["open sesame"]:
                return to.error(401, "unauthorized")
            return to.json(200, {"success": True, "auth_token": self.token})
        to.error(404, "not_found")

    def result(self, key: str) -> dict[str, Any]:
        product, _, owner = key.partition("/")
        if product == "sum_of":
            value: Any = sum(n for of, n in self.items.values() if str(of) == str(int(owner or 0)))
            key = f"sum_of/{int(owner or 0)}"
        elif product == "items_of":
            value = [{"id": id, "n": n} for id, (of, n) in self.items.items() if str(of) == owner]
        elif product == "echo":
            value = urllib.parse.unquote(owner)
        else:
            return failure("unknown_product", key=key)
        old, version = self.versions.get(key, (None, 1000))
        if old != value or key not in self.versions:
            version += 1
            self.versions[key] = (value, version)
        return {
            "success": True, "key": key, "value": value, "version": version,
            "modified": "2026-11-22T10:00:00.120000Z", "as_of": self.as_of(), "stale": False,
            "expires": None,
        }

    def as_of(self) -> dict[str, str]:
        return {"lsn": f"0/{self.lsn:X}", "time": "2026-11-22T10:00:03.250000Z"}

    def _fetch(self, to: Connection, asked: Asked, key: str) -> None:
        result = self.result(key)
        if not result["success"]:
            return to.json(404, result)
        after = asked.last("after")
        if after is not None and int(after) >= result["version"]:
            headers = {
                "ETag": f'W/"{result["version"]}"', "Kck-As-Of": result["as_of"]["time"],
                "Kck-As-Of-Lsn": result["as_of"]["lsn"], "Kck-Stale": "false",
            }
            return to.reply(304, b"", headers)
        to.json(200, result)

    def _update(self, to: Connection, asked: Asked, name: str) -> None:
        if name != "set_n":
            return to.error(404, "unknown_update")
        fields = json.loads(asked.body)
        with self.changed:
            self.items[int(fields["id"])][1] = int(fields["n"])
            self.lsn += 0x38
            lsn = self.lsn
            self.changed.notify_all()
        to.json(200, {"success": True, "lsn": f"0/{lsn:X}", "rows": 1})

    def _subscribe(self, to: Connection, asked: Asked) -> None:
        keys = [value for name, value in asked.query if name == "key"]
        results = [self.result(key) for key in keys]
        if not all(result["success"] for result in results):
            return to.error(404, "unknown_product")
        to.begin_stream()
        self.streams.add(to.sock)
        seen = asked.headers.get("last-event-id", "")
        sent: dict[str, int] = json.loads(seen) if seen else {}
        while not self.stopping:
            with self.changed:
                new = []
                for key in keys:
                    result = self.result(key)
                    if sent.get(result["key"]) != result["version"]:
                        sent[result["key"]] = result["version"]
                        new.append(result)
            for result in new:
                to.event("value", result, json.dumps(sent) if result is new[-1] else None)
            if not self.quiet:
                named = [self.result(key)["key"] for key in keys]
                to.event("fresh", {"keys": named, "as_of": self.as_of()}, json.dumps(sent))
                to.chunk(b": still here\n\n")
            with self.changed:
                self.changed.wait(self.fresh_seconds)


def hang(seconds: float) -> Handler:
    """Says nothing for a while, then breaks."""

    def handler(connection: Connection, _: Asked) -> None:
        time.sleep(seconds)
        raise OSError("hung")

    return handler


def refuse(status: int, name: str, headers: Optional[dict[str, str]] = None, **more: Any) -> Handler:
    return lambda connection, _: connection.error(status, name, headers, **more)


def raw(*parts: bytes, then_close: bool = True) -> Handler:
    """These bytes as they are."""

    def handler(connection: Connection, _: Asked) -> None:
        for part in parts:
            connection.sock.sendall(part)
        if then_close:
            raise OSError("closed")

    return handler
