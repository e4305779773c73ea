"""A web server for a folder, with byte ranges, that remembers what it was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.servers import QuietHandler, running


@dataclass
class Requests:
    """What was asked for: paths in order, and bytes of bodies sent."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    sent: int = 0

    def chunks(self) -> set[str]:
        """Paths that hold values, not metadata."""
        return {path for path in self.paths if not path.rsplit("/", 1)[-1].startswith((".z", "zarr.json"))}

    def forget(self) -> None:
        """Start counting again."""
        self.paths.clear()
        self.sent = 0


@contextmanager
def web_server(folder: Path) -> Iterator[Requests]:
    """Serve `folder` on a free port of this machine while the block runs."""
    requests = Requests()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            path = self.path.split("?")[0].lstrip("/")
            requests.paths.append(path)
            file = folder / path
            if not file.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = file.read_bytes()
            size, wanted = len(content), self.headers.get("Range")
            if wanted is not None:
                first, last = wanted.removeprefix("bytes=").split("-")
                start = int(first) if first else size - int(last)
                stop = min(int(last) + 1, size) if first and last else size
                content = content[start:stop]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                requests.sent += len(content)
                self.wfile.write(content)

    with running(Handler) as requests.url:
        yield requests
