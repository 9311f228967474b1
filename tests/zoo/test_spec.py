"""Specs: strict at the boundary of a file, and the same after a round trip."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.assembly import plan_model
from zoo.chaining.recipe import Chain
from zoo.errors import ConfigError, UnknownName
from zoo.preprocessing import Preprocessing
from zoo.spec import BackboneSpec, HeadSpec, InputSpec, ModelSpec, StageSpec, StreamSpec, check_name
from zoo.strict import check_options, from_json, to_json

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
HEADS = st.builds(HeadSpec, type=NAMES, name=NAMES, config=st.dictionaries(st.text(), JSON, max_size=3))


def backbone(**changes) -> BackboneSpec:
    fields = {
        "reference": "acme:tiny.v1",
        "provider": "acme",
        "architecture": "tiny",
        "library": "acme",
        "library_version": "1.0",
        "modality": "image",
        "inputs": (InputSpec(name="image", kind="image", rank=4, channels=3, size=(32, 48)),),
        "pooled_dim": 8,
        "stages": (StageSpec(name="stem"), StageSpec(name="s1", module="a", channels=8, reduction=4.0)),
        "capabilities": ("maps", "pooled"),
        "parameters": 10,
        "pooling": "mean",
        "preprocessing": Preprocessing(size=(32, 48), resize=(36,)),
        "construction": {"arguments": {"in_chans": 3}, "taps": [1, 2.5, None, True]},
    }
    return BackboneSpec(**{**fields, **changes})


def model() -> ModelSpec:
    head = HeadSpec(type="classifier", name="kind", config={"classes": ["a", "b"]})
    return ModelSpec(streams={"main": StreamSpec(backbone=backbone())}, heads=(head,))


def test_a_key_of_a_million_letters_is_told_in_short():
    with pytest.raises(ConfigError) as refused:
        from_json(HeadSpec, {"type": "a", "name": "b", "confg" * 10**6: {}})
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("kind", "data", "sentence"),
    [
        (HeadSpec, {"type": "a", "name": "b", "confg": {}}, "HeadSpec has no key 'confg'; it takes config."),
        (HeadSpec, {"typ": "a", "name": "b"}, "HeadSpec has no key 'typ'; it takes type."),
        (HeadSpec, {"name": "b"}, "HeadSpec: type: Field required."),
        (HeadSpec, {"type": "a", "name": "b", "zzz": 1}, "HeadSpec has no key 'zzz'; it takes type, name, config"),
        (
            ModelSpec,
            {"streams": {}, "heads": [{"type": "a", "nam": "b"}]},
            "ModelSpec: heads.0 has no key 'nam';",
        ),
        (
            ModelSpec,
            {"streams": {"main": {"backbon": {}}}, "heads": []},
            "ModelSpec: streams.main has no key 'backbon';",
        ),
        (
            Chain,
            {"data": "x", "model": {"backbone": "a:b"}, "steps": [{"name": "a", "quantise": {}}]},
            "Chain: steps.0 has no key 'quantise'; it takes quantize.",
        ),
        (
            Chain,
            {"data": "x", "model": {"bakbone": "a:b"}, "steps": []},
            "Chain: model has no key 'bakbone';",
        ),
    ],
)
def test_a_key_that_nobody_knows_is_told_with_its_place_and_the_nearest(kind, data, sentence):
    with pytest.raises(ConfigError) as refused:
        from_json(kind, data)
    assert str(refused.value).startswith(sentence)


@pytest.mark.slow
@given(HEADS)
def test_a_head_is_the_same_after_json(head):
    text = json.dumps(to_json(head))

    assert from_json(HeadSpec, json.loads(text)) == head


@pytest.mark.slow
@given(HEADS.filter(lambda head: not {"type", "name"} & set(head.config)))
def test_a_head_is_the_same_after_the_flat_form(head):
    assert HeadSpec.of(head.flat()) == head


def test_a_model_is_the_same_after_json():
    text = json.dumps(to_json(model()))

    assert from_json(ModelSpec, json.loads(text)) == model()


def test_a_real_model_is_the_same_after_json():
    spec = plan_model({"a": "timm:test_vit", "b": "timm:test_resnet"}, [])

    assert from_json(ModelSpec, json.loads(json.dumps(to_json(spec)))) == spec


def at(data, path):
    for step in path:
        data = data[step]
    return data


DEPTHS = [
    (),
    ("streams", "main"),
    ("streams", "main", "backbone"),
    ("streams", "main", "backbone", "inputs", 0),
    ("streams", "main", "backbone", "stages", 1),
    ("streams", "main", "backbone", "preprocessing"),
    ("heads", 0),
]


@pytest.mark.parametrize("path", DEPTHS, ids=str)
def test_an_unknown_key_is_refused_at_any_depth(path):
    data = to_json(model())
    at(data, path)["surprise"] = 1

    with pytest.raises(ConfigError, match=r"^ModelSpec(: \S+)? has no key 'surprise'; it takes "):
        from_json(ModelSpec, data)


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("streams", "main", "backbone"), "pooled_dim", "8"),
        (("streams", "main", "backbone"), "pooled_dim", 8.5),
        (("streams", "main", "backbone"), "pooled_dim", True),
        (("streams", "main", "backbone"), "pooled_dim", None),
        (("streams", "main", "backbone"), "reference", 3),
        (("streams", "main", "backbone"), "modality", "smell"),
        (("streams", "main", "backbone"), "capabilities", "pooled"),
        (("streams", "main", "backbone", "inputs", 0), "fixed_size", 1),
        (("streams", "main", "backbone", "inputs", 0), "fixed_size", "true"),
        (("streams", "main", "backbone", "inputs", 0), "size", [32]),
        (("streams", "main", "backbone", "inputs", 0), "size", [32, 48, 3]),
        (("streams", "main", "backbone", "inputs", 0), "kind", "pictures"),
        (("streams", "main", "backbone", "stages", 1), "reduction", "4"),
        (("streams", "main", "backbone", "preprocessing"), "std", [0.1, 0.1, "0.1"]),
        (("streams", "main", "backbone", "preprocessing"), "interpolation", "guess"),
        (("heads", 0), "config", []),
        (("heads", 0), "name", 5),
        ((), "heads", {}),
        ((), "streams", []),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_path(path, key, value):
    data = to_json(model())
    at(data, path)[key] = value

    with pytest.raises(ConfigError) as caught:
        from_json(ModelSpec, data)

    assert ".".join(map(str, (*path, key))) in str(caught.value)


@pytest.mark.parametrize("path", [("streams", "main", "backbone"), ("heads", 0), ("streams", "main")], ids=str)
def test_a_missing_key_is_refused(path):
    data = to_json(model())
    gone = next(iter(at(data, path)))
    del at(data, path)[gone]

    with pytest.raises(ConfigError, match=gone):
        from_json(ModelSpec, data)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("path", "key"),
    [(("streams", "main", "backbone", "stages", 1), "reduction"), (("heads", 0, "config"), "weight")],
)
def test_a_number_that_json_lacks_is_refused(path, key, number):
    data = to_json(model())
    at(data, path)[key] = number

    with pytest.raises(ConfigError, match="ModelSpec"):
        from_json(ModelSpec, data)


@pytest.mark.parametrize("data", [None, [], "model", 3, {}])
def test_what_is_no_model_at_all_is_refused(data):
    with pytest.raises(ConfigError, match="ModelSpec"):
        from_json(ModelSpec, data)


def test_two_heads_of_one_name_are_refused():
    data = to_json(model())
    data["heads"].append(copy.deepcopy(data["heads"][0]))

    with pytest.raises(ConfigError, match="Two heads are called 'kind'"):
        from_json(ModelSpec, data)


def test_a_model_without_a_stream_is_refused():
    with pytest.raises(ConfigError, match="at least one stream"):
        ModelSpec(streams={}, heads=())


@pytest.mark.parametrize(
    ("reduction", "level"),
    [
        (1, 0),
        (2, 1),
        (4.0, 2),
        (8, 3),
        (16, 4),
        (32, 5),
        (None, None),
        (12, None),
        (8.2963, None),
        (0.5, None),
        (0, None),
    ],
)
def test_the_level_is_the_whole_logarithm_of_the_reduction(reduction, level):
    assert StageSpec(name="s1", reduction=reduction).level == level


@pytest.mark.parametrize(
    "form",
    [
        "classifier",
        {"type": "classifier"},
        {"type": "classifier", "name": "classifier"},
        HeadSpec(type="classifier", name="classifier"),
    ],
    ids=["text", "dict", "named", "spec"],
)
def test_the_forms_of_a_head_mean_the_same(form):
    assert HeadSpec.of(form) == HeadSpec(type="classifier", name="classifier")


@pytest.mark.parametrize("form", [None, 3, [], {}, {"name": "a"}, {"type": 3}, b"classifier"])
def test_what_is_no_head_is_refused(form):
    with pytest.raises(ConfigError, match="A head must be a HeadSpec"):
        HeadSpec.of(form)


def test_changing_a_setting_copies_the_head():
    head = HeadSpec(type="classifier", name="a", config={"classes": ["x", "y"], "norm": True})

    assert head.with_config(norm=False).flat() == {
        "type": "classifier",
        "name": "a",
        "classes": ["x", "y"],
        "norm": False,
    }
    assert head.config["norm"] is True


@given(NAMES)
def test_letters_digits_and_dashes_make_a_name(name):
    check_name("head", name)


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "..", "-a", "_a", "a b", "a\n", "é", "a" * 65, "a\0", 5, None])
def test_a_name_that_could_be_no_folder_is_refused(name):
    with pytest.raises(ConfigError, match="A head's name must be"):
        HeadSpec(type="classifier", name=name)


def test_a_stream_has_such_a_name_too():
    with pytest.raises(ConfigError, match="A stream's name must be"):
        ModelSpec(streams={"a.b": StreamSpec(backbone=backbone())}, heads=())


def test_a_stage_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(UnknownName, match=r"acme:tiny\.v1 has no stage 's9'; its stages are stem, s1\."):
        backbone().stage("s9")


def test_only_stages_with_channels_give_maps():
    assert [stage.name for stage in backbone().maps] == ["s1"]


def test_an_option_that_nobody_reads_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match=r"acme has no option 'img_sizes'; it takes img_size\."):
        check_options("acme", {"img_sizes": 1}, {"img_size", "drop_rate"})


def test_an_option_like_no_other_is_refused_with_all_of_them():
    with pytest.raises(UnknownName, match=r"it takes drop_rate, img_size\."):
        check_options("acme", {"zzz": 1}, {"img_size", "drop_rate"})
