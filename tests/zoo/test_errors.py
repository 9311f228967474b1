"""What an error says of a stranger's text cannot steer a terminal."""

import pytest

from zoo import errors
from zoo.errors import BundleError, UnknownName, WeightsError, ZooError, escape

EVERY = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error") or name in ("UnknownName",)]


@pytest.mark.parametrize("kind", EVERY)
def test_control_and_direction_characters_are_written_as_escapes(kind):
    error = kind("The class '\x1b[31mcat\x9b\u202e\x07' of größe 字.")

    assert str(error) == "The class '\\x1b[31mcat\\x9b\\u202e\\x07' of größe 字."
    assert error.args == ("The class '\x1b[31mcat\x9b\u202e\x07' of größe 字.",)


def test_a_bundle_s_error_is_one_line():
    assert str(BundleError("a\nINFO b\tc")) == "a INFO b c"
    assert str(ZooError("a\nb")) == "a\nb"


def test_what_is_harmless_stays():
    assert escape("naïve 字 \u200c\u200d ok") == "naïve 字 \u200c\u200d ok"
    assert str(UnknownName("x")) == "x"
    assert str(WeightsError("no room")) == "no room"
