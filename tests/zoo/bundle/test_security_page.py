"""The page on security names tests that there are."""

import re
from pathlib import Path


def test_every_test_that_the_page_names_is_there():
    here = Path(__file__).parent
    page = (here.parents[2] / "docs" / "explanation" / "security.md").read_text("utf-8")
    defined = {
        name for file in here.glob("test_*.py") for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }

    named = set(re.findall(r"`(test_[a-z0-9_]+)`", page))

    assert len(named) > 20
    assert named - defined == set()
