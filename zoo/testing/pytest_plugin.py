"""A pytest plugin: one test for each check of each backbone.

Load it with ``-p zoo.testing.pytest_plugin`` in pytest's ``addopts``, or with ``pytest_plugins`` in the ``conftest.py``
at the root; it is no entry point, so whoever merely installs zoo runs pytest as ever. A test file then needs three
lines::

    @pytest.mark.zoo_backbone("acme:tinynet", "acme:tinynet?width=4", skip=["compiled"])
    def test_the_backbone_conforms(backbone_check):
        backbone_check()

Nothing of zoo is imported before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zoo.contracts.backbone import Backbone
    from zoo.testing.backbones import Check, Subject

MARK = "zoo_backbone"
_HELP = (
    f"{MARK}(*backbones, only=None, skip=()): references, or functions that give a backbone; "
    "one test for each check of each of them"
)
_SUBJECT: pytest.StashKey[tuple[object, Subject]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _HELP)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each check of each backbone that the marker names.

    Raises:
        pytest.UsageError: If the test has no such marker, or it names no backbone.
    """
    if "backbone_check" not in metafunc.fixturenames:
        return
    from zoo.testing.backbones.examining import chosen

    cases = []
    for mark in metafunc.definition.iter_markers(MARK):
        unknown = set(mark.kwargs) - {"only", "skip"}
        if not mark.args or unknown:
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: write @pytest.mark.{_HELP}.")
        checks = chosen(mark.kwargs.get("only"), mark.kwargs.get("skip", ()))
        cases += [
            pytest.param((backbone, check), id=f"{_name(backbone)}-{check.name}")
            for backbone in mark.args
            for check in checks
        ]
    if not cases:
        raise pytest.UsageError(f"{metafunc.definition.nodeid} asks for backbone_check; write @pytest.mark.{_HELP}.")
    metafunc.parametrize("backbone_check", cases, indirect=True)


@pytest.fixture
def backbone_check(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Run the check of this test; one that does not apply is skipped with the reason."""
    given, check = request.param
    return lambda: _run(request.config.stash, given, check)


def _run(stash: pytest.Stash, given: str | Callable[[], Backbone], check: Check) -> None:
    from zoo.testing.backbones import Subject, run_check

    kept = stash.get(_SUBJECT, None)
    if kept is None or kept[0] != given:  # the checks of one backbone share it; only the last one is held
        kept = given, Subject(given() if callable(given) else given)
        stash[_SUBJECT] = kept
    outcome = run_check(check, kept[1])
    if outcome.result == "skipped":
        pytest.skip(f"{check.name} does not apply: {outcome.reason}")
    if outcome.result == "failed":
        pytest.fail(f"{kept[1].name} fails {check.name}: {outcome.reason}", pytrace=False)


def _name(backbone: Any) -> str:
    return backbone if isinstance(backbone, str) else getattr(backbone, "__name__", type(backbone).__name__)
