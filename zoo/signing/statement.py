"""What a signature says that it covers, read from its file; whether that is true is for the library to say."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass

from zoo.errors import BundleError

__all__ = ["Statement", "read_statement"]


@dataclass(frozen=True, slots=True)
class Statement:
    """What is signed.

    Args:
        method: How files are told; zoo reads ``files``, one digest for each.
        algorithm: The digest; zoo reads ``sha256``.
        digests: Path to digest, as hex digits.
    """

    method: str
    algorithm: str
    digests: Mapping[str, str]


def read_statement(data: bytes, where: str) -> Statement:
    """Read what a signature covers.

    Args:
        data: The content of a ``model.sig``.
        where: Its path, for the message.

    Raises:
        BundleError: If it is no signature of a folder.
    """
    try:
        payload = json.loads(base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"], validate=True))
        predicate = payload["predicate"]
        told = predicate["serialization"]
        digests = {str(each["name"]): str(each["digest"]) for each in predicate["resources"]}
        return Statement(str(told["method"]), str(told["hash_type"]), digests)
    except (ValueError, LookupError, TypeError, RecursionError, binascii.Error) as error:
        raise BundleError(f"{where} is no signature of a folder; sign the bundle again.") from error
