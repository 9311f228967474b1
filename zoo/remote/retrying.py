"""Trying again: which failures may pass, how long to wait, and how to tell of one without repeating a password."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from zoo.errors import BundleError
from zoo.remote.address import Address

__all__ = ["Unreachable", "call", "may_pass", "pause", "told"]

ATTEMPTS = 5
"""How often something is tried that brings nothing."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds before the second attempt, and the most that they grow to by doubling."""

_PASSING = frozenset({408, 425, 429})
_FINAL = (
    *(FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError),
    *(ImportError, NotImplementedError, ValueError, TypeError, AttributeError, LookupError, AssertionError),
)
# by name, since the packages that have them may not be there: (whether it may pass, what is said of it)
_NAMED: dict[str, tuple[bool, str]] = {
    "LocalEntryNotFoundError": (True, "the hub cannot be reached"),
    "OfflineModeIsEnabled": (False, "HF_HUB_OFFLINE is set, so the hub is not asked"),
    "RepositoryNotFoundError": (False, "there is no such repository, or it is private and you are not logged in"),
    "GatedRepoError": (False, "its owner must grant you access first"),
    "RevisionNotFoundError": (False, "the repository has no such branch, tag or commit"),
    "RemoteEntryNotFoundError": (False, "there is nothing there (404)"),
    "NoCredentialsError": (False, "there are no credentials for it"),
    "PartialCredentialsError": (False, "its credentials are incomplete"),
    "InvalidRedirect": (False, "it redirects from https to http, which is not followed"),
    "NonHttpUrlRedirectClientError": (False, "it redirects to another kind of address, which is not followed"),
    "InvalidUrlRedirectClientError": (False, "it redirects to what is no address"),
    "TooManyRedirects": (False, "it redirects in a circle"),
    "ClientPayloadError": (True, "the connection broke off"),
    "ServerDisconnectedError": (True, "the connection broke off"),
}
_STATUS = {
    401: "access is refused (401)",
    403: "access is refused (403)",
    404: "there is nothing there (404)",
    412: "someone else has changed it meanwhile (412)",
    416: "it is shorter than it must be (416)",
}

Result = TypeVar("Result")


class Unreachable(BundleError):
    """Raised when a place cannot be read or written.

    Args:
        message: One sentence.
        passing: Whether it may work another time: no network, a server that fails, no answer.
    """

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.passing = passing


def _status(error: BaseException) -> int | None:
    """Give the HTTP status that an error of aiohttp, httpx or botocore tells of."""
    if _is_garbled(error):
        return None
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        response = getattr(response, "status_code", response)
    for status in (getattr(error, "status", None), response):
        if isinstance(status, int) and not isinstance(status, bool) and 100 <= status < 600:
            return status
    return None


def _is_garbled(error: BaseException) -> bool:
    """Say whether an answer could not be read as HTTP, which aiohttp tells of as a status 400 that nobody sent."""
    return type(error.__cause__).__module__ == "aiohttp.http_exceptions"


def _origin(error: BaseException) -> BaseException:
    """Give what an error of huggingface_hub comes from, where it says only that it does."""
    vague = type(error) in (ValueError, RuntimeError) or type(error).__name__ == "LocalEntryNotFoundError"
    return error.__cause__ if vague and isinstance(error.__cause__, Exception) else error


def may_pass(error: BaseException) -> bool:
    """Say whether another attempt may go better: resets, timeouts, 5xx, 408, 425 and 429; not what is final."""
    error = _origin(error)
    named = next((_NAMED[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _NAMED), None)
    if named is not None:
        return named[0]
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _PASSING
    return not isinstance(error, _FINAL)


def told(error: BaseException, address: Address) -> str:
    """Say in a few words what failed; nothing of the URL that is not shown stands in it."""
    error = _origin(error)
    for kind in type(error).__mro__:
        if kind.__name__ in _NAMED:
            return _NAMED[kind.__name__][1]
    status = _status(error)
    if status is not None:
        return _STATUS.get(status, f"the server answers {status}")
    if _is_garbled(error):
        return "the answer is no HTTP"
    if isinstance(error, FileNotFoundError):
        return "there is nothing there"
    if isinstance(error, PermissionError):
        return "access is refused"
    if isinstance(error, TimeoutError):
        return "there was no answer in time"
    number = getattr(error, "errno", None)
    text = os.strerror(number) if isinstance(number, int) and number > 0 and not error.args[2:] else str(error)
    return _scrubbed(text, address) or type(error).__name__


def _scrubbed(text: str, address: Address) -> str:
    line = re.sub(r"\S*://\S*", "…", " ".join(text.split()))
    for secret in address.secrets():
        alone = secret if len(secret) >= 4 else rf"(?<!\w){re.escape(secret)}(?!\w)"  # a short one may be in any word
        line = line.replace(secret, "…") if alone == secret else re.sub(alone, "…", line)
    return line[:160].rstrip(". ")


def pause(attempt: int) -> None:
    """Wait before the next attempt: twice as long each time, by a random part less, so that many do not ask at once.

    Args:
        attempt: How many have failed, from 1.
    """
    time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * random.uniform(0.5, 1))


def call(what: str, address: Address, attempt_it: Callable[[], Result]) -> Result:
    """Do something at a remote place, again if it may pass, 5 times at the most.

    Args:
        what: What is done, for the message: ``s3://bucket/pets/zoo.json cannot be read``.
        address: The place.
        attempt_it: Does it; may be called several times.

    Raises:
        Unreachable: If it cannot be done.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return attempt_it()
        except BundleError:
            raise
        except Exception as error:
            passing, reason = may_pass(error), told(error, address)
        if not passing:
            break
        if attempt < ATTEMPTS:
            pause(attempt)
    times = f", {ATTEMPTS} times" if passing else ""
    # raised out here, so that no error with the URL in its text hangs on it as its cause
    raise Unreachable(f"{what}: {reason}{times}.", passing=passing)
