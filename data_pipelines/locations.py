"""Where a store lies: a local path or a `gs://`, `s3://`, `https://` URL, opened for Zarr.

obstore reads object stores (several times faster than fsspec per chunk); fsspec is the fall-back for other
schemes. Public buckets are read without credentials unless the environment names some.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from zarr.abc.store import Store

OBJECT_STORE_SCHEMES = frozenset({"gs", "gcs", "s3", "s3a", "az", "azure", "abfs", "abfss", "http", "https"})

# Any of these in the environment means: sign the requests.
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
)

# How requests to an object store are repeated, on connection errors, time-outs and 5xx: waits of 0.1 s, doubled up to 10 s.
_RETRIES = {
    "max_retries": 10,
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10), "base": 2},
    "retry_timeout": timedelta(seconds=180),
}
_REQUEST_SECONDS = "SKYSOLVE_REQUEST_SECONDS"  # environment variable: a request that takes longer is repeated
_DEFAULT_REQUEST_SECONDS = "30"

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/?#\s'\"@]*@)?(?P<place>[^?#\s'\"]*)(?P<query>\?[^#\s'\"]*)?"
)


def is_url(location: str | Path) -> bool:
    """Whether the location is a URL (`scheme://...`) rather than a local path."""
    return "://" in str(location)


def is_zarr(folder: Path) -> bool:
    """Whether a local folder is a Zarr store, of either format."""
    return any((folder / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def redacted(text: object) -> str:
    """Text without the secrets that URLs in it may hold: user and password, and the values of every query parameter.

    For whatever is shown or kept: messages, logs, manifests, attributes of stores.
    """

    def plain(found: re.Match[str]) -> str:
        user = "***@" if found["user"] else ""
        query = re.sub(r"=[^&]*", "=***", found["query"] or "")
        return f"{found['scheme']}{user}{found['place']}{query}"

    return _URL.sub(plain, str(text))


def zarr_store(location: str | Path, *, read_only: bool = True, options: Mapping[str, Any] | None = None) -> Store:
    """Open a Zarr store's key space, local or remote, without reading anything yet.

    Parameters
    ----------
    location
        Local path or URL.
    read_only
        False to write into it.
    options
        Passed on to obstore's (or, for other schemes, fsspec's) constructor: region, endpoint, credentials.

    Raises
    ------
    ImportError
        If neither obstore nor fsspec is installed for a URL.
    """
    from zarr.storage import FsspecStore, LocalStore, ObjectStore

    if not is_url(location):
        return LocalStore(Path(location), read_only=read_only)
    url = str(location).rstrip("/")
    scheme = urlsplit(url).scheme.lower()
    if scheme == "file":
        return LocalStore(Path(urlsplit(url).path), read_only=read_only)
    if scheme not in OBJECT_STORE_SCHEMES:
        return FsspecStore.from_url(url, storage_options=dict(options or {}), read_only=read_only)
    return ObjectStore(object_store(url, options), read_only=read_only)


def object_store(url: str, options: Mapping[str, Any] | None = None) -> Any:
    """Open a place in an object store, for obstore's own functions; what fails for a moment is asked again.

    Parameters
    ----------
    url
        Of a scheme in `OBJECT_STORE_SCHEMES`.
    options
        As for `zarr_store`.

    Raises
    ------
    ImportError
        If obstore is not installed.
    """
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise ImportError(
            f"reading {redacted(url)} needs the package obstore; install it with: pip install 'skysolve[cloud]', or copy the "
            "store to this machine and give its path."
        ) from error
    settings = dict(options or {})
    scheme = urlsplit(url).scheme.lower()
    seconds = float(os.environ.get(_REQUEST_SECONDS, _DEFAULT_REQUEST_SECONDS))
    settings.setdefault("retry_config", _RETRIES)
    settings.setdefault("client_options", {"timeout": timedelta(seconds=seconds), "allow_http": _may_be_plain(scheme)})
    if scheme not in ("http", "https") and not any(name in os.environ for name in _CREDENTIALS):
        settings.setdefault("skip_signature", True)
    return from_url(url, **settings)


def _may_be_plain(scheme: str) -> bool:
    """Whether requests may go unencrypted: where the URL says so, or the environment does, as for a store on this machine."""
    return scheme == "http" or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")


def beside(location: str | Path, suffix: str) -> Path:
    """A local path beside a store: `analysis.zarr` and `.audit.json` give `analysis.zarr.audit.json`.

    For a URL the file lies in the current directory, under the last part of the URL.
    """
    if is_url(location):
        return Path(urlsplit(str(location).rstrip("/")).path.rsplit("/", 1)[-1] + suffix)
    path = Path(location)
    return path.with_name(path.name + suffix)
