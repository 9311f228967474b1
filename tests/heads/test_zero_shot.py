"""Zero-shot heads against CLIP and SigLIP of transformers, with the same random weights."""

from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers, processors
from torch.nn import functional as F

import zoo
from zoo.contracts.features import Features
from zoo.data import Column, Table, TensorSample
from zoo.errors import CapabilityError, ConfigError, ShapeError
from zoo.testing import check_head
from zoo_heads.zero_shot import prompt_embeddings

WORDS = ["<s>", "<pad>", "<unk>", "a", "an", "photo", "of", "cat", "dog", "mat", ".", "drawing", "the", "</s>"]
END = WORDS.index("</s>")
SMALL = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 2}
TEXT = {**SMALL, "vocab_size": 16, "max_position_embeddings": 12, "pad_token_id": 1, "bos_token_id": 0}
TEXT |= {"eos_token_id": END}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}
CLASSES = ["cat", "dog", "mat"]


def save(folder: Path, config: transformers.PretrainedConfig, *names: str) -> transformers.PreTrainedModel:
    """Save a dual model with random weights, and a tokenizer of a few words that gives inputs of these names."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2 if parameter.ndim else 0)
    model.save_pretrained(folder)
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", END)]
    )
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_input_names=list(names), **tokens
    ).save_pretrained(folder)
    return model


def save_clip(folder: Path) -> transformers.PreTrainedModel:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    return save(folder, config, "input_ids", "attention_mask")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return folder, save_clip(folder)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """SigLIP's tokenizer gives no mask: its text tower reads the padding, too."""
    folder = tmp_path_factory.mktemp("siglip")
    return folder, save(folder, transformers.SiglipConfig(text_config=TEXT, vision_config=VISION), "input_ids")


def build(folder, **config) -> zoo.Model:
    head = {"type": "zero_shot", "name": "kind", "classes": CLASSES, "dim": 16, **config}
    return zoo.build(f"hf:{folder}#vision", head)


def text_tower(folder) -> zoo.Backbone:
    return zoo.build(f"hf:{folder}#text").backbones["main"]


def read(folder, **config) -> zoo.Model:
    model = build(folder, **config)
    model.task("kind").read_prompts(text_tower(folder))
    return model


def pictures(rows=3):
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(5))


# --- against the library


@pytest.mark.slow
@torch.no_grad()
def test_the_logits_are_those_of_clip(clip):
    folder, whole = clip
    prompts = [f"a photo of a {name}." for name in CLASSES]
    ids = transformers.AutoTokenizer.from_pretrained(folder)(prompts, padding=True, return_tensors="pt")
    scale = whole.logit_scale.exp().item()

    model = read(folder, scale=scale)
    logits = model(pictures())["kind"]

    theirs = whole(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], pixel_values=pictures())
    torch.testing.assert_close(logits, theirs.logits_per_image, atol=1e-4, rtol=1e-4)
    expected = theirs.logits_per_image.softmax(dim=1)
    for one, row in zip(model.predict(pictures()), expected.tolist(), strict=True):
        assert one["kind"].probabilities == pytest.approx(dict(zip(CLASSES, row, strict=True)), abs=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_with_several_labels_the_probabilities_are_the_sigmoids_of_siglip(siglip):
    folder, whole = siglip
    whole.logit_bias.fill_(-1.5)
    settings = {"dim": 32, "scale": whole.logit_scale.exp().item(), "bias": -1.5, "templates": ["a photo of a {}"]}

    model = read(folder, multi_label=True, **settings)
    predictions = model.predict(pictures())

    tower = text_tower(folder)
    ids = tower.preprocess([f"a photo of a {name}" for name in CLASSES])["input_ids"]
    expected = whole(input_ids=ids, pixel_values=pictures()).logits_per_image.sigmoid()
    for one, row in zip(predictions, expected.tolist(), strict=True):
        assert list(one["kind"].probabilities.values()) == pytest.approx(row, abs=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_several_templates_are_averaged_as_vectors_of_length_1(clip):
    folder, whole = clip
    templates = ["a photo of a {}.", "a drawing of the {} of the {}", "{}"]

    found = prompt_embeddings(text_tower(folder), CLASSES, templates)

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for name, vector in zip(CLASSES, found, strict=True):
        each = []
        for template in templates:
            ids = tokenizer(template.replace("{}", name), return_tensors="pt")["input_ids"]
            each.append(F.normalize(whole.get_text_features(input_ids=ids).pooler_output[0], dim=0))
        torch.testing.assert_close(vector, F.normalize(torch.stack(each).mean(dim=0), dim=0), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_prompts_in_several_batches_are_embedded_like_each_alone(clip):
    tower = text_tower(clip[0])
    names = [f"{one} {two}" for one in WORDS[3:13] for two in WORDS[3:12]]

    together = prompt_embeddings(tower, names, ["{}"])

    alone = torch.cat(
        [prompt_embeddings(tower, [name], ["{}"]) for name in (names[0], names[63], names[64], names[-1])]
    )
    torch.testing.assert_close(together[[0, 63, 64, -1]], alone, atol=1e-5, rtol=1e-4)


# --- the bundle


@pytest.mark.slow
def test_a_bundle_needs_neither_the_text_tower_nor_the_folder(tmp_path):
    folder = tmp_path / "clip"
    save_clip(folder)
    model = read(folder)
    expected = model.predict(pictures())
    bundle = model.save(tmp_path / "bundle")
    folder.rename(tmp_path / "elsewhere")

    again = zoo.load(bundle)

    assert again.predict(pictures()) == expected
    assert not any("text" in name for name in again.state_dict())


@pytest.mark.slow
def test_a_zero_shot_head_is_measured_without_training(clip):
    model = read(clip[0])
    samples = tuple(TensorSample(f"picture {n}", one) for n, one in enumerate(pictures(6)))
    right = [one["kind"].label for one in model.predict(pictures(6))]
    labels = [CLASSES[(CLASSES.index(label) + row % 2) % 3] for row, label in enumerate(right)]  # every other is wrong
    kinds = Column("kind", "text", tuple(labels))
    table = Table("made up", {"image": samples}, {"kind": kinds}, ("train",) * 3 + ("test",) * 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    found = zoo.evaluate(model, table, device="cpu")
    history = zoo.fit(model, table, method="feature_extraction", validation=0, device="cpu")

    assert found["kind"]["accuracy"] == 0.5
    assert history.test["kind"]["accuracy"] == pytest.approx(1 / 3)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- refusals


@pytest.mark.slow
def test_a_head_that_has_read_no_prompts_tells_how(clip):
    model = build(clip[0])

    with pytest.raises(
        ConfigError, match=r"does not know what its classes mean yet; call model\.task\('kind'\)\.read_p"
    ):
        model.predict(pictures())
    with pytest.raises(ConfigError, match="does not know what its classes mean yet"):
        model.task("kind").prepare(["cat"])


@pytest.mark.slow
def test_an_embedding_of_another_width_tells_which_dim_to_take(clip):
    model = build(clip[0], dim=8)
    task = model.task("kind")

    with pytest.raises(ShapeError, match=r"embedding of \(3, 8\) .* got \(3, 16\); build the head with dim=16"):
        task.read_prompts(text_tower(clip[0]))
    with pytest.raises(ShapeError, match="has dim=8, and its backbone gives 16 channels; build the head with dim=16"):
        task.score(Features(embed=torch.ones(1, 16)))


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_an_embedding_without_a_direction_is_refused(clip, value):
    with pytest.raises(ConfigError, match="takes finite embeddings, none of length 0"):
        build(clip[0]).task("kind").set_classes(torch.full((3, 16), value))


@pytest.mark.slow
def test_embeddings_from_elsewhere_are_brought_to_length_1(clip):
    task = build(clip[0]).task("kind")
    given = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))

    task.set_classes(given)

    torch.testing.assert_close(task.class_embeddings, F.normalize(given, dim=1))


@pytest.mark.slow
def test_a_backbone_without_a_projected_vector_is_refused_before_weights_are_looked_for():
    with pytest.raises(
        CapabilityError, match=r"The head 'kind' \(zero_shot\) needs embed; timm:test_vit\S* gives"
    ) as caught:
        zoo.build("timm:test_vit", {"type": "zero_shot", "name": "kind", "classes": CLASSES, "dim": 16})

    hint = str(caught.value).partition("Backbones that give it: ")[2].removesuffix(".").split(", ")
    assert len(hint) == 3
    assert all("embed" in zoo.list(reference)[0].entry.capabilities for reference in hint)
    assert all(reference.endswith("#vision") for reference in hint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"classes": None}, r"The head 'kind' \(zero_shot\) must know its classes"),
        ({"dim": 0}, "dim must be 1 or more"),
        ({"dim": None}, "dim"),
        ({"scale": 0.0}, "scale must be above 0"),
        ({"templates": []}, "templates must be 1 or more"),
        ({"templates": ["a photo"]}, r"a template must have \{\} where the class name goes, got 'a photo'"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(make, config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make("zero_shot", **{"classes": CLASSES, "dim": 16, **config})


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, {"multi_label": True, "bias": -2.0, "class_weights": "balanced"}])
def test_zero_shot_heads_conform(clip, config):
    head = {"type": "zero_shot", "name": "kind", "classes": CLASSES, "dim": 16, **config}
    tower = text_tower(clip[0])

    check_head(head, f"hf:{clip[0]}#vision", ready=lambda model: model.task("kind").read_prompts(tower))


@pytest.mark.slow
def test_a_cache_beside_zero_shot_logits_conforms_and_adds_to_those_of_clip(clip):
    tower = text_tower(clip[0])
    head = {"type": "tip_adapter", "name": "kind", "classes": CLASSES, "dim": 16, "templates": ["a {}", "the {}."]}
    plain = read(clip[0], templates=["a {}", "the {}."])
    model = zoo.build(f"hf:{clip[0]}#vision", {**head, "shots": 1, "alpha": 1e-9})
    model.task("kind").read_prompts(tower)

    with torch.no_grad():
        torch.testing.assert_close(model(pictures())["kind"], plain(pictures())["kind"])
    check_head(head, f"hf:{clip[0]}#vision", ready=lambda model: model.task("kind").read_prompts(tower))


# --- as a teacher


@pytest.mark.slow
@torch.no_grad()
def test_as_a_teacher_it_gives_the_ensembled_prompts_logits_class_by_class(clip):
    folder, whole = clip
    templates = ["a photo of a {}.", "a drawing of the {}", "{}"]
    teacher = read(folder, templates=templates, scale=whole.logit_scale.exp().item())

    logits = teacher(pictures())["kind"]
    several = zoo.ensemble([teacher, read(folder, templates=templates[:1])])

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    seen = F.normalize(whole.get_image_features(pixel_values=pictures()).pooler_output, dim=1)
    for k, name in enumerate(CLASSES):
        each = []
        for template in templates:
            ids = tokenizer(template.replace("{}", name), return_tensors="pt")["input_ids"]
            each.append(F.normalize(whole.get_text_features(input_ids=ids).pooler_output[0], dim=0))
        expected = whole.logit_scale.exp() * seen @ F.normalize(torch.stack(each).mean(dim=0), dim=0)
        torch.testing.assert_close(logits[:, k], expected, atol=1e-3, rtol=1e-4)
    assert teacher.task("kind").labels.classes == tuple(CLASSES)
    assert several(pictures())["kind"].shape == (3, 3)
