"""Model types of texts and sounds that cannot be served, each with its reason."""

from __future__ import annotations

__all__ = ["UNSERVED_SEQUENCES"]

UNSERVED_SEQUENCES: dict[str, str] = {
    **dict.fromkeys(
        (
            *("dac", "encodec", "higgs_audio_v2_tokenizer", "mimi", "mimi_encoder", "neucodec"),
            *("pocket_tts_audio_tokenizer", "pocket_tts_audio_tokenizer_encoder", "vibevoice_acoustic_tokenizer"),
            *("vibevoice_acoustic_tokenizer_decoder", "vibevoice_acoustic_tokenizer_encoder", "xcodec", "xcodec2"),
        ),
        "it is a codec of sound: it gives codes to be decoded, and no features",
    ),
    **dict.fromkeys(
        ("seamless_m4t", "seamless_m4t_v2"), "it is made of several models of speech and text, none of them apart"
    ),
    "blip-2": "it embeds a picture as the many vectors of a query transformer, and no tower of it as one",
    "emu3": "its config must list the tokens that stand for pictures, and its text model is not apart",
    "moonshine_streaming": "transformers 5.23 cannot build it, not even from its own defaults",
    "perceiver": "what it takes is decided by a preprocessor that only its task models bring",
    "qwen3_asr_encoder": "it gives the frames of all sounds of a batch as one sequence",
    "speecht5": "only its task models have the layers that take waveforms or texts",
    "t5gemma2": "its encoder looks at pictures too, and is not apart",
    "univnet": "it makes waveforms of spectrograms, and is no encoder",
}
"""Model type to the reason why it cannot be served."""
