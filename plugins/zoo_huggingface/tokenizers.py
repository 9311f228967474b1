"""Texts to token ids, by the tokenizer that a source brings as ``tokenizer.json``.

Only tokenizers that are data are read: a vocabulary that needs a model's own Python code, or is pickled, is refused.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from zoo.errors import ConfigError, DataError
from zoo.spec import InputSpec
from zoo_huggingface.plans import clean
from zoo_huggingface.quiet import quiet
from zoo_huggingface.reading.sequence import MASK
from zoo_huggingface.sources import first_line

__all__ = ["SLOW_FILES", "TOKENIZER_FILES", "Texts", "without_tokenizer"]

_MAIN, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
TOKENIZER_FILES = (_MAIN, _SETTINGS, "special_tokens_map.json", "added_tokens.json")
"""The files that make a tokenizer; the first must be there."""

SLOW_FILES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "vocab.pkl",
)
"""Vocabularies of tokenizers that are code, or that transformers must convert first."""
_PLACES = ("_file", "_files", "_path", "_dir", "_url")
_LONGEST = 1_000_000
"""A greatest length above this is transformers' way to say that there is none."""


def without_tokenizer(who: str, where: str, there: list[str]) -> str:
    """Say why a source gives no tokenizer.

    Args:
        who: The reference.
        where: The source.
        there: Those of the files of slow tokenizers that it has.
    """
    if there:
        return (
            f"{who}: {where} brings its vocabulary as {', '.join(there)} only, which takes a model's own code to read; "
            f"save the tokenizer again with a fast tokenizer's save_pretrained, which writes {_MAIN}."
        )
    return f"{who}: {where} brings no tokenizer ({_MAIN}); give it token ids."


class Texts:
    """A tokenizer, and the files that it is made of.

    Args:
        who: The reference, for messages.
        model_type: The type of the source's config, which names the tokenizer where the files do not.
        files: File name to content; those of other names are passed over.

    Raises:
        ConfigError: If the files are damaged, name code, or are those of a tokenizer that is code.
    """

    def __init__(self, who: str, model_type: str, files: Mapping[str, bytes]) -> None:
        self.who = who
        self._files = {_MAIN: files[_MAIN]}
        for name in TOKENIZER_FILES[1:]:
            if name in files:
                self._files[name] = json.dumps(_settings(who, name, files[name]), ensure_ascii=False).encode("utf-8")
        self.tokenizer = _load(who, model_type, self._files)
        settings = json.loads(self._files.get(_SETTINGS, b"{}"))
        settings.setdefault("tokenizer_class", type(self.tokenizer).__name__)
        self._files[_SETTINGS] = json.dumps(settings, indent=2, ensure_ascii=False).encode("utf-8")

    def files(self) -> dict[str, bytes]:
        """Give the files that make it again."""
        return dict(self._files)

    def __call__(self, sample: Any, inputs: tuple[InputSpec, ...], *, padded: bool = False) -> dict[str, Tensor]:
        """Turn a text, a pair of texts, or a list of either, into token ids, cut to what the backbone takes.

        Args:
            sample: A string; a tuple of two for a pair; or a list of them for a batch.
            inputs: What the backbone takes.
            padded: Whether to fill up to the greatest length; the mask then is left out where the tokenizer gives none.

        Shape:
            - returns: ``(N,)`` each, int64; ``(B, N)`` for a list, the shorter ones filled up.

        Raises:
            DataError: If it is no text, or there is no token in it.
        """
        texts = list(sample) if isinstance(sample, list) else [sample]
        limit = self._limit(inputs)
        names = [entry.name for entry in inputs if entry.rank == 2 and entry.kind in ("tokens", "mask")]
        if padded and MASK not in self.tokenizer.model_input_names:
            names = [name for name in names if name != MASK]  # SigLIP and its kin were trained to read the padding
        rows = self._encode(texts, limit)
        length = max(len(row) for row in rows["input_ids"])
        if not min(len(row) for row in rows["input_ids"]):
            raise DataError(f"{self.who}: a text must hold at least one token, got {self._emptiest(texts, rows)!r}.")
        length = limit if padded and limit is not None else length
        batch = {name: self._fill(name, rows[name], length) for name in names if name in rows}
        return batch if isinstance(sample, list) else {name: tensor[0] for name, tensor in batch.items()}

    def _limit(self, inputs: tuple[InputSpec, ...]) -> int | None:
        limits = [inputs[0].length, self.tokenizer.model_max_length]
        known = [int(limit) for limit in limits if limit is not None and limit < _LONGEST]
        return min(known) if known else None

    def _encode(self, texts: list[Any], limit: int | None) -> dict[str, list[list[int]]]:
        if not texts:
            raise DataError(f"{self.who}: a batch of texts must hold at least one, got none.")
        pairs = [isinstance(text, tuple) for text in texts]
        parts = [part for text in texts for part in (text if isinstance(text, tuple) else (text,))]
        wrong = [part for part in parts if not isinstance(part, str)]
        if wrong or any(pairs) != all(pairs) or (any(pairs) and len(parts) != 2 * len(texts)):
            got = type(wrong[0]).__name__ if wrong else "tuples of other lengths, or mixed with texts"
            raise DataError(f"{self.who}: a text must be a str, or a tuple of two for a pair, got {got}.")
        first = parts[::2] if any(pairs) else parts
        second = parts[1::2] if any(pairs) else None
        try:
            with quiet():
                encoded = self.tokenizer(
                    first, second, truncation=limit is not None, max_length=limit, return_attention_mask=True
                )
        except BaseException as error:  # the tokenizers' own panics are no Exception
            raise DataError(f"{self.who}: its tokenizer fails: {_reason(error)}") from error
        return {name: encoded[name] for name in encoded}

    def _fill(self, name: str, rows: list[list[int]], length: int) -> Tensor:
        own = self.tokenizer
        value = {MASK: 0, "token_type_ids": own.pad_token_type_id}.get(name)
        if value is None:
            value = next((i for i in (own.pad_token_id, own.eos_token_id) if i is not None), 0)
        left = own.padding_side == "left"
        filled = [[value] * (length - len(row)) + row if left else row + [value] * (length - len(row)) for row in rows]
        return torch.tensor(filled, dtype=torch.int64)

    def _emptiest(self, texts: list[Any], rows: dict[str, list[list[int]]]) -> Any:
        return min(zip(rows["input_ids"], texts, strict=True), key=lambda pair: len(pair[0]))[1]


def _settings(who: str, name: str, content: bytes) -> dict[str, Any]:
    """Read one of the small files, without what names code or places."""
    try:
        data = json.loads(content)
    except ValueError as error:
        raise ConfigError(f"{who}: its tokenizer's {name} is not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{who}: its tokenizer's {name} must hold a JSON object, got {type(data).__name__}.")
    return {key: value for key, value in clean(data).items() if not key.endswith(_PLACES)}


def _load(who: str, model_type: str, files: Mapping[str, bytes]) -> PreTrainedTokenizerFast:
    settings = json.loads(files.get(_SETTINGS, b"{}"))
    _check_class(who, settings.get("tokenizer_class"))
    try:
        with tempfile.TemporaryDirectory() as folder, quiet():
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            made = AutoTokenizer.from_pretrained(
                folder, config=CONFIG_MAPPING[model_type](), local_files_only=True, trust_remote_code=False
            )
    except BaseException as error:  # the tokenizers' own panics are no Exception
        raise ConfigError(f"{who}: its tokenizer cannot be read: {_reason(error)}") from error
    if not isinstance(made, PreTrainedTokenizerFast):
        raise ConfigError(f"{who}: its tokenizer is a {type(made).__name__}, which is code and no data; give it ids.")
    return made


def _check_class(who: str, name: object) -> None:
    """Refuse a class that is none of transformers' tokenizers made of data."""
    if name is None:
        return
    if not isinstance(name, str):
        raise ConfigError(f"{who}: its tokenizer_class must be a name, got {type(name).__name__}.")
    cls = tokenizer_class_from_name(name) or tokenizer_class_from_name(name.removesuffix("Fast"))
    if cls is not None and not (isinstance(cls, type) and issubclass(cls, PreTrainedTokenizerFast)):
        raise ConfigError(
            f"{who}: its tokenizer is a {name}, which is code and no data; save it again as a fast tokenizer, or give "
            "the backbone token ids."
        )


def _reason(error: BaseException) -> str:
    """Say what failed; what is no failure goes on."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return first_line(error)
