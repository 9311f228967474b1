"""Where the house stands, and what its pyproject says."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def sources() -> list[Path]:
    """Every Python file that goes into the wheel."""
    return sorted(path for room in ("zoo", "plugins", "heads") for path in (ROOT / room).rglob("*.py"))
