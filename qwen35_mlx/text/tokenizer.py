"""Text to token ids and back, with a checkpoint's tokenizer.json.

The `tokenizers` library encodes. Decoding is done here, on bytes: in a byte-level BPE every token
stands for a fixed byte string, so the text of any ids is the UTF-8 decoding of their joined bytes,
and an incremental UTF-8 decoder gives the same text token by token, each in constant time.
(`tokenizers.decoders.DecodeStream` holds back everything after one invalid byte, and has no way to
flush it at the end.)
"""

import codecs
import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType

import tokenizers
import tokenizers.decoders
from tokenizers import normalizers

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import one_line
from qwen35_mlx.text.control_tokens import ControlToken, ControlTokens
from qwen35_mlx.text.text_files import TOKENIZER, TOKENIZER_CONFIG, TextFiles

# A long text is encoded in chunks of at least CHUNK_CHARS characters, in batches of BATCH_CHUNKS.
# That uses all cores, bounds the memory that the library holds for a text's tokens, and gives other
# threads a turn between batches.
CHUNK_CHARS = 1 << 16
BATCH_CHUNKS = 16
# Where a chunk may end: after a line break, before a letter or digit. No token of Qwen's tokenizer
# spans such a boundary. `_PROBES` show whether that is true of the one that was loaded.
_BOUNDARY = re.compile(r"(?<=\n)(?=[^\W_])")
_NORMALIZERS = (NoneType, normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD)
MAX_CONTROL_TOKENS = 2_000  # Qwen3.5 has 33
_PROBES = [f"a{breaks}b" for breaks in ("\n", "\n\n", "\n\n\n", " \n", "\r\n", ".\n\n", "\t \n \n")]


class Tokenizer:
    """A byte-level BPE tokenizer: `encode` and `decode` between text and ids.

    Ids without a token (a model's embedding is padded beyond its vocabulary) decode to "".

    Attributes:
        vocab_size: the largest id + 1, with added tokens. The model's `vocab_size` is padded, and
            so may be larger.
        control_tokens: the added tokens that are special or written like a tag.
    """

    vocab_size: int

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        # A limit saved in tokenizer.json would silently truncate long prompts.
        backend.no_truncation()
        backend.no_padding()
        self.control_tokens = _take_control_tokens(backend)
        self._backend = backend
        # Without this, a process forked after the library has used threads gets a warning on
        # stderr, in the middle of the chat's screen.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        self._can_chunk = False
        self._can_chunk = all(self.encodes_separately(_BOUNDARY.split(text)) for text in _PROBES)
        self.vocab_size = max(self.vocabulary().values(), default=-1) + 1

    @classmethod
    def from_files(cls, files: TextFiles) -> "Tokenizer":
        """The tokenizer of a checkpoint, with the tokens that only tokenizer_config.json lists.

        Raises:
            Qwen35Error: it is missing, unreadable, or not a byte-level tokenizer.
        """
        if files.tokenizer is None:
            raise Qwen35Error(_missing_message(files.path))
        name = files.where(TOKENIZER)
        problem = f"{name} is not a tokenizer that tokenizers {tokenizers.__version__} reads"
        with _guarded(problem, "download it again, or upgrade `tokenizers`"):
            backend = tokenizers.Tokenizer.from_str(files.tokenizer)
        if not isinstance(backend.decoder, tokenizers.decoders.ByteLevel):
            found = type(backend.decoder).__name__
            raise Qwen35Error(
                f"{name} has the decoder {found} instead of ByteLevel: is this a Qwen3.5"
                " checkpoint?"
            )
        with _guarded(f"{name} cannot be used", "download it again"):
            _check_normalizer(backend, name)
            _add_configured_tokens(backend, files)
            return cls(backend)

    def vocabulary(self) -> dict[str, int]:
        """The id of every token, with added tokens."""
        return self._backend.get_vocab(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """The ids of a text. It becomes no control token, whatever it holds.

        Lone surrogates, which UTF-8 cannot encode, become U+FFFD.
        """
        return self._encode_parts([text])

    def encode_prompt(self, rendered: str) -> list[int]:
        """The ids of a rendered prompt, in which the strings of messages are quoted.

        Control tokens that the template wrote become their ids. See `ControlTokens`.
        """
        return self._encode_parts(self.control_tokens.split(rendered))

    def encodes_separately(self, parts: Sequence[str]) -> bool:
        """Whether the ids of parts of a prompt, one after the other, are those of the whole."""
        apart = [i for part in parts for i in self._encode_parts(self.control_tokens.split(part))]
        return apart == self.encode_prompt("".join(parts))

    def _encode_parts(self, parts: Iterable[str | int]) -> list[int]:
        """The ids of texts and of control tokens, one after the other."""
        ids: list[int] = []
        for batch in _batches(self._pieces(parts)):
            encoded = iter(self._encode_batch([piece for piece in batch if isinstance(piece, str)]))
            for piece in batch:
                ids += next(encoded) if isinstance(piece, str) else [piece]
        return ids

    def _pieces(self, parts: Iterable[str | int]) -> Iterator[str | int]:
        """The parts with the texts cut into chunks."""
        for part in parts:
            if isinstance(part, str):
                yield from _chunks(_replace_surrogates(part)) if self._can_chunk else [part]
            else:
                yield part

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text.

        Raises:
            Qwen35Error: the tokenizer fails, or spells a text with control tokens.
        """
        with _guarded("the tokenizer fails on a text", "download tokenizer.json again"):
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        if any(not self.control_tokens.ids.isdisjoint(one) for one in ids):
            raise Qwen35Error(
                "the tokenizer spells plain text with control tokens: take the tokenizer.json of"
                " the original checkpoint"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, with special tokens; invalid UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_id(self, name: str) -> int | None:
        """The id of a token such as "<|im_end|>"; None if there is no such token."""
        return self._backend.token_to_id(name)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token; b"" for an id outside the vocabulary."""
        if not 0 <= token_id < self.vocab_size:
            return b""
        name = self._backend.id_to_token(token_id)
        if name is None:
            return b""
        try:
            return bytes(map(_BYTE_OF.__getitem__, name))
        except KeyError:  # an added token is stored as plain text, not in the byte alphabet
            return name.encode()

    def stream(self) -> "StreamDecoder":
        """A decoder for ids that arrive one at a time."""
        return StreamDecoder(self)


class StreamDecoder:
    """Decodes ids as they arrive, each at a cost that does not depend on the text before it.

    For any ids, the results of `push` and `flush` joined equal `Tokenizer.decode` of all ids. A
    character (code point) is returned whole, with the token that completes it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def incomplete(self) -> bool:
        """Whether the last character lacks some of its bytes."""
        return bool(self._utf8.getstate()[0])

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; "" while a character is incomplete."""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """U+FFFD for an incomplete character, else "". The decoder can then start a new text."""
        return self._utf8.decode(b"", final=True)


@contextmanager
def _guarded(problem: str, advice: str) -> Generator[None]:
    """Turn any error of the `tokenizers` library into a `Qwen35Error`.

    It raises bare `Exception`, and a panic of its Rust code is no `Exception` at all.
    """
    try:
        yield
    except (Qwen35Error, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise Qwen35Error(f"{problem} ({one_line(error)}): {advice}") from None


def _check_normalizer(backend: tokenizers.Tokenizer, file: str) -> None:
    """Refuse a normaliser other than Unicode's: one that replaces text could make it endless."""
    if not isinstance(backend.normalizer, _NORMALIZERS):
        raise Qwen35Error(
            f"{file} has the normaliser {type(backend.normalizer).__name__}, and Qwen3.5 has NFC:"
            " take the tokenizer.json of the original checkpoint"
        )


def _take_control_tokens(backend: tokenizers.Tokenizer) -> ControlTokens:
    """The control tokens of `backend`, which takes them for plain text from now on.

    An added word, such as a name that a fine-tune has given one token, stays a token of the text.
    """
    added = backend.get_added_tokens_decoder()
    control = {i: token for i, token in added.items() if token.special or _is_tag(token.content)}
    if len(control) > MAX_CONTROL_TOKENS:
        raise Qwen35Error(
            f"the tokenizer has {len(control):,} special tokens, and at most {MAX_CONTROL_TOKENS:,}"
            " are supported: take the tokenizer.json of the original checkpoint"
        )
    # `encode_special_tokens` is about tokens that are marked as special; Qwen's <think> is not.
    for token in control.values():
        token.special = True
    backend.add_special_tokens(list(control.values()))
    backend.encode_special_tokens = True
    return ControlTokens(
        ControlToken(token.content, i, token.lstrip, token.rstrip)
        for i, token in control.items()
        if token.content
    )


def _is_tag(text: str) -> bool:
    """Whether a token is written like `<think>` or `[INST]`."""
    return (text[:1], text[-1:]) in (("<", ">"), ("[", "]"))


def _replace_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def _batches(pieces: Iterable[str | int]) -> Iterator[list[str | int]]:
    """The pieces in batches, each with about `BATCH_CHUNKS` chunks of text."""
    batch: list[str | int] = []
    length = 0
    for piece in pieces:
        batch.append(piece)
        length += len(piece) if isinstance(piece, str) else 0
        if length >= BATCH_CHUNKS * CHUNK_CHARS:
            yield batch
            batch, length = [], 0
    yield batch


def _chunks(text: str) -> Iterator[str]:
    """`text` in chunks of at least `CHUNK_CHARS` characters, the last may be shorter."""
    start = 0
    while start < len(text):
        boundary = _BOUNDARY.search(text, start + CHUNK_CHARS)
        stop = boundary.start() if boundary else len(text)
        yield text[start:stop]
        start = stop


def _byte_alphabet() -> dict[str, int]:
    """The alphabet of byte-level BPE, character -> byte.

    A printable Latin-1 byte is written as itself, the others, in order, as U+0100 and following.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update((chr(0x100 + rank), byte) for rank, byte in enumerate(others))
    return alphabet


_BYTE_OF = _byte_alphabet()


def _add_configured_tokens(backend: tokenizers.Tokenizer, files: TextFiles) -> None:
    """Add tokens of `added_tokens_decoder` in tokenizer_config.json that tokenizer.json lacks."""
    config_file = files.where(TOKENIZER_CONFIG)
    entries = files.tokenizer_config.get("added_tokens_decoder") or {}
    try:
        by_id = sorted((int(key), dict(entry)) for key, entry in entries.items())
        missing = [
            (token_id, entry)
            for token_id, entry in by_id
            if backend.token_to_id(entry["content"]) is None
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Qwen35Error(
            f"{config_file} has an 'added_tokens_decoder' that is not id -> token: download it"
            " again"
        ) from error
    backend.add_tokens(
        [
            tokenizers.AddedToken(
                entry["content"],
                special=bool(entry.get("special", False)),
                normalized=bool(entry.get("normalized", False)),
            )
            for _, entry in missing
        ]
    )
    for token_id, entry in missing:
        added_id = backend.token_to_id(entry["content"])
        if added_id != token_id:
            raise Qwen35Error(
                f"{config_file} gives {shown(entry['content'])} the id {token_id}, which does not"
                f" follow tokenizer.json (next id {added_id}): take both files from one checkpoint"
            )


def _missing_message(path: Path) -> str:
    if not path.is_dir():
        return f"{path} is not a directory: give the folder that holds tokenizer.json"
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return (
            f"{path} has vocab.json and merges.txt but no tokenizer.json: add the tokenizer.json"
            " of the original checkpoint"
        )
    return f"{path} has no tokenizer.json: add the one of the original checkpoint"
