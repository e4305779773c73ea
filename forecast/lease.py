"""One job per store: a second one that is started by mistake is refused while the first is alive.

Beside a local store lies a locked file: the system lets go of the lock when its process dies, however it dies. At an object
store lies an object that its holder renews; one that is not renewed for a while was left by a dead job and is taken over.
The jobs of an array outlive the command that submitted them: it shares the locked file with them, and they join when they run
(`forecast.slurm_array` looks after those that wait, and after object stores).
Were the lease to fail, nothing would be torn: jobs that fill one store write the same bits, each shard whole.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from data_pipelines.errors import first_line
from data_pipelines.locations import is_url, object_store, redacted
from data_pipelines.retries import repeated
from data_pipelines.store import StoreError
from forecast.forecast_store import writing_to
from forecast.manifest import runs_folder

if TYPE_CHECKING:
    from forecast.job_config import RunConfig

RENEWED_EVERY = 10.0  # seconds
LEFT_AFTER = 60.0  # seconds without renewal, after which its holder is taken for dead
SHARED_WITHIN = 60.0  # seconds that a job of an array waits for the command that submitted it to share its lease
POLL = 0.5  # seconds


def lease_folder(config: RunConfig, path: str) -> Path:
    """Folder where the locked file of one of a job's local stores lies: of `out` beside the manifest."""
    if config.runs and path != config.out:
        return Path(config.runs) / Path(path).name
    return runs_folder(path, config.runs)


@contextmanager
def lease(out: str | Path, runs: Path, lost: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Hold the store of a job while the block runs; give a function that shares it with the jobs that its argument tells of.

    Parameters
    ----------
    out
        The store, local or a URL; need not exist.
    runs
        Folder beside it, where the locked file of a local store lies.
    lost
        Called with a reason should the lease be taken away meanwhile (object stores only: after a long loss of connection).

    Raises
    ------
    StoreError
        If another job holds it.
    """
    if is_url(out):
        with _object_lease(str(out).rstrip("/"), lost):
            yield lambda jobs: None
        return
    with _locked_file(out, runs) as file:
        if not _locked(file, fcntl.LOCK_EX, out):
            file.seek(0)
            raise _held(out, file.read())
        _say_who(file, _holder())

        def share(jobs: str) -> None:
            _say_who(file, json.dumps({"who": jobs}))
            _locked(file, fcntl.LOCK_SH, out)

        yield share


@contextmanager
def joined_lease(out: str | Path, runs: Path) -> Iterator[None]:
    """Hold, together with the other jobs of an array, the store that the command which submitted them shares.

    Raises
    ------
    StoreError
        If another job holds it, a minute long.
    """
    if is_url(out):
        yield
        return
    with _locked_file(out, runs) as file:
        end = time.monotonic() + SHARED_WITHIN
        while not _locked(file, fcntl.LOCK_SH, out):
            if time.monotonic() > end:
                file.seek(0)
                raise _held(out, file.read())
            time.sleep(POLL)
        yield


@contextmanager
def _locked_file(out: str | Path, runs: Path) -> Iterator[TextIO]:
    """Open the file; closing it lets go of the lock, and so does the death of the process."""
    with writing_to(out):
        runs.mkdir(parents=True, exist_ok=True)
        file = (runs / "lock").open("a+")
    with file:
        yield file


def _locked(file: TextIO, kind: int, out: str | Path) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise StoreError(
            f"{file.name} cannot be locked ({error.strerror}), so that two jobs could fill {out} at once unseen. Choose a "
            "runs= folder on a file system with locks."
        ) from error
    return True


def _say_who(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


@contextmanager
def _object_lease(url: str, lost: Callable[[str], None]) -> Iterator[None]:
    claim = _Claim(url)
    claim.take()
    ended = threading.Event()

    def renew() -> None:
        last = time.monotonic()
        while not ended.wait(RENEWED_EVERY):
            try:
                claim.renew()
                last = time.monotonic()
            except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
                if isinstance(error, StoreError) or time.monotonic() - last > LEFT_AFTER:
                    lost(f"the lease of the store was lost: {first_line(error)}")
                    return

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        claim.give_back()


class _Claim:
    """The object beside a store that says who fills it."""

    def __init__(self, url: str) -> None:
        parent, _, name = url.rpartition("/")
        self.url = url
        self._store = object_store(parent)
        self._key = f"{name}.lease"
        self._content = _holder().encode()
        self._version: Any = None

    def take(self) -> None:
        import obstore as obs

        try:
            self._put("create")
        except obs.exceptions.AlreadyExistsError as error:
            version, content = self._read()
            if content == self._content:  # the answer to our own request was lost
                self._version = version
                return
            self._wait_for_its_holder(content)
            try:
                self._put(version)
            except (obs.exceptions.PreconditionError, FileNotFoundError):
                raise _held(self.url, "") from error  # a third job was faster

    def renew(self) -> None:
        import obstore as obs

        try:
            self._put(self._version)
        except obs.exceptions.BaseError as error:  # it may be that only the answer was lost
            version, content = self._read()
            if content != self._content:
                raise _held(self.url, content.decode(errors="replace")) from error
            self._version = version

    def give_back(self) -> None:
        import obstore as obs

        if self._read()[1] == self._content:
            repeated(lambda: obs.delete(self._store, self._key), what=f"giving back the lease of {redacted(self.url)}")

    def _put(self, mode: Any) -> None:
        import obstore as obs

        done = repeated(lambda: obs.put(self._store, self._key, self._content, mode=mode), what=f"holding {redacted(self.url)}")
        self._version = _version(done)

    def _read(self) -> tuple[Any, bytes]:
        import obstore as obs

        def read() -> tuple[Any, bytes]:
            found = obs.get(self._store, self._key)
            return _version(found.meta), bytes(found.bytes())

        try:
            return repeated(read, what=f"reading the lease of {redacted(self.url)}")
        except FileNotFoundError:
            return None, b""

    def _wait_for_its_holder(self, content: bytes) -> None:
        """Return when nobody renewed for a while. No clocks are compared: those of two machines may differ."""
        import obstore as obs

        def renewed() -> Any:
            return repeated(lambda: obs.head(self._store, self._key), what="reading a lease")["last_modified"]

        end, first = time.monotonic() + LEFT_AFTER, renewed()
        while time.monotonic() < end:
            time.sleep(RENEWED_EVERY / 4)
            if renewed() != first:
                raise _held(self.url, content.decode(errors="replace"))


def _version(found: Any) -> dict[str, str]:
    """What a conditional request names; many stores know no versions beside the ETag."""
    return {key: found[key] for key in ("e_tag", "version") if found[key] is not None}


def _holder() -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now, "id": uuid.uuid4().hex})


def _held(out: str | Path, text: str) -> StoreError:
    try:
        holder = json.loads(text)
        who = holder.get("who") or f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        who = "somebody"
    return StoreError(f"{redacted(out)} is being filled by another job ({who}). Wait until it ends, or choose another out=.")
