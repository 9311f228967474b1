"""zoo's own heads: one file each, entered by the hook that a stranger's heads use too."""

from __future__ import annotations

from zoo.hooks import hookimpl


@hookimpl
def zoo_heads() -> dict[str, str]:
    """Give the head types; a class is imported when a head of its type is built."""
    return {
        "classifier": "zoo_heads.classifier:Classifier",
        "multi_task": "zoo_heads.multi_task:MultiTask",
        "regression": "zoo_heads.regression:Regression",
    }
