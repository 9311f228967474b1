"""Model types of texts and sounds that cannot be served, each with its reason."""

from __future__ import annotations

__all__ = ["UNSERVED_SEQUENCES"]

UNSERVED_SEQUENCES: dict[str, str] = {
    **dict.fromkeys(
        (
            *("dac", "encodec", "higgs_audio_v2_tokenizer", "mimi", "mimi_encoder", "neucodec"),
            *("pocket_tts_audio_tokenizer", "pocket_tts_audio_tokenizer_encoder", "vibevoice_acoustic_tokenizer"),
            *("vibevoice_acoustic_tokenizer_decoder", "vibevoice_acoustic_tokenizer_encoder", "xcodec", "xcodec2"),
            *("mimi_decoder", "pocket_tts_audio_tokenizer_decoder"),
        ),
        "it is a codec of sound: it gives codes to be decoded, and no features",
    ),
    **dict.fromkeys(
        ("seamless_m4t", "seamless_m4t_v2"), "it is made of several models of speech and text, none of them apart"
    ),
    **dict.fromkeys(
        (
            *("bark", "clvp", "csm", "dia", "fastspeech2_conformer", "fastspeech2_conformer_with_hifigan"),
            *("gradium_phonon_tts", "higgs_audio_v2", "musicgen", "musicgen_melody", "pocket_tts", "vits"),
        ),
        "it makes sound, and is no encoder of it",
    ),
    **dict.fromkeys(
        (
            *("autoformer", "informer", "patchtsmixer", "patchtst", "time_series_transformer", "timesfm"),
            "timesfm2_5",
        ),
        "it takes numbers over time, and is no encoder of pictures, texts or sounds",
    ),
    "blt": "it takes bytes in patches that a model of their own cuts, and is not apart from it",
    "bros": "it asks for the eight corner coordinates of each word's box",
    "dpr": "its encoders give one vector and no tokens; name the BERT that it was made of",
    "emu3": "its config must list the tokens that stand for pictures, and its text model is not apart",
    "gemma3n_audio": "it takes spectrograms with a mask of its own, under names of its own",
    "kyutai_speech_to_text": "it takes the codes of a codec of sound beside its text",
    "muse_glimmer_assistant": "it takes the vectors of another model, and is no encoder",
    **dict.fromkeys(
        ("nemotron3_5_transcribe_audio", "nemotron3_5_transcribe_word_timestamp"),
        "it is a part of a recogniser of speech that joins two others; name 'nemotron3_5_transcribe_asr_audio'",
    ),
    "perceiver": "what it takes is decided by a preprocessor that only its task models bring",
    "qwen3_asr_encoder": "it gives the frames of all sounds of a batch as one sequence",
    "speecht5": "only its task models have the layers that take waveforms or texts",
    "t5gemma2": "its encoder looks at pictures too, and is not apart",
    "voxtral_realtime_text": "it takes the delay at which it listens beside its text, and is not apart from it",
    "univnet": "it makes waveforms of spectrograms, and is no encoder",
}
"""Model type to the reason why it cannot be served."""
