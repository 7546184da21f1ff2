"""Lines of standard input -> lines of standard output, many at once."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Set

from . import answering
from .encode import encoded
from .registry import processes, products

PROTOCOL = 1
NAME = "kck_worker 0.1.0"
#: Requests for functions that are `async` take no thread: so many more may be under way.
ASYNC_AT_ONCE = 64
#: A request is a line; its parameters are as long as a key may be.
LINE_BYTES_MAX = 1 << 20


class Output:
    """Where answers go: what was standard output, which is nobody else's any more."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "wb", buffering=0)
        # Whatever else is printed, also by C, goes to the log of kck.
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def send(self, line: str) -> None:
        """Writes a whole line; only ever called by the loop, so that no two mix."""
        left = memoryview(line.encode() + b"\n")
        while left:
            left = left[self._file.write(left):]


async def serve(threads: int) -> None:
    """Greets, then answers until the input ends and what was begun is done."""
    output = Output()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(0), "rb", buffering=0)
    )
    # kck closes the input as well; Ctrl-C at a terminal is for kck.
    loop.add_signal_handler(signal.SIGTERM, reader.feed_eof)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    server = _greeted(json.loads(await reader.readline() or b"null"))
    output.send(encoded(_greeting(threads)))
    under_way: Set["asyncio.Task[None]"] = set()
    with ThreadPoolExecutor(threads, thread_name_prefix="kck") as pool:
        while line := await reader.readline():
            asked = answering.read(json.loads(line), server)
            if isinstance(asked, str):
                output.send(asked)
                continue
            task = loop.create_task(_answered(asked, pool, output))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)
    transport.close()


def _greeted(greeting: Any) -> str:
    if not isinstance(greeting, dict) or greeting.get("kck") != PROTOCOL:
        sys.exit(f"kck_worker: this speaks version {PROTOCOL} of kck's protocol, and was greeted by {greeting}")
    return str(greeting.get("server", ""))


def _greeting(threads: int) -> Dict[str, Any]:
    known = [*products.values(), *processes.values()]
    waits = any(inspect.iscoroutinefunction(one.function) for one in known)
    return {
        "kck": PROTOCOL,
        "name": NAME,
        "concurrency": threads + ASYNC_AT_ONCE if waits else threads,
        "products": sorted(products),
        "processes": sorted(processes),
    }


async def _answered(asked: answering.Asked, pool: ThreadPoolExecutor, output: Output) -> None:
    if asked.is_async:
        message = await answering.answer_async(asked)
    else:
        # A context of its own, as the loop gives each task.
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        message = await loop.run_in_executor(pool, context.run, answering.answer, asked)
    output.send(message)
