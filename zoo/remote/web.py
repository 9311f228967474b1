"""A folder on a web server, which can only be read: streams of HTTP, with ranges where the server has them."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from zoo.errors import BundleError
from zoo.remote.files import FilePlace, file_system
from zoo.remote.streaming import Stream, paced

__all__ = ["WebPlace"]

PATIENCE = 30.0
"""Seconds without a byte after which a connection is given up."""

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)", re.ASCII)


class InvalidRedirect(ValueError):
    """A redirect that would give up encryption."""


class WebPlace(FilePlace):
    """A folder on a web server; a query in the URL is sent with every file, after its path."""

    def connect(self) -> tuple[Any, str]:
        """Give fsspec's HTTP file system, told how long to wait and where not to follow."""
        try:
            import aiohttp
        except ImportError:
            return file_system(self.address)  # which says what to install

        async def look(session: object, context: object, params: Any) -> None:
            """Refuse to go from https to http; to other schemes aiohttp never goes."""
            target = params.response.headers.get("Location") or params.response.headers.get("URI") or ""
            if params.response.url.scheme == "https" and target.lower().startswith("http:"):
                params.response.close()
                raise InvalidRedirect

        tracing = aiohttp.TraceConfig()
        tracing.on_request_redirect.append(look)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)
        client = {"timeout": timeout, "trace_configs": [tracing], "auto_decompress": False, "trust_env": True}
        return file_system(self.address, client_kwargs=client)

    def path(self, name: str) -> str:
        """Put a file's name after the path, in front of the query."""
        parts = urllib.parse.urlsplit(self.root)
        return urllib.parse.urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}", fragment=""))

    @contextmanager
    def opened(self, name: str, at: int) -> Iterator[Stream]:
        """Ask for a file from a byte on; a server without ranges begins at 0."""
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={at}-"} if at else {})}
        # with a size nothing else is asked before, with no block size it is one stream
        with self.system.open(self.path(name), "rb", block_size=0, size=1, headers=headers) as file:
            found = _RANGE.fullmatch(file.r.headers.get("Content-Range", ""))
            begin = int(found[1]) if file.r.status == 206 and found else 0
            if begin != at and begin != 0:
                raise OSError("the server gives another range than was asked for")
            yield Stream(begin, paced(file.read))

    def check_writable(self) -> NoReturn:
        """Refuse.

        Raises:
            BundleError: Always.
        """
        raise BundleError(
            f"{self.address.shown} can only be read; save to a folder or an object store, and serve that."
        )
