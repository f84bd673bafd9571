"""Encoding, decoding and streaming, on a tiny byte-level BPE."""

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, normalizers
from tokenizers.pre_tokenizers import ByteLevel

import qwen35_mlx
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text import tokenizer as module
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.text.tokenizer import Tokenizer

DEMO = Path(qwen35_mlx.__file__).parent / "demo"

TEXTS = [
    "",
    "plain words, and  two spaces \n\n\tand a tab",
    "Grüße, naïve café: é and e\u0301",
    "你好,世界。今日は良い天気です。안녕",
    "😀 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪",
    "\ufeffbyte order mark, \ufffd replacement, \x00 nul, \u2028 separator",
    "<|im_start|>user\nHi<|im_end|>\n<think>\n\n</think>\n\n<tool_call>",
]


def streamed(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    stream = tokenizer.stream()
    return "".join([stream.push(token_id) for token_id in ids]) + stream.flush()


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_restores_encoded_text(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert streamed(tokenizer, ids) == text


ALPHABET = [*"ab1_ .,'\t\u00a0\u2028{é中\u0301한", "\n", "\n", "\r\n", "'s", "<|im_end|>", "😀"]


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_a_text_in_chunks_has_the_ids_of_the_whole(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CHUNK_CHARS", chunk)
    monkeypatch.setattr(module, "BATCH_CHUNKS", 3)
    demo = Tokenizer.from_files(TextFiles.from_folder(DEMO))
    assert demo._can_chunk
    backend = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    rng = random.Random(chunk)
    boundaries = 0
    for _ in range(300):
        text = "".join(rng.choices(ALPHABET, k=rng.randrange(60)))
        assert demo.encode_prompt(text) == backend.encode(text, add_special_tokens=False).ids
        boundaries += len(list(module._chunks(text))) - 1
    assert boundaries > 100


def test_a_tokenizer_with_tokens_across_line_breaks_encodes_whole_texts(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(module, "CHUNK_CHARS", 1)
    alphabet = {c: i for i, c in enumerate(["a", "b", "\u010a", "\u010ab"])}
    backend = tokenizers.Tokenizer(models.BPE(alphabet, [("\u010a", "b")]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    assert Tokenizer(backend).encode("a\nb") == [0, 3]


def test_control_tokens_in_a_prompt_become_their_ids(tokenizer: Tokenizer):
    start, end = tokenizer.token_id("<|im_start|>"), tokenizer.token_id("<|im_end|>")
    ids = tokenizer.encode_prompt("<|im_start|>x<|im_end|>")
    assert (ids[0], ids[-1]) == (start, end)
    assert len(ids) == 3


def test_the_id_of_an_unknown_token_is_none(tokenizer: Tokenizer):
    assert tokenizer.token_id("<|no such token|>") is None


def test_vocab_size_is_the_largest_id_plus_one(tokenizer: Tokenizer):
    late = tokenizer.token_id("<|late|>")
    assert late is not None
    assert tokenizer.vocab_size == late + 1


def test_a_token_that_is_only_in_tokenizer_config(tokenizer: Tokenizer):
    assert tokenizer.encode_prompt("<|late|>") == [tokenizer.token_id("<|late|>")]
    assert tokenizer.decode([tokenizer.vocab_size - 1]) == "<|late|>"


@pytest.mark.parametrize("token_id", [-1, 10**6, 2**32, 2**70])
def test_an_id_outside_the_vocabulary_is_empty(tokenizer: Tokenizer, token_id: int):
    assert tokenizer.decode([token_id]) == ""
    assert streamed(tokenizer, [*tokenizer.encode("a"), token_id]) == "a"


def test_a_lone_surrogate_is_encoded_as_the_replacement_character(tokenizer: Tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"


def test_decoding_agrees_with_the_library_on_every_token(
    tokenizer: Tokenizer, backend: tokenizers.Tokenizer
):
    for token_id in range(backend.get_vocab_size()):
        expected = backend.decode([token_id], skip_special_tokens=False)
        assert tokenizer.decode([token_id]) == expected


@pytest.mark.parametrize("seed", range(300))
def test_stream_equals_decode_equals_library_for_random_ids(
    tokenizer: Tokenizer, backend: tokenizers.Tokenizer, seed: int
):
    """Half the sequences are random ids, mostly invalid UTF-8; half are texts with errors."""
    draw = random.Random(seed)
    size = backend.get_vocab_size()
    ids = draw.choices(range(size), k=draw.randrange(40))
    if seed % 2:
        ids = tokenizer.encode("".join(draw.sample(TEXTS, 3)))
        for _ in range(draw.randrange(4)):
            at = draw.randrange(len(ids))
            ids[at : at + draw.randrange(2)] = [draw.randrange(size)]
    expected = backend.decode(ids, skip_special_tokens=False)
    assert tokenizer.decode(ids) == expected
    assert streamed(tokenizer, ids) == expected


def test_a_stream_returns_a_character_with_its_last_byte(tokenizer: Tokenizer):
    stream = tokenizer.stream()
    assert [stream.push(i) for i in byte_ids(tokenizer, "a😀b")] == ["a", "", "", "", "😀", "b"]
    assert stream.flush() == ""


def test_a_stream_replaces_an_incomplete_character_at_the_next_token(tokenizer: Tokenizer):
    half = byte_ids(tokenizer, "😀")[:2]
    stream = tokenizer.stream()
    end = tokenizer.token_id("<|im_end|>")
    assert end is not None
    assert [stream.push(i) for i in [*half, end]] == ["", "", "\ufffd<|im_end|>"]


def test_flush_replaces_an_incomplete_character_and_starts_over(tokenizer: Tokenizer):
    stream = tokenizer.stream()
    for token_id in byte_ids(tokenizer, "😀")[:3]:
        assert stream.push(token_id) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""
    assert stream.push(byte_ids(tokenizer, "x")[0]) == "x"


def byte_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """One token per byte of `text`, without merges."""
    single = {tokenizer.token_bytes(i): i for i in reversed(range(tokenizer.vocab_size))}
    return [single[bytes([byte])] for byte in text.encode()]


def test_a_saved_truncation_is_ignored(tmp_path: Path, backend: tokenizers.Tokenizer):
    limited = tokenizers.Tokenizer.from_str(backend.to_str())
    limited.enable_truncation(4)
    limited.enable_padding(length=64)
    limited.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_files(TextFiles.from_folder(tmp_path))
    assert len(tokenizer.encode("one two three four five six seven")) > 4
    assert len(tokenizer.encode("a")) == 1


def error_of(path: Path) -> str:
    with pytest.raises(Qwen35Error) as caught:
        Tokenizer.from_files(TextFiles.from_folder(path))
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def test_error_names_a_missing_directory(tmp_path: Path):
    assert "not a directory" in error_of(tmp_path / "nowhere")


def test_error_names_a_missing_tokenizer_json(tmp_path: Path):
    assert "has no tokenizer.json" in error_of(tmp_path)


def test_error_for_the_slow_format(tmp_path: Path):
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    assert "vocab.json and merges.txt but no tokenizer.json" in error_of(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"version https://git-lfs", b"\xff\xfe{"])
def test_error_for_an_unreadable_tokenizer_json(tmp_path: Path, content: bytes):
    (tmp_path / "tokenizer.json").write_bytes(content)
    assert "download it again" in error_of(tmp_path)


def test_error_for_a_tokenizer_that_is_not_byte_level(tmp_path: Path):
    tokenizers.Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    assert "has the decoder NoneType instead of ByteLevel" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "does not hold a JSON object"),
        ('{"added_tokens_decoder": {"x": {}}}', "not id -> token"),
        ('{"added_tokens_decoder": [1]}', "not id -> token"),
        ('{"added_tokens_decoder": {"9999": {"content": "<|far|>"}}}', "'<|far|>' the id 9999"),
    ],
)
def test_error_for_a_bad_tokenizer_config(
    tmp_path: Path, backend: tokenizers.Tokenizer, config: str, words: str
):
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(config)
    assert words in error_of(tmp_path)


def test_tokenizer_config_may_be_missing(tmp_path: Path, backend: tokenizers.Tokenizer):
    backend.save(str(tmp_path / "tokenizer.json"))
    assert (
        Tokenizer.from_files(TextFiles.from_folder(tmp_path)).vocab_size == backend.get_vocab_size()
    )


class PanicException(BaseException):
    """As the Rust code of `tokenizers` raises where it panics: no `Exception`."""


class Panics:
    def __init__(self, backend: tokenizers.Tokenizer):
        self.backend = backend

    def encode_batch_fast(self, *_args: object, **_options: object) -> None:
        raise PanicException("index out\nof bounds")


def test_a_panic_of_the_library_is_an_error_of_one_line(tokenizer: Tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "_backend", Panics(tokenizer._backend))
    with pytest.raises(Qwen35Error, match=r"fails on a text \(index out of bounds\)"):
        tokenizer.encode("a")


def test_a_panic_while_loading_is_an_error_of_one_line(checkpoint: Path, monkeypatch):
    def panic(_: str) -> None:
        raise PanicException("no entry found for key")

    monkeypatch.setattr(tokenizers.Tokenizer, "from_str", panic)
    with pytest.raises(Qwen35Error, match="no entry found for key"):
        Tokenizer.from_files(TextFiles.from_folder(checkpoint))


def test_a_normaliser_that_replaces_text_is_refused(checkpoint: Path, tmp_path: Path):
    backend = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    backend.normalizer = normalizers.Sequence([normalizers.Replace("i", "i" * 100)] * 4)
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Qwen35Error, match="has the normaliser Sequence"):
        Tokenizer.from_files(TextFiles.from_folder(tmp_path))


def test_more_control_tokens_than_any_model_has_are_refused(checkpoint: Path, tmp_path: Path):
    backend = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    backend.add_special_tokens([f"<{number}>" for number in range(2_001)])
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Qwen35Error, match="at most 2,000"):
        Tokenizer.from_files(TextFiles.from_folder(tmp_path))


def test_a_pipe_in_place_of_the_file_is_named(tmp_path: Path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(Qwen35Error, match="not a regular file"):
        Tokenizer.from_files(TextFiles.from_folder(tmp_path))
