"""A converted checkpoint gives what the library's own model gives, and no tensor of it is lost in silence."""

import json

import pytest
import safetensors.torch
import torch
import torchvision
import transformers

import zoo
from zoo.errors import BundleError, ConfigError, WeightsError

ABC = ["a", "b", "c"]


def prefixed(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


FORMS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "both": lambda state: {"model": {"state_dict": state}},
    "module.": lambda state: {"state_dict": prefixed("module.", state)},
    "_orig_mod.": lambda state: prefixed("_orig_mod.", state),
    "module._orig_mod.": lambda state: prefixed("module._orig_mod.", state),
    "model.": lambda state: {"state_dict": prefixed("model.", state), "hyper_parameters": {"lr": 1}},
    "backbone.": lambda state: {k if k.startswith("fc.") else f"backbone.{k}": t for k, t in state.items()},
}


SLOW = ("both", "model", "_orig_mod.", "module._orig_mod.", "model.")


@pytest.mark.slow
@pytest.mark.parametrize("form", [pytest.param(form, marks=pytest.mark.slow if form in SLOW else ()) for form in FORMS])
def test_every_form_of_a_timm_checkpoint_gives_timms_own_logits(tmp_path, resnet, saved, stored, form):
    theirs, batch = resnet
    held = FORMS[form](theirs.state_dict())
    file = stored(held) if all(map(torch.is_tensor, held.values())) else saved(held)

    told = zoo.convert(file, tmp_path / "bundle", backbone="timm:test_resnet", classes=ABC)

    ours = zoo.load(tmp_path / "bundle")
    with torch.inference_mode():
        assert torch.equal(ours(batch)["classifier"], theirs(batch))
    assert told.prefix == (form if form.endswith(".") else "")
    assert told.backbone == len(theirs.state_dict()) - 2
    assert told.classifier.rpartition(".")[2] == "fc"
    assert told.classes == tuple(ABC)
    assert zoo.verify(tmp_path / "bundle", run=True).ok
    assert ours.provenance["converted"]["checkpoint"] == file.name


@pytest.mark.parametrize("name", ["mobilenet_v3_small", pytest.param("densenet121", marks=pytest.mark.slow)])
def test_a_torchvision_checkpoint_gives_torchvisions_own_logits(tmp_path, stored, name):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=3).eval()

    zoo.convert(stored(theirs.state_dict()), tmp_path / "bundle", backbone=f"torchvision:{name}", classes=ABC)

    batch = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(zoo.load(tmp_path / "bundle")(batch)["classifier"], theirs(batch))


@pytest.mark.slow
def test_a_transformers_checkpoint_gives_transformers_own_logits(tmp_path, saved):
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    theirs = transformers.ViTForImageClassification(config).eval()
    config.save_pretrained(tmp_path / "vit")

    told = zoo.convert(saved(theirs.state_dict()), tmp_path / "bundle", backbone=f"hf:{tmp_path}/vit", classes=ABC)

    batch = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(zoo.load(tmp_path / "bundle")(batch)["classifier"], theirs(batch).logits)
    assert (told.prefix, told.classifier) == ("vit.", "classifier")


def test_a_safetensors_file_is_converted_without_a_child(tmp_path, resnet, monkeypatch):
    theirs, batch = resnet
    file = tmp_path / "weights.bin"  # what it is called does not matter
    safetensors.torch.save_file(theirs.state_dict(), file)
    monkeypatch.setattr("zoo.converting.reading.unpickle", None)

    head = zoo.head("classifier", name="pet", classes=ABC)
    told = zoo.convert(file, tmp_path / "bundle", backbone="timm:test_resnet", head=head)

    with torch.inference_mode():
        assert torch.equal(zoo.load(tmp_path / "bundle")(batch)["pet"], theirs(batch))
    assert told.left_out == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    "brought",
    [
        pytest.param({"classes": ABC}, marks=pytest.mark.slow),
        pytest.param({"class_names": tuple(ABC)}, marks=pytest.mark.slow),
        pytest.param({"id2label": {0: "a", 1: "b", 2: "c"}}, marks=pytest.mark.slow),
        {"class_to_idx": {"c": 2, "a": 0, "b": 1}},
    ],
)
def test_the_checkpoints_own_names_of_classes_are_taken(tmp_path, resnet, saved, brought):
    told = zoo.convert(
        saved({"state_dict": resnet[0].state_dict(), **brought}), tmp_path / "bundle", backbone="timm:test_resnet"
    )

    assert told.classes == tuple(ABC)
    assert told.left_out == (*brought,)


@pytest.mark.parametrize("text", ["a\nb\nc\n", json.dumps(ABC)])
def test_names_of_classes_are_read_from_a_file(tmp_path, resnet, stored, text):
    (tmp_path / "names").write_text(text)

    told = zoo.convert(
        stored(resnet[0].state_dict()), tmp_path / "bundle", backbone="timm:test_resnet", classes=tmp_path / "names"
    )

    assert told.classes == tuple(ABC)


@pytest.mark.slow
def test_the_backbone_alone_is_taken_where_that_is_asked_for_and_the_rest_is_told(tmp_path, resnet, saved):
    theirs, batch = resnet
    told = zoo.convert(
        saved({"state_dict": theirs.state_dict(), "epoch": 1}),
        tmp_path / "bundle",
        backbone="timm:test_resnet",
        backbone_only=True,
    )

    assert told.left_out == ("epoch", "fc.bias", "fc.weight")
    assert told.classifier is None
    model = zoo.load(tmp_path / "bundle")
    assert not model.heads
    with torch.inference_mode():
        pooled = theirs.forward_head(theirs.forward_features(batch), pre_logits=True)
        assert torch.equal(model.features(batch)["main"].pooled, pooled)


def spoilt(change):
    def make(state):
        state = dict(state)
        change(state)
        return state

    return make


WRONG = {
    "a tensor is missing": (spoilt(lambda s: s.pop("layer1.0.conv1.weight")), "missing"),
    "a tensor too many": (spoilt(lambda s: s.update({"layer9.weight": torch.ones(1)})), "layer9"),
    "another shape": (spoilt(lambda s: s.update({"bn1.weight": torch.ones(7)})), "bn1.weight"),
    "another dtype": (lambda state: {k: t.half() if t.is_floating_point() else t for k, t in state.items()}, "float"),
    "another architecture": (lambda state: {"weight": torch.ones(2)}, "another architecture"),
    "twice": (lambda state: {**prefixed("student.", state), **prefixed("teacher.", state)}, "more than once"),
    "no classifier": (spoilt(lambda s: [s.pop(k) for k in ("fc.weight", "fc.bias")]), "no classifier"),
    "another classifier": (spoilt(lambda s: s.update({"fc.weight": torch.ones(3, 7)})), "fc.weight"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(tmp_path, resnet, stored, case):
    change, reason = WRONG[case]

    with pytest.raises(WeightsError, match=reason) as raised:
        zoo.convert(
            stored(change(resnet[0].state_dict())), tmp_path / "bundle", backbone="timm:test_resnet", classes=ABC
        )

    assert "checkpoint.safetensors" in str(raised.value)
    assert not (tmp_path / "bundle").exists()


def test_classes_that_are_unknown_or_of_another_number_are_refused(tmp_path, resnet, stored):
    file = stored(resnet[0].state_dict())

    with pytest.raises(ConfigError, match="--classes"):
        zoo.convert(file, tmp_path / "bundle", backbone="timm:test_resnet")
    with pytest.raises(ConfigError, match="3 classes, and 2 names"):
        zoo.convert(file, tmp_path / "bundle", backbone="timm:test_resnet", classes=["a", "b"])
    with pytest.raises(ConfigError, match="cannot be read"):
        zoo.convert(file, tmp_path / "bundle", backbone="timm:test_resnet", classes=tmp_path / "none")
    head = zoo.head("classifier", hidden=4, classes=ABC)
    with pytest.raises(ConfigError, match="hidden layer"):
        zoo.convert(file, tmp_path / "bundle", backbone="timm:test_resnet", head=head)


def test_a_classifier_on_another_vector_is_refused_and_its_backbone_can_be_had(tmp_path, stored):
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    config.save_pretrained(tmp_path / "vit")
    file = stored(transformers.ViTForImageClassification(config).state_dict())
    backbone = f"hf:{tmp_path}/vit?pooling=mean"  # transformers' classifier reads the class token

    with pytest.raises(WeightsError, match="another vector"):
        zoo.convert(file, tmp_path / "bundle", backbone=backbone, classes=ABC)

    told = zoo.convert(file, tmp_path / "bundle", backbone=backbone, backbone_only=True)
    assert told.left_out == ("classifier.bias", "classifier.weight")


def test_a_target_that_is_there_is_refused_before_the_checkpoint_is_read(tmp_path, saved):
    (tmp_path / "bundle").mkdir()

    with pytest.raises(BundleError, match="exists"):
        zoo.convert(tmp_path / "no-such-file", tmp_path / "bundle", backbone="timm:test_resnet")
    with pytest.raises(WeightsError, match="must be a file"):
        zoo.convert(tmp_path / "no-such-file", tmp_path / "other", backbone="timm:test_resnet")
