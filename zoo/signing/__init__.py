"""Signatures over folders, in the OpenSSF model-signing format: a detached sigstore bundle in ``model.sig``.

The library is the extra ``signing``; it is imported when a folder is signed or a signature is checked, and never else.

    keys        PEM files of elliptic-curve keys, looked at before the library sees them
    library     the library's calls, with every file counted and no file ignored
    statement   what a signature says that it covers
"""

from __future__ import annotations

from zoo.signing.keys import private_key, public_key
from zoo.signing.library import Trust, check_folder, need_library, sign_folder
from zoo.signing.statement import Statement, read_statement

__all__ = [
    "Statement",
    "Trust",
    "check_folder",
    "need_library",
    "private_key",
    "public_key",
    "read_statement",
    "sign_folder",
]
