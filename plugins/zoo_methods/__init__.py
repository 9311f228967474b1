"""zoo's own training methods: one file each, entered by the hook that a stranger's methods use too."""

from __future__ import annotations

from zoo.hooks import hookimpl


@hookimpl
def zoo_methods() -> dict[str, str]:
    """Give the training methods; a class is imported when the method is asked for."""
    return {
        "feature_extraction": "zoo_methods.feature_extraction:FeatureExtraction",
        "fine_tuning": "zoo_methods.fine_tuning:FineTuning",
    }
