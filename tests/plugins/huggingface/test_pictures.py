"""Pictures prepared by transformers' own image processor, where no recipe says what it does."""

from __future__ import annotations

import json
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageOps
from transformers.utils import logging as transformers_logging

import zoo
from zoo.contracts.backbone import Backbone
from zoo.data import FileSample
from zoo.errors import ConfigError, DataError, ShapeError, ZooError
from zoo.reference import Reference
from zoo.spec import InputSpec
from zoo.training.features.store import FeatureStore
from zoo_huggingface.pictures import Pictures
from zoo_huggingface.provider import HuggingFaceProvider
from zoo_huggingface.quiet import quiet

pytestmark = pytest.mark.slow

PROVIDER = HuggingFaceProvider()
SWIN = {
    "model_type": "donut-swin", "image_size": [64, 48], "patch_size": 4, "embed_dim": 8, "depths": [1, 1],
    "num_heads": [1, 2], "window_size": 4,
}  # fmt: skip
DONUT = {"image_processor_type": "DonutImageProcessor", "size": {"height": 64, "width": 48}}
TAKES = InputSpec(name="image", kind="image", rank=4, channels=3, size=(64, 48))
KINDS = ("L", "1", "P", "RGBA", "LA", "16-bit", "CMYK", "turned")


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(), mode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Write a tiny encoder of Donut, with random weights and its image processor."""
    place = tmp_path_factory.mktemp("donut")
    torch.manual_seed(0)
    with quiet():
        transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**SWIN)).save_pretrained(place)
    (place / "preprocessor_config.json").write_text(json.dumps(DONUT))
    return place


def load(folder: Path, options: str = "", *, weights: str | None = "pretrained") -> Backbone:
    return PROVIDER.build(PROVIDER.spec(Reference.parse(f"hf:{folder}{options}")), weights=weights)


def theirs(folder: Path, picture: Image.Image) -> torch.Tensor:
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor(images=picture, return_tensors="pt")["pixel_values"][0]


def two_classes(folder: Path, **heads: Any) -> zoo.Model:
    return zoo.build(f"hf:{folder}", zoo.head("classifier", name="label", classes=["cat", "dog"]), **heads)


def test_a_picture_becomes_the_processors_own_tensor_and_the_spec_has_no_recipe(folder):
    backbone = load(folder)
    made = backbone.preprocess(noise(123, 77))

    assert backbone.spec.preprocessing is None
    assert torch.equal(made, theirs(folder, noise(123, 77)))
    assert backbone(made[None]).pooled.shape == (1, backbone.spec.pooled_dim)


def written(kind: str, path: Path) -> Path:
    picture = noise(83, 47, "RGBA")
    if kind == "16-bit":
        levels = np.random.default_rng(3).integers(0, 65536, (47, 83), dtype=np.uint16)
        Image.fromarray(levels).save(path / "picture.png")
        return path / "picture.png"
    if kind == "CMYK":
        picture.convert("RGB").convert("CMYK").save(path / "picture.tiff")
        return path / "picture.tiff"
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.convert("RGB").save(path / "picture.jpg", exif=exif)
        return path / "picture.jpg"
    converted = picture.convert("RGB").convert(kind) if kind in ("L", "1", "P") else picture.convert(kind)
    converted.save(path / "picture.png")
    return path / "picture.png"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["DonutImageProcessor", "Owlv2ImageProcessor"])
def test_a_file_of_any_kind_becomes_what_the_processor_makes_of_it_as_its_users_open_it(name, kind, tmp_path):
    """Colours are ``convert("RGB")``, over white where the processor lays them so; 16 bits are the high byte."""
    said = {"image_processor_type": name, "size": {"height": 64, "width": 48}}
    path = written(kind, tmp_path)
    opened = ImageOps.exif_transpose(Image.open(path))
    if kind == "16-bit":
        opened = Image.fromarray((np.asarray(opened).astype(np.int64) >> 8).astype(np.uint8))
    if not (name.startswith("Owlv2") and kind in ("RGBA", "LA")):
        opened = opened.convert("RGB")
    processor = getattr(transformers, name)(size=said["size"])

    sample = FileSample(path).open()
    made = Pictures("hf:x", "", said, TAKES, None)(sample)

    assert torch.equal(made, processor(images=opened, return_tensors="pt")["pixel_values"][0])


def test_a_bundle_brings_the_processor_back(folder, tmp_path):
    two_classes(folder).save(tmp_path / "bundle")

    loaded = zoo.load(tmp_path / "bundle")

    assert torch.equal(loaded.backbones["main"].preprocess(noise(123, 77)), theirs(folder, noise(123, 77)))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"image_processor_type": "EvilImageProcessor"}, "transformers has no image processor 'EvilImageProcessor'"),
        ({"image_processor_type": "AutoModel"}, "transformers has no image processor 'AutoModel'"),
        ({"image_processor_type": "BaseImageProcessorFast"}, "transformers has no image processor"),
        ({"image_processor_type": ["DonutImageProcessor"]}, "names no image processor"),
        ({"image_processor_type": "LightGlueImageProcessor"}, "compares two pictures"),
        ({"image_processor_type": "DonutImageProcessor", "size": "large"}, "cannot be made from its file"),
        ([1, 2], "must hold a JSON object, got list"),
        (b"\x80\x04cos\nsystem\n", "is not JSON"),
    ],
    ids=str,
)
def test_a_strangers_file_is_refused_with_its_reason(folder, content, sentence):
    backbone = load(folder, weights=None)
    data = content if isinstance(content, bytes) else json.dumps(content).encode()

    with pytest.raises(ZooError, match=sentence):
        backbone.take_files({"preprocessor_config.json": data})


def test_a_class_that_a_program_registered_with_transformers_is_none_of_transformers_own(folder):
    class DonutImageProcessorOfOurs(transformers.DonutImageProcessor):
        pass

    class OursConfig(transformers.PretrainedConfig):
        model_type = "ours"

    mapping = transformers.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING
    mapping._extra_content[OursConfig] = {"torchvision": DonutImageProcessorOfOurs}
    try:
        with pytest.raises(ConfigError, match="transformers has no image processor 'DonutImageProcessorOfOurs'"):
            Pictures("hf:x", "", {"image_processor_type": "DonutImageProcessorOfOurs"}, TAKES, None)
    finally:
        del mapping._extra_content[OursConfig]


def test_a_setting_that_would_read_another_file_is_not_passed_on(tmp_path):
    secret = tmp_path / "classes.json"
    secret.write_text("{}")
    said = {
        "image_processor_type": "OneFormerImageProcessor",
        "class_info_file": secret.name,
        "repo_path": str(tmp_path),
    }

    made = Pictures("hf:x", "", said, TAKES, None)

    assert not {"class_info_file", "repo_path"} & json.loads(made.files()["preprocessor_config.json"]).keys()


def test_the_function_pickles_without_weights_and_gives_the_same(folder):
    data = pickle.dumps(load(folder).preprocessor())

    assert len(data) < 2000
    assert torch.equal(pickle.loads(data)(noise(123, 77)), theirs(folder, noise(123, 77)))


def test_the_saved_file_is_one_that_transformers_loads(folder, tmp_path):
    for name, content in load(folder).native_files().items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    assert torch.equal(theirs(tmp_path, noise(61, 90)), theirs(folder, noise(61, 90)))


def test_another_size_is_set_in_the_processor(folder):
    backbone = load(folder, "?img_size=32")
    processor = transformers.DonutImageProcessor(size={"height": 32, "width": 32})

    expected = processor(images=noise(123, 77), return_tensors="pt")["pixel_values"][0]

    assert torch.equal(backbone.preprocess(noise(123, 77)), expected)


@pytest.mark.parametrize(
    ("said", "takes", "size", "sentence"),
    [
        (DONUT, {"channels": 1}, None, r"DonutImageProcessor, gives \(3, 64, 48\), and the backbone takes 1 channels"),
        ({"image_processor_type": "Swin2SRImageProcessor"}, {}, (64, 64), "the backbone takes 64×64 pixels; give it"),
        (DONUT, {"divisor": 7}, None, "the backbone takes sides divisible by 7"),
        (DONUT, {"fixed_size": True, "size": (96, 96)}, None, "the backbone takes 96×96 pixels"),
    ],
)
def test_what_does_not_fit_the_backbone_is_refused_when_a_picture_comes(said, takes, size, sentence):
    entry = InputSpec(**{**{"name": "image", "kind": "image", "rank": 4, "channels": 3, "size": (64, 48)}, **takes})
    made = Pictures("hf:x", "", said, entry, size)

    with pytest.raises(ConfigError, match=sentence):
        made(noise(123, 77))


def test_what_is_no_picture_is_refused_and_a_ready_tensor_passes(folder):
    prepare, ready = load(folder).preprocessor(), torch.zeros(3, 64, 48)

    assert prepare(ready) is ready
    with pytest.raises(ShapeError, match=r"must be \(3, height, width\) of a float dtype"):
        prepare(torch.zeros(1, 64, 48))
    with pytest.raises(DataError, match="takes a picture, a Pillow image, got str"):
        prepare("cat.jpg")


def test_without_weights_the_processor_of_a_source_is_not_read(folder):
    with pytest.raises(ConfigError, match="built with weights=None, it has not read the image processor of"):
        load(folder, weights=None).preprocess(noise(10, 10))


def test_a_bare_type_has_the_default_processor_of_its_type_at_its_own_size():
    backbone = PROVIDER.build(
        PROVIDER.spec(Reference.parse("hf:donut-swin?embed_dim=8&num_heads=[1,1,1,1]")), weights=None
    )
    processor = transformers.DonutImageProcessor(size={"height": 224, "width": 224})

    expected = processor(images=noise(123, 77), return_tensors="pt")["pixel_values"][0]

    assert torch.equal(backbone.preprocess(noise(123, 77)), expected)


def test_texts_in_a_picture_are_not_read():
    made = Pictures("hf:x", "", {"image_processor_type": "LayoutLMv3ImageProcessor"}, TAKES, None)
    processor = transformers.LayoutLMv3ImageProcessor(apply_ocr=False)

    assert torch.equal(made(noise(123, 77)), processor(images=noise(123, 77), return_tensors="pt")["pixel_values"][0])


@pytest.mark.parametrize(
    ("name", "switch"),
    [("Idefics3ImageProcessor", {"do_image_splitting": False}), ("MllamaImageProcessor", {"max_image_tiles": 1})],
)
def test_of_a_processor_that_cuts_tiles_the_whole_picture_is_taken(name, switch):
    made = Pictures("hf:x", "", {"image_processor_type": name}, TAKES, None)(noise(640, 470))

    expected = getattr(transformers, name)(**switch)(images=noise(640, 470), return_tensors="pt")["pixel_values"]

    assert torch.equal(made, expected.reshape(made.shape))


@pytest.fixture
def photos(tmp_path) -> Path:
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(4):
            shade = 40 * number + (10 if kind == "cat" else 30)
            Image.new("RGB", (60 + number, 40), (shade, 90, 200 - shade)).save(
                tmp_path / "photos" / kind / f"{number}.png"
            )
    return tmp_path / "photos"


@pytest.mark.slow
def test_a_model_trains_on_files_and_predicts_one(folder, photos, caplog):
    model = two_classes(folder)

    history = zoo.fit(model, photos, method="fine_tuning", epochs=1, batch_size=4, device="cpu")
    found = model.predict(photos / "cat" / "0.png")

    assert len(history.epochs) == 1
    assert set(found) == {"label"}
    with torch.no_grad():
        logits = model.eval()(theirs(folder, Image.open(photos / "cat" / "0.png"))[None])["label"]
    assert found["label"] == model.tasks()["label"].decode(logits)[0]


def test_frozen_features_are_kept_under_what_prepares_the_pictures(folder, photos, tmp_path):
    path = folder / "preprocessor_config.json"
    one, same = two_classes(folder), two_classes(folder)
    try:
        path.write_text(json.dumps({**DONUT, "do_align_long_axis": True}))
        other = two_classes(folder)
    finally:
        path.write_text(json.dumps(DONUT))

    stores = [FeatureStore(model, tmp_path / "features").folders["main"] for model in (one, same, other)]

    assert stores[0] == stores[1] != stores[2]


def test_training_views_are_refused_since_they_need_a_recipe(folder, photos):
    with pytest.raises(ConfigError, match="training views need a recipe; leave the augmentation out"):
        zoo.fit(two_classes(folder), photos, method="fine_tuning", augmentation="light", epochs=1, device="cpu")


def test_threads_that_prepare_pictures_leave_the_librarys_log_as_it_was(folder):
    prepare = load(folder).preprocessor()
    before = transformers_logging.get_verbosity()

    with ThreadPoolExecutor(max_workers=4) as pool:
        made = list(pool.map(prepare, [noise(123, 77)] * 24))

    assert all(torch.equal(one, made[0]) for one in made)
    assert transformers_logging.get_verbosity() == before != logging.CRITICAL
