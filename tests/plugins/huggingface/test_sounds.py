"""Types that take sounds against transformers itself, and the feature extractors that they bring."""

from __future__ import annotations

import inspect
import json
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Want
from zoo.errors import ConfigError, DataError, ShapeError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo_huggingface.provider import HuggingFaceProvider
from zoo_huggingface.rules import RULES

pytestmark = pytest.mark.slow

TABLE = runpy.run_path(str(Path(__file__).with_name("sequence_cases.py")))
AUDIO, QUICK, fields_of = TABLE["AUDIO"], TABLE["QUICK"], TABLE["fields_of"]
PROVIDER = HuggingFaceProvider()
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in AUDIO]

SEES_SILENCE = {
    *("data2vec-audio", "glmasr_encoder", "moonshine", "sew", "sew-d", "speech_to_text", "wav2vec2-conformer")
}
"""What they do without a mask (group norms over the whole length, convolutions) sees silence, in the library too."""
STEPS_FIRST = {
    *("audio-spectrogram-transformer", "fun_asr_nano_encoder", "gemma4_audio", "granite_speech5_encoder"),
    *("lasr_encoder", "nemotron3_diarization_audio", "nemotron_asr_streaming_encoder", "parakeet_encoder"),
    *("speech_to_text", "wav2vec2-bert"),
}
"""transformers takes their spectrograms with the steps in front of the bins."""
REAL = {"waveform": (2400, 4000), "spectrogram": (48, 64)}
"""Real length of the first sound and the second, in samples or steps."""


def reference(name: str, extra: dict[str, Any] | None = None) -> Reference:
    fields = fields_of(name) | (extra or {})
    options = {key: json.dumps(value) if isinstance(value, (list, dict)) else value for key, value in fields.items()}
    return Reference("hf", name, options=options)


@cache
def spec_of(name: str) -> BackboneSpec:
    return PROVIDER.spec(reference(name))


def shake(module: nn.Module) -> None:
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.5 if "running_var" in key else torch.randn(tensor.shape) * 0.1)


def build(name: str) -> Backbone:
    torch.manual_seed(0)
    backbone = PROVIDER.build(spec_of(name), weights=None).eval()
    shake(backbone.native)
    return backbone


@cache
def ready(name: str) -> Backbone:
    return build(name)


@cache
def sounds(name: str) -> dict[str, Tensor]:
    """Two sounds, the first of them filled up with silence, as the backbone takes them."""
    torch.manual_seed(1)
    main = spec_of(name).inputs[0]
    short, long = REAL[main.kind]
    if main.fixed_length:
        short, long = main.length * 3 // 4, main.length
    mask = (torch.arange(long) < torch.tensor([[short], [long]])).long()
    values = torch.randn((2, long) if main.channels is None else (2, main.channels, long))
    values = values * (mask if values.ndim == 2 else mask[:, None])
    return {main.name: values, **({"attention_mask": mask} if "mask" in spec_of(name).capabilities else {})}


@cache
@torch.no_grad()
def theirs(name: str) -> Any:
    """Call the library's own encoder with the backbone's weights, as its users call it."""
    config = transformers.AutoConfig.for_model(name, **fields_of(name))
    model = transformers.MODEL_MAPPING[type(config)](config).eval()
    missing, unexpected = model.load_state_dict(ready(name).native.state_dict(), strict=False)
    unused = (*spec_of(name).construction["unused"], "decoder")
    assert not unexpected
    assert [key for key in missing if not any(key == path or key.startswith(path + ".") for path in unused)] == []
    encoder: Any = model.get_encoder() if "decoder_input_ids" in inspect.signature(model.forward).parameters else model
    inputs, known = sounds(name), inspect.signature(encoder.forward).parameters
    values = inputs[spec_of(name).inputs[0].name]
    arguments: dict[str, Any] = {"return_dict": True}
    for mask in ("attention_mask", "padding_mask", "input_features_mask"):
        if mask in known and takes_mask(name, config):
            arguments[mask] = inputs["attention_mask"]
    if "output_attention_mask" in known:
        arguments["output_attention_mask"] = True
    if name == "muse_spark_audio":
        values = nn.functional.pad(values, (0, -values.shape[1] % config.samples_per_token))
    return encoder(values.transpose(1, 2) if name in STEPS_FIRST else values, **arguments), encoder


def takes_mask(name: str, config: Any) -> bool:
    if name in ("audio-spectrogram-transformer", "moss_transcribe_diarize_audio", "qwen2_audio_encoder"):
        return False
    if name in ("voxtral_encoder", "voxtral_realtime_encoder", "whisper"):
        return False
    return getattr(config, "feat_extract_norm", None) != "group"


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_tokens_and_pooled_vector_are_the_librarys(name):
    backbone, (output, _) = ready(name), theirs(name)
    last, prefix = output.last_hidden_state, backbone.spec.prefix_tokens

    features = backbone(sounds(name), Want(tokens=True))

    assert torch.equal(features.tokens, last[:, prefix:])
    assert features.tokens.shape[-1] == backbone.spec.token_dim
    if backbone.spec.pooling == "pooler":
        assert torch.equal(features.pooled, output.pooler_output)
    else:
        counts = features.mask.sum(1)
        rows = [last[row, : int(count)].mean(0) for row, count in enumerate(counts)]
        assert torch.allclose(features.pooled, torch.stack(rows), atol=1e-5)
    assert features.pooled.shape == (2, backbone.spec.pooled_dim)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_mask_comes_at_the_rate_of_the_frames(name):
    backbone, (output, encoder) = ready(name), theirs(name)
    inputs = sounds(name)

    mask = backbone(inputs, Want(tokens=True)).mask

    if "attention_mask" not in inputs:
        assert mask is None
        return
    count = output.last_hidden_state.shape[1]
    given = inputs["attention_mask"]
    if output.get("attention_mask") is not None:
        expected = output.attention_mask.bool()
    elif hasattr(encoder, "_get_feature_vector_attention_mask"):
        expected = encoder._get_feature_vector_attention_mask(count, given).bool()
    elif hasattr(encoder, "_get_feat_extract_output_lengths"):
        lengths = encoder._get_feat_extract_output_lengths(given.sum(1))
        if isinstance(lengths, tuple):  # after the convolutions, and after the pooling of those that have one
            lengths = next(one for one in lengths if int(one[1]) == count)
        expected = torch.arange(count) < lengths[:, None]
    else:
        expected = torch.arange(count) < (given.sum(1) * count / given.shape[1]).ceil()[:, None]
    assert mask.dtype == torch.bool
    assert torch.equal(mask, expected)
    assert mask[1].all()
    assert not mask[0].all()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_silence_at_the_end_does_not_change_the_pooled_vector(name):
    backbone, inputs = ready(name), sounds(name)
    main = backbone.spec.inputs[0]
    if main.fixed_length or "attention_mask" not in inputs:
        pytest.skip("it takes one length only")
    real = int(inputs["attention_mask"][0].sum())

    alone = backbone(inputs[main.name][:1, ..., :real]).pooled[0]
    filled = backbone(inputs).pooled[0]

    changed = not torch.allclose(alone, filled, atol=1e-4)
    assert changed == (name in SEES_SILENCE)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_stage_and_gets_a_gradient(name):
    backbone = build(name)
    order = [stage.name for stage in backbone.spec.stages]

    features = backbone(sounds(name), Want(tokens=True))
    (features.pooled.mul(torch.randn(features.pooled.shape)).sum() + features.tokens.square().sum()).backward()

    assert [order[0], order[-1]] == ["stem", "post"]
    assert {backbone.stage_of(key) for key, _ in backbone.native.named_parameters()} >= set(order[1:-1])
    assert [key for key, p in backbone.native.named_parameters() if p.grad is None and p.requires_grad] == []


def test_training_draws_from_torchs_generator_alone():
    backbone, inputs = build("wav2vec2").train(), sounds("wav2vec2")
    pooled = []
    for seed in (1, 2):
        torch.manual_seed(0)
        np.random.seed(seed)  # the generator that masking stretches of sound would draw from
        pooled.append(backbone(inputs).pooled)

    assert torch.equal(*pooled)


def test_every_type_of_the_table_of_rules_is_tested_or_too_large_to_be():
    rules = {name for name, rule in RULES.items() if rule.sequence is not None and rule.sequence.kind != "tokens"}

    large = {"nemotron3_5_transcribe_asr_audio", "pe_audio_encoder"}
    inside = {  # test_towers has them, inside the whole model
        *("granite_speech_encoder", "granite_speech_plus_encoder", "moonshine_streaming_encoder"),
        "phi4_multimodal_audio",
    }
    assert rules - set(AUDIO) == large | inside


# --- wrong inputs


def test_a_spectrogram_of_another_length_than_the_only_one_is_refused():
    with pytest.raises(ShapeError, match="takes 100 steps only, got 64; pad or cut them"):
        ready("whisper")(torch.randn(1, 16, 64))


def test_a_spectrogram_with_its_sides_exchanged_is_refused_with_the_layout():
    with pytest.raises(
        ShapeError, match=r"takes spectrogram as \(batch, 16, steps\), got 64 bins \(1, 64, 16\); are bins"
    ):
        ready("wav2vec2-bert")(torch.randn(1, 64, 16))


def test_a_waveform_with_a_channel_is_refused():
    with pytest.raises(ShapeError, match=r"takes waveform as \(batch, samples\), got rank 3"):
        ready("wav2vec2")(torch.randn(1, 1, 4000))


# --- feature extractors


def folder_of(name: str, tmp_path: Path, extractor: Any) -> Path:
    config = transformers.AutoConfig.for_model(name, **fields_of(name))
    torch.manual_seed(0)
    transformers.MODEL_MAPPING[type(config)](config).save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    return tmp_path


def load(folder: Path) -> Backbone:
    return PROVIDER.build(PROVIDER.spec(Reference("hf", str(folder))), weights="pretrained").eval()


def wave(seconds: float, rate: int = 16_000) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(int(seconds * rate)).astype(np.float32) * 0.1


def test_a_waveform_is_prepared_as_the_folders_extractor_does(tmp_path):
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    backbone, sound = load(folder_of("wav2vec2", tmp_path, extractor)), wave(0.5)
    expected = extractor(sound, sampling_rate=16_000, return_tensors="pt")["input_values"][0]

    one = backbone.preprocess(sound)
    with_rate = backbone.preprocess((torch.from_numpy(sound), 16_000))
    batch = backbone.preprocess([sound, sound[:4000]])

    assert torch.equal(one["waveform"], expected)
    assert torch.equal(with_rate["waveform"], expected)
    assert one["attention_mask"].tolist() == [1] * 8000
    assert batch["waveform"].shape == (2, 8000)
    assert batch["attention_mask"].sum(1).tolist() == [8000, 4000]
    assert torch.equal(backbone(batch).pooled, backbone(batch).pooled)


@pytest.mark.parametrize(
    ("name", "extractor", "shape"),
    [
        ("whisper", lambda: transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1), (16, 100)),
        (
            "audio-spectrogram-transformer",
            lambda: transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=64),
            (32, 64),
        ),
    ],
)
@torch.no_grad()
def test_a_spectrogram_is_prepared_as_the_folders_extractor_does(name, extractor, shape, tmp_path):
    made = extractor()
    backbone, sound = load(folder_of(name, tmp_path, made)), wave(0.4)
    given = made(sound, sampling_rate=16_000, return_tensors="pt")
    expected = given[made.model_input_names[0]][0]

    ready_made = backbone.preprocess(sound)

    spectrogram = ready_made["spectrogram"]
    assert spectrogram.shape == shape
    assert torch.allclose(spectrogram, expected if name == "whisper" else expected.T)
    batch = {key: value[None] for key, value in ready_made.items()}
    assert backbone(batch).pooled.shape == (1, 32)
    assert ("attention_mask" in ready_made) == (name == "whisper")


def test_a_bare_type_has_the_extractor_of_its_library():
    prepared = ready("wav2vec2").preprocess(wave(0.1))

    assert prepared["waveform"].shape == (1600,)
    assert abs(float(prepared["waveform"].mean())) < 1e-3


@pytest.mark.parametrize(
    ("sound", "sentence"),
    [
        ((wave(0.1), 44_100), "takes sounds of 16000 samples a second, got 44100; resample them"),
        (wave(0.1)[None], r"a float array of one channel, \(samples,\), from -1 to 1, got float32 \(1, 1600\)"),
        ((wave(0.1) * 1000).astype(np.int16), r"got int16 \(1600,\)"),
        (np.zeros(0, np.float32), r"got float32 \(0,\)"),
        ("a text", "got str"),
        ([], "must hold at least one, got none"),
    ],
)
def test_what_is_no_sound_of_one_channel_is_refused(sound, sentence):
    with pytest.raises(DataError, match=sentence):
        ready("wav2vec2").preprocess(sound)


@pytest.mark.slow
def test_a_folder_without_an_extractor_says_so_when_a_sound_comes(tmp_path):
    backbone = load(folder_of("wav2vec2", tmp_path, transformers.Wav2Vec2FeatureExtractor()))
    (tmp_path / "preprocessor_config.json").unlink()
    bare = load(tmp_path)

    assert backbone.preprocess(wave(0.1))["waveform"].shape == (1600,)
    with pytest.raises(ConfigError, match=r"brings no feature extractor \(preprocessor_config.json\); give it tensors"):
        bare.preprocess(wave(0.1))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "is not JSON"),
        (b"[]", "must hold a JSON object, got list"),
        (b'{"feature_extractor_type": "pipeline"}', "no feature extractor of sounds called 'pipeline'"),
        (b'{"feature_extractor_type": "BertModel"}', "no feature extractor of sounds called 'BertModel'"),
        (b'{"feature_extractor_type": "WhisperFeatureExtractor", "n_fft": "x"}', "cannot be made from its file"),
    ],
)
def test_a_hostile_extractor_is_refused(content, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ready("wav2vec2").take_files({"preprocessor_config.json": content})


def test_code_named_in_an_extractors_file_is_dropped(tmp_path):
    folder_of("wav2vec2", tmp_path, transformers.Wav2Vec2FeatureExtractor())
    path = tmp_path / "preprocessor_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"auto_map": {"AutoFeatureExtractor": "evil.Extractor"}, "_x": 1}))

    kept = json.loads(load(tmp_path).native_files()["preprocessor_config.json"])

    assert not {"auto_map", "_x"} & kept.keys()
    assert kept["sampling_rate"] == 16_000


def test_the_bundles_folder_is_one_that_the_library_reads_by_itself(tmp_path):
    backbone = load(folder_of("wav2vec2", tmp_path, transformers.Wav2Vec2FeatureExtractor(padding_value=0.5)))
    saved = tmp_path / "saved"
    saved.mkdir()
    for file, content in backbone.native_files().items():
        (saved / file).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    extractor = transformers.AutoFeatureExtractor.from_pretrained(saved)

    assert isinstance(extractor, transformers.Wav2Vec2FeatureExtractor)
    assert extractor.padding_value == 0.5
