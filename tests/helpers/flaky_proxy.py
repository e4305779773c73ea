"""A proxy in front of an HTTP server that refuses a share of the requests and leaves others without an answer."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.helpers.servers import QuietHandler, running

REFUSALS = (429, 500, 503)


@dataclass
class Faults:
    """How often it fails, and what it did: requests by what became of them."""

    fails: float
    stalls: float
    stall_seconds: float
    url: str = ""
    counts: Counter[str] = field(default_factory=Counter)


@contextmanager
def flaky_proxy(port: int, *, fails: float, stalls: float, stall_seconds: float, seed: int = 0) -> Iterator[Faults]:
    """Stand in front of the server on `port` of this machine.

    A request that fails is answered with 429, 500 or 503, or its connection is closed; half of these are passed on to the
    server first, so that it did what the client does not learn of.
    """
    faults, rng, lock = Faults(fails, stalls, stall_seconds), random.Random(seed), threading.Lock()

    class Handler(QuietHandler):
        def _any(self) -> None:
            with lock:
                draw, passed_on, refusal = rng.random(), rng.random() < 0.5, rng.choice((*REFUSALS, 0))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if draw < faults.stalls:
                faults.counts["stalled"] += 1
                time.sleep(faults.stall_seconds)
                self.close_connection = True
                return
            if draw < faults.stalls + faults.fails:
                faults.counts["failed"] += 1
                if passed_on:
                    self._ask(body)
                if refusal:
                    self._answer(refusal, [], b"")
                self.close_connection = True
                return
            faults.counts["served"] += 1
            self._answer(*self._ask(body))

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

        def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            return answer.status, answer.getheaders(), content

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            length = str(len(content))
            for name, value in headers:
                if name.lower() == "content-length":
                    length = value if self.command == "HEAD" else length
                elif name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    with running(Handler) as faults.url:
        yield faults
