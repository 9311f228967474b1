"""The JSON Schema of ``zoo.json``, made from the dataclasses that read it."""

from __future__ import annotations

from typing import Any

from zoo.bundle.manifest import CheckpointManifest, EnsembleManifest, Manifest
from zoo.strict import adapter

__all__ = ["manifest_schema"]

_KINDS = (Manifest, CheckpointManifest, EnsembleManifest)


def manifest_schema() -> dict[str, Any]:
    """Give the schema of the manifests of all kinds; draft 2020-12."""
    definitions: dict[str, Any] = {}
    for kind in _KINDS:
        schema = adapter(kind).json_schema()
        definitions |= schema.pop("$defs")
        schema["properties"]["checksum"] = {"type": "string", "pattern": "^blake3:[0-9a-f]{64}$"}
        schema["required"] = sorted({*schema["required"], "format", "format_version", "min_reader", "kind", "checksum"})
        definitions[kind.__name__] = schema
    definitions["Manifest"]["properties"]["kind"]["enum"] = ["full", "delta"]
    for name, of_file in (("blake3", "FileEntry"), ("id", "MemberEntry")):
        definitions[of_file]["properties"][name]["pattern"] = "^[0-9a-f]{64}$"
    for part in ("Component", "Base", "AdapterEntry"):
        definitions[part]["properties"]["state_digest"]["pattern"] = "^zsd1:blake3:[0-9a-f]{64}$"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "zoo.json, the manifest of a bundle, format 1.0",
        "oneOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in _KINDS],
        "$defs": definitions,
    }
