"""A worker in a process of its own, asked as kck asks."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import unittest
from decimal import Decimal
from typing import Any, Dict, List, Optional

from kck_worker import parameters, registry
from kck_worker.encode import encoded

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = os.path.join(HERE, "..", "src")


class Worker:
    """A running worker."""

    def __init__(self, *arguments: str, version: int = 1) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([SOURCES, HERE])}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kck_worker", *(arguments or ("worker_fixture",))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        )
        self.send({"kck": version, "server": "http://127.0.0.1:9"})
        self.greeting = self.receive() if version == 1 else None

    def send(self, message: Dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def receive(self) -> Dict[str, Any]:
        message: Dict[str, Any] = json.loads(self.line())
        return message

    def ask(self, product: str, **params: str) -> Dict[str, Any]:
        self.send({"id": 7, "product": product, "params": params, "as_of": "1:0/16B3748"})
        return self.receive()

    def end(self) -> str:
        """Ends the input; what it wrote to its log."""
        _, log = self.process.communicate(timeout=30)
        return log.decode()


class Asked(unittest.TestCase):
    worker: Optional[Worker] = None

    def setUp(self) -> None:
        self.worker = Worker()

    def tearDown(self) -> None:
        assert self.worker is not None
        self.worker.process.kill()
        self.worker.process.wait()
        for pipe in (self.worker.process.stdin, self.worker.process.stdout, self.worker.process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def ask(self, product: str, **params: str) -> Dict[str, Any]:
        assert self.worker is not None
        return self.worker.ask(product, **params)

    def test_greets_with_what_it_knows(self) -> None:
        assert self.worker is not None and self.worker.greeting is not None
        greeting = self.worker.greeting
        self.assertEqual(greeting["kck"], 1)
        self.assertEqual(greeting["concurrency"], 4 + 64)
        self.assertIn("renamed", greeting["products"])
        self.assertEqual(greeting["processes"], ["nightly"])

    def test_reads_parameters_as_annotations_say(self) -> None:
        answer = self.ask(
            "typed", n="41", share="0.10", when="2026-01-31 10:07:00.5+00", on="t",
            own="6b1f6a3e-2f0c-4b6e-9d0e-0d8f4f3f2a11",
        )
        self.assertEqual(answer["value"], {
            "when": "2026-01-31T10:07:00.500000+00:00", "share": 1.10, "n": 42, "on": True,
            "own": "6b1f6a3e-2f0c-4b6e-9d0e-0d8f4f3f2a11", "minute": 7,
        })

    def test_keeps_every_digit_and_the_order_of_members(self) -> None:
        assert self.worker is not None
        self.worker.send({"id": 1, "product": "raw", "params": {}})
        self.assertEqual(self.worker.line(), '{"id":1,"value":{"a":"ü","b":1.50}}\n'.encode())

    def test_takes_other_names_and_readers(self) -> None:
        answer = self.ask("renamed", words="a,b", more="c")
        self.assertEqual(answer["value"], {"words": ["a", "b"], "others": {"more": "c"}})

    def test_plain_functions_run_beside_each_other(self) -> None:
        assert self.worker is not None
        for number in (1, 2):
            self.worker.send({"id": number, "product": "together", "params": {"n": str(number)}})
        answers = sorted((self.worker.receive() for _ in (1, 2)), key=lambda answer: int(answer["id"]))
        self.assertEqual([answer["value"] for answer in answers], [1, 2])

    def test_functions_know_what_they_answer(self) -> None:
        answer = self.ask("waits", n="5")
        self.assertEqual(answer["value"], {"n": 5, "as_of": "1:0/16B3748", "name": "waits"})

    def test_errors_are_texts_and_tracebacks_go_to_the_log(self) -> None:
        assert self.worker is not None
        self.assertEqual(self.ask("refuses", city="Atlantis")["error"], "no history of Atlantis")
        self.assertEqual(self.ask("breaks")["error"], "KeyError: 'gone'")
        self.assertEqual(self.ask("odd")["error"][:11], "ValueError:")
        self.assertIn("parameter 'n' cannot be read", self.ask("waits", n="five")["error"])
        self.assertEqual(self.ask("refuses", town="x")["error"], "refuses takes no parameter 'town'")
        self.assertIn("knows no product 'nobody'", self.ask("nobody")["error"])
        log = self.worker.end()
        self.assertIn("Traceback", log)
        self.assertNotIn("Atlantis", log)

    def test_what_is_printed_is_no_answer(self) -> None:
        assert self.worker is not None
        self.assertEqual(self.ask("prints")["value"], "fine")
        self.assertEqual(self.ask("generated")["value"], [0, 1, 4, 9])
        self.assertIn("this is not an answer", self.worker.end())

    def test_processes_are_asked_by_their_own_word(self) -> None:
        assert self.worker is not None
        self.worker.send({"id": 3, "process": "nightly", "params": {}})
        self.assertEqual(self.worker.receive(), {"id": 3, "value": "1"})
        self.assertIn("no product 'nightly'", self.ask("nightly")["error"])

    def test_what_was_begun_is_done_at_the_end(self) -> None:
        assert self.worker is not None and self.worker.process.stdin is not None
        for number in (1, 2):
            self.worker.send({"id": number, "product": "together", "params": {"n": "1"}})
        self.worker.process.send_signal(signal.SIGTERM)
        self.worker.process.stdin.close()
        self.assertEqual({self.worker.receive()["id"] for _ in (1, 2)}, {1, 2})
        self.assertEqual(self.worker.line(), b"")
        self.assertEqual(self.worker.process.wait(timeout=30), 0)


class Starting(unittest.TestCase):
    def test_another_protocol_is_refused(self) -> None:
        worker = Worker(version=2)
        self.assertIn("speaks version 1", worker.end())
        self.assertNotEqual(worker.process.returncode, 0)

    def test_a_module_without_functions_is_told(self) -> None:
        environment = {**os.environ, "PYTHONPATH": SOURCES}
        ended = subprocess.run(
            [sys.executable, "-m", "kck_worker", "json"], input=b"", capture_output=True, env=environment,
        )
        self.assertEqual(ended.returncode, 2)
        self.assertIn(b"json: there is no function with @product or @process", ended.stderr)


class Registering(unittest.TestCase):
    def refused(self, function: Any, **options: Any) -> str:
        with self.assertRaises((TypeError, ValueError)) as caught:
            registry.product(**options)(function)
        return str(caught.exception)

    def test_what_cannot_be_asked_is_refused_when_it_is_imported(self) -> None:
        def listed(ids: List[int]) -> None:
            pass

        def positional(first: int, /) -> None:
            pass

        self.assertIn("parameter 'ids' has an annotation", self.refused(listed))
        self.assertIn("'first' has none", self.refused(positional))
        self.assertIn("'No' is no name of a product", self.refused(positional, name="No"))


class Encoding(unittest.TestCase):
    def test_values_of_many_kinds(self) -> None:
        self.assertEqual(
            encoded({"d": Decimal("10.00"), "t": datetime.time(1, 2), "s": {3, 1}, "b": b"\x01"}),
            '{"b":"\\\\x01","d":10.00,"s":[1,3],"t":"01:02:00"}',
        )
        with self.assertRaises(TypeError):
            encoded(object())

    def test_texts_of_postgres(self) -> None:
        read = parameters.reader("f", "p", datetime.datetime)
        self.assertEqual(read("2026-01-31 10:00:00+00").tzinfo, datetime.timezone.utc)
        self.assertEqual(read("2026-01-31 10:00:00.25"), datetime.datetime(2026, 1, 31, 10, 0, 0, 250_000))
        self.assertIs(parameters.reader("f", "p", bool)("f"), False)


if __name__ == "__main__":
    unittest.main()
