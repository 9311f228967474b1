"""Encoders of sound: model type to rule.

All are pooled by the mean over their real frames, unless the library has a pooled vector of its own.
"""

from __future__ import annotations

from dataclasses import replace

from zoo_huggingface.rules.rule import Rule
from zoo_huggingface.rules.sequence import Sequence

__all__ = ["AUDIO", "CLAP_AUDIO"]

_WAVEFORM = Sequence(
    kind="waveform",
    argument="input_values",
    limit=None,
    rate="vector",
    unless=("feat_extract_norm", "group"),  # as the library asks: such weights saw silence in training, and no mask
    trial=16_000,
)
_BINS = Sequence(kind="spectrogram", argument="input_features", limit=None, bins=("num_mel_bins", 1), trial=400)
_STEPS = replace(_BINS, steps_first=True, rate="output")
_THIRTY_SECONDS = replace(_BINS, mask="", rate="half", limit=("max_source_positions", 2), fixed=True)

# Masking stretches of a sound in training is an augmentation, of random numbers outside torch's generator.
_WAV2VEC2 = Rule(sequence=_WAVEFORM, blocks="encoder.layers", forced={"apply_spec_augment": False})
_NEMOTRON3 = Rule(sequence=replace(_STEPS, rate="every", step="subsampling_factor"), blocks="layers")

AUDIO: dict[str, Rule] = {
    "audio-spectrogram-transformer": Rule(
        sequence=replace(
            _STEPS, argument="input_values", mask="", rate=None, limit=("max_length", 1), fixed=True, prefix=2
        ),
        pooling=("pooler", "mean", "cls"),
        blocks="layers",
    ),
    "audioflamingo3_encoder": Rule(
        sequence=replace(_THIRTY_SECONDS, mask="input_features_mask", masked=True, rate="quarter"), blocks="layers"
    ),
    **dict.fromkeys(
        (
            *("data2vec-audio", "hubert", "sew", "unispeech", "unispeech-sat", "wav2vec2", "wav2vec2-conformer"),
            "wavlm",
        ),
        _WAV2VEC2,
    ),
    "fun_asr_nano_encoder": Rule(
        sequence=replace(
            _STEPS, mask="input_features_mask", masked=True, rate="same", bins=("num_mel_bins", 7)
        ),  # seven steps are one
        blocks="layers",
    ),
    "gemma4_audio": Rule(sequence=replace(_STEPS, bins=128), blocks="layers"),
    "glmasr_encoder": Rule(sequence=replace(_BINS, mask="", rate="half"), blocks="layers"),
    "granite_speech5_encoder": Rule(sequence=replace(_STEPS, bins=("num_mel_bins", 4)), blocks="layers"),
    **{
        name: Rule(
            sequence=replace(_STEPS, argument="hidden_states", mask="", rate="same", bins=("input_dim", 1)),
            blocks="layers",
            model=model,
        )
        for name, model in (
            ("granite_speech_encoder", "GraniteSpeechCTCEncoder"),
            ("granite_speech_plus_encoder", "GraniteSpeechPlusCTCEncoder"),
        )
    },
    "lasr_encoder": Rule(sequence=_STEPS, blocks="layers", call={"output_attention_mask": True}),
    "moonshine": Rule(sequence=replace(_WAVEFORM, rate="output", unless=None), tower="encoder", blocks="layers"),
    "moonshine_streaming_encoder": Rule(
        sequence=replace(
            _WAVEFORM, masked=True, rate="output", unless=None, filled=True, step=("sample_rate", "frame_ms", 0.001)
        ),
        blocks="layers",
        model="MoonshineStreamingEncoder",
    ),
    "moss_transcribe_diarize_audio": Rule(sequence=_THIRTY_SECONDS, blocks="layers"),
    "muse_spark_audio": Rule(
        sequence=replace(
            _WAVEFORM, mask="", rate="every", unless=None, step="samples_per_token", filled=True, trial=15_360
        ),
        blocks="layers",
    ),
    "nemotron3_5_transcribe_asr_audio": _NEMOTRON3,
    "nemotron3_diarization_audio": _NEMOTRON3,
    "nemotron_asr_streaming_encoder": Rule(sequence=_STEPS, blocks="layers", call={"use_cache": False}),
    "parakeet_encoder": Rule(sequence=_STEPS, blocks="layers"),
    "pe_audio_encoder": Rule(
        sequence=replace(
            _WAVEFORM,
            mask="padding_mask",
            rate="output",
            unless=None,
            channel=True,
            step="dac_config.hop_length",
            filled=True,
        ),
        pooling=("pooler", "mean"),
        blocks="layers",
    ),
    "phi4_multimodal_audio": Rule(
        sequence=replace(
            _STEPS,
            argument="hidden_states",
            mask="mask",
            masked=True,
            bins=("input_size", 1),
            rate="every",
            step="time_reduction",
        ),
        blocks="encoders",
        model="Phi4MultimodalAudioModel",
    ),
    "qwen2_audio_encoder": Rule(sequence=replace(_THIRTY_SECONDS, rate="quarter"), blocks="layers"),
    "sew-d": replace(_WAV2VEC2, blocks="encoder.encoder.layer"),
    "speech_to_text": Rule(
        sequence=replace(_STEPS, rate="vector", bins=("input_feat_per_channel", 1)), tower="encoder", blocks="layers"
    ),
    "voxtral_encoder": Rule(sequence=_THIRTY_SECONDS, blocks="layers"),
    "voxtral_realtime_encoder": Rule(
        sequence=replace(_BINS, mask="", rate="half"), blocks="layers", call={"use_cache": False}
    ),
    "wav2vec2-bert": Rule(
        sequence=replace(_STEPS, rate="vector", bins=("feature_projection_input_dim", 1)),
        blocks="encoder.layers",
        forced={"apply_spec_augment": False},
    ),
    "whisper": Rule(sequence=_THIRTY_SECONDS, tower="encoder", blocks="layers"),
}
"""Model type to rule."""

CLAP_AUDIO = replace(_STEPS, mask="", rate=None, limit=("spec_size", 4), channel=True, trial=1001)
"""How CLAP's audio tower takes a spectrogram."""
