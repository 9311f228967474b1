"""References: what is written is what is read, and nothing outside the grammar is let in."""

from __future__ import annotations

import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import InvalidReference, ZooError
from zoo.reference import Reference

GRAMMAR = st.sampled_from([*"@#?%&=:+. ", "%40", "🦓", "é", "\u00a0"])
TEXT = st.lists(GRAMMAR | st.text(max_size=4), min_size=1, max_size=6).map("".join).filter(bool)
NAMES = TEXT.filter(str.strip)
PROVIDERS = st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True)
OPTIONS = st.dictionaries(
    st.text(string.ascii_letters, min_size=1, max_size=3),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(["1", "true", "null", '"a"', "1e400", "NaN", "[1]", "a&b=c", " x ", "x "]),
    max_size=3,
)
REFERENCES = st.builds(
    Reference,
    provider=PROVIDERS,
    name=NAMES,
    revision=st.none() | TEXT,
    part=st.none() | TEXT,
    options=OPTIONS,
)


def typed(reference: Reference) -> dict[str, tuple[type, object]]:
    return {name: (type(value), value) for name, value in reference.options.items()}


@pytest.mark.slow
@given(REFERENCES)
def test_what_is_written_is_read_back_with_every_piece_and_type(reference):
    again = Reference.parse(str(reference))

    assert again == reference
    assert (again.provider, again.name, again.revision, again.part) == (
        reference.provider,
        reference.name,
        reference.revision,
        reference.part,
    )
    assert typed(again) == typed(reference)


@pytest.mark.slow
@given(REFERENCES)
def test_writing_what_was_read_gives_the_same_text(reference):
    text = str(reference)

    assert str(Reference.parse(text)) == text


@pytest.mark.slow
@given(REFERENCES)
def test_a_reference_survives_pickling_and_keeps_its_hash(reference):
    again = pickle.loads(pickle.dumps(reference))

    assert again == reference
    assert hash(again) == hash(reference)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return

    assert Reference.parse(str(reference)) == reference


@pytest.mark.slow
@given(REFERENCES, REFERENCES)
def test_equal_references_have_equal_hashes(one, other):
    assert (one == other) == (str(one) == str(other))
    assert one != other or hash(one) == hash(other)


@pytest.mark.parametrize(("one", "other"), [("1", "true"), ("0", "false"), ("1", "1.0")])
def test_options_of_different_types_are_different_references(one, other):
    left, right = Reference.parse(f"timm:a?x={one}"), Reference.parse(f"timm:a?x={other}")

    assert left != right
    assert len({left, right}) == 2


def test_the_order_of_the_options_does_not_matter():
    one = Reference.parse("timm:a?b=1&a=2")

    assert one == Reference.parse("timm:a?a=2&b=1")
    assert str(one) == "timm:a?a=2&b=1"


@pytest.mark.parametrize(
    ("text", "provider", "name"),
    [
        ("hf:openai/clip-vit-base-patch32", "hf", "openai/clip-vit-base-patch32"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", "timm", "hf-hub:timm/resnet18.a1_in1k"),
        ("timm:vit_small_patch14_dinov2.lvd142m", "timm", "vit_small_patch14_dinov2.lvd142m"),
        ("hf:./local/folder", "hf", "./local/folder"),
        ("  timm:resnet18 ", "timm", "resnet18"),
    ],
)
def test_the_text_is_split_at_the_first_colon_and_nowhere_else(text, provider, name):
    reference = Reference.parse(text)

    assert (reference.provider, reference.name) == (provider, name)


def test_every_piece_has_its_place():
    reference = Reference.parse("hf:openai/clip@main#vision?img_size=224&drop_rate=0.5&gated=true&mode=avg&x=null")

    assert reference.name == "openai/clip"
    assert reference.revision == "main"
    assert reference.part == "vision"
    assert typed(reference) == {
        "drop_rate": (float, 0.5),
        "gated": (bool, True),
        "img_size": (int, 224),
        "mode": (str, "avg"),
        "x": (type(None), None),
    }


def test_a_quoted_option_is_text():
    reference = Reference.parse('timm:a?x="224"')

    assert reference.options["x"] == "224"
    assert str(reference) == 'timm:a?x="224"'


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity"])
def test_what_is_no_finite_number_is_text(number):
    assert Reference.parse(f"timm:a?x={number}").options["x"] == number


def test_the_options_cannot_be_changed():
    reference = Reference.parse("timm:a?x=1")

    with pytest.raises(TypeError):
        reference.options["x"] = 2


def test_changing_the_mapping_that_was_given_changes_nothing():
    options = {"x": 1}
    reference = Reference("timm", "a", options=options)
    options["x"] = 2

    assert reference.options["x"] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resnet18", "names no provider"),
        ("", "names no provider"),
        (":resnet18", "cannot be a provider"),
        ("Timm:resnet18", "lower-case"),
        ("my timm:resnet18", "cannot be a provider"),
        ("timm:", "no name after the colon"),
        ("timm:  ", "no name after the colon"),
        ("timm:@main", "no name after the colon"),
        ("timm:a@", "revision of 'timm:a' is empty"),
        ("timm:a#", "part of 'timm:a' is empty"),
        ("timm:a?", "is no option"),
        ("timm:a?x", "'x' in 'timm:a?x' is no option"),
        ("timm:a?=1", "is no option"),
        ("timm:a?x=1&", "is no option"),
        ("timm:a?x=1&x=2", "stands twice"),
        ("timm:a?a-b=1", "'a-b' cannot be an option"),
        ("timm:a?1=1", "cannot be an option"),
    ],
)
def test_a_text_outside_the_grammar_is_refused_with_the_reason(text, words):
    with pytest.raises(InvalidReference, match=r"^[^\n]+$") as caught:
        Reference.parse(text)

    assert words in str(caught.value)
    assert isinstance(caught.value, ZooError)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], {"a": 1}, object()])
def test_an_option_that_is_no_json_scalar_is_refused(value):
    with pytest.raises(InvalidReference, match="x"):
        Reference("timm", "a", options={"x": value})
