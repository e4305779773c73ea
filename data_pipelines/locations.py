"""Where a store lies: a local path or a `gs://`, `s3://`, `https://` URL, opened for Zarr.

obstore reads object stores (several times faster than fsspec per chunk); fsspec is the fall-back for other
schemes. Public buckets are read without credentials unless the environment names some.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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


def is_url(location: str | Path) -> bool:
    """Whether the location is a URL (`scheme://...`) rather than a local path."""
    return "://" in str(location)


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
    settings = dict(options or {})
    if scheme not in OBJECT_STORE_SCHEMES:
        return FsspecStore.from_url(url, storage_options=settings, read_only=read_only)
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise ImportError(
            f"reading {url} needs the package obstore; install it with: pip install 'skysolve[cloud]', or copy the store "
            "to this machine and give its path."
        ) from error
    if scheme == "http":
        settings.setdefault("client_options", {"allow_http": True})
    elif scheme != "https" and not any(name in os.environ for name in _CREDENTIALS):
        settings.setdefault("skip_signature", True)
    return ObjectStore(from_url(url, **settings), read_only=read_only)


def beside(location: str | Path, suffix: str) -> Path:
    """A local path beside a store: `analysis.zarr` and `.audit.json` give `analysis.zarr.audit.json`.

    For a URL the file lies in the current directory, under the last part of the URL.
    """
    if is_url(location):
        return Path(urlsplit(str(location).rstrip("/")).path.rsplit("/", 1)[-1] + suffix)
    path = Path(location)
    return path.with_name(path.name + suffix)
