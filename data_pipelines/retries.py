"""Repeating what failed for a reason that passes: a busy object store, a dropped connection, a time-out."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from data_pipelines.errors import first_line
from data_pipelines.locations import redacted

Result = TypeVar("Result")

_log = logging.getLogger(__name__)

FIRST_WAIT = 0.2  # seconds; doubled every time
LONGEST_WAIT = 20.0  # seconds

# What an object store's client says of failures that pass. Its exceptions have one class for all of them.
_PASSING = re.compile(
    r"status code: (408|429|5\d\d)|timed? ?out|connection|too many requests|slow ?down|error sending request|"
    r"error decoding response body|internal error|service unavailable",
    re.IGNORECASE,
)


def passes(error: BaseException) -> bool:
    """Whether an error of an object store may be gone when the request is made again."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    kind = type(error)
    return kind.__module__.startswith("obstore") and kind.__name__ == "GenericError" and bool(_PASSING.search(str(error)))


def repeated(
    action: Callable[[], Result], *, attempts: int = 6, when: Callable[[BaseException], bool] = passes, what: str = "request"
) -> Result:
    """Do something again while it fails for a reason that passes, with growing, bounded waits.

    Parameters
    ----------
    action
        Must leave the same behind when it is done twice.
    attempts
        How often at most; then the last error is raised.
    when
        Says of an error whether another attempt makes sense.
    what
        What the log calls it.
    """
    for attempt in range(1, attempts):
        try:
            return action()
        except Exception as error:
            if not when(error):
                raise
            # Jitter: many workers that were refused together must not come back together.
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
            said = redacted(first_line(error))
            _log.warning("%s failed (%s), attempt %d of %d; again in %.1f s", what, said, attempt, attempts, wait)
            time.sleep(wait)
    return action()
