"""Text to token ids and back, from a checkpoint's tokenizer.json.

Encoding is left to the `tokenizers` library. Decoding is done here, on bytes: in a byte-level BPE
every token stands for a fixed byte string, so the text of any ids is the UTF-8 decoding of their
bytes joined, and an incremental UTF-8 decoder gives the same text token by token, in constant time.
(`tokenizers.decoders.DecodeStream` holds everything back after one invalid byte, and what it holds
cannot be asked for at the end.)
"""

import codecs
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers
import tokenizers.decoders

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line, read_json_object, read_text

# Long texts are encoded in pieces of at least so many characters, some of them at once: on all
# cores, without what the library keeps of each token until a text is done, and with pauses in which
# other threads may run.
PIECE = 1 << 16
AT_ONCE = 16
# Where a piece may end. No token of Qwen's reaches over it: line breaks end one, and a letter or
# digit that follows begins one. Whether it is so here, `CUTS` tell.
_CUT = re.compile(r"(?<=\n)(?=[^\W_])")
CUTS = [f"a{breaks}b" for breaks in ("\n", "\n\n", "\n\n\n", " \n", "\r\n", ".\n\n", "\t \n \n")]


class Tokenizer:
    """A byte-level BPE tokenizer: `encode` and `decode` between text and ids.

    Ids that name no token (a model's embedding is padded beyond its vocabulary) decode to "".
    """

    vocab_size: int
    """Largest id + 1, added tokens included. Smaller than the model's padded `vocab_size`."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        # A saved limit would cut long prompts without a word.
        backend.no_truncation()
        backend.no_padding()
        # Rendered prompts write their special tokens as text.
        backend.encode_special_tokens = False
        self._backend = backend
        # Else the library warns on stderr, which is the chat's screen, in a process that is started
        # after it has used several threads.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        self._may_cut = all(self.separable(_CUT.split(text)) for text in CUTS)
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @classmethod
    def from_directory(cls, path: Path) -> "Tokenizer":
        """Load `path`/tokenizer.json, plus tokens that only tokenizer_config.json lists.

        Raises Qwen35Error when the file is missing, unreadable, or not a byte-level tokenizer.
        """
        file = path / "tokenizer.json"
        if not file.is_file():
            raise Qwen35Error(_missing(path))
        source = read_text(file)
        try:
            backend = tokenizers.Tokenizer.from_str(source)
        except Exception as error:  # the library raises bare Exception
            raise Qwen35Error(
                f"{file} is not a tokenizer that tokenizers {tokenizers.__version__} reads"
                f" ({one_line(error)}): download it again, or upgrade `tokenizers`"
            ) from error
        if not isinstance(backend.decoder, tokenizers.decoders.ByteLevel):
            kind = type(backend.decoder).__name__
            raise Qwen35Error(
                f"{file} has the decoder {kind} instead of ByteLevel: is this a Qwen3.5 checkpoint?"
            )
        _add_configured_tokens(backend, path / "tokenizer_config.json")
        return cls(backend)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. Special tokens written in it become their ids; none are added.

        Lone surrogates, which no UTF-8 has, become U+FFFD.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            text = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
        pieces = list(_pieces(text)) if self._may_cut else [text]
        ids: list[int] = []
        for start in range(0, len(pieces), AT_ONCE):
            ids += self._encoded(pieces[start : start + AT_ONCE])
        return ids

    def separable(self, parts: Sequence[str]) -> bool:
        """Whether these may be encoded one by one: no token reaches from one into the next."""
        return self._encoded(parts) == self._encoded(["".join(parts)])

    def _encoded(self, pieces: Sequence[str]) -> list[int]:
        """The ids of all of them, one after the other."""
        encoded = self._backend.encode_batch_fast(pieces, add_special_tokens=False)
        return [i for one in encoded for i in one.ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included; broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_id(self, name: str) -> int | None:
        """The id of the token written `name`, such as "<|im_end|>"; None when there is none."""
        return self._backend.token_to_id(name)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for; b"" for an id outside the vocabulary."""
        if not 0 <= token_id < self.vocab_size:
            return b""
        name = self._backend.id_to_token(token_id)
        if name is None:
            return b""
        try:
            return bytes(map(_BYTE_OF.__getitem__, name))
        except KeyError:  # an added token is plain text, not written in the byte alphabet
            return name.encode()

    def stream(self) -> "StreamDecoder":
        """A decoder for ids that arrive one at a time."""
        return StreamDecoder(self)


class StreamDecoder:
    """Decodes ids as they arrive, at a cost that does not grow with the text before them.

    The joined `push` results and `flush` equal `Tokenizer.decode` of all ids, for any ids. A
    character (code point) is given out whole, with the token that completes it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that `token_id` makes certain; "" while a character is incomplete."""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """What remains: U+FFFD for an incomplete character, else "". Ready for a new text then."""
        return self._utf8.decode(b"", final=True)


def _pieces(text: str) -> Iterator[str]:
    """`text` in pieces of `PIECE` characters and more, cut where `_CUT` allows."""
    start = 0
    while start < len(text):
        cut = _CUT.search(text, start + PIECE)
        stop = cut.start() if cut else len(text)
        yield text[start:stop]
        start = stop


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's alphabet, character -> byte: printable Latin-1 bytes stand for themselves,
    the others, in order, for the characters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update((chr(0x100 + rank), byte) for rank, byte in enumerate(others))
    return alphabet


_BYTE_OF = _byte_alphabet()


def _add_configured_tokens(backend: tokenizers.Tokenizer, config_file: Path) -> None:
    """Add what tokenizer_config.json's `added_tokens_decoder` has and tokenizer.json has not."""
    listed = read_json_object(config_file).get("added_tokens_decoder") or {}
    try:
        wanted = sorted((int(key), dict(entry)) for key, entry in listed.items())
        missing = [
            (token_id, entry)
            for token_id, entry in wanted
            if backend.token_to_id(entry["content"]) is None
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Qwen35Error(
            f"{config_file} has an 'added_tokens_decoder' that is not id -> token: download it"
            " again"
        ) from error
    for token_id, entry in missing:
        token = tokenizers.AddedToken(
            entry["content"],
            special=bool(entry.get("special", False)),
            normalized=bool(entry.get("normalized", False)),
        )
        backend.add_tokens([token])
        given = backend.token_to_id(entry["content"])
        if given != token_id:
            raise Qwen35Error(
                f"{config_file} gives {entry['content']!r} the id {token_id}, which does not"
                f" follow tokenizer.json (next id {given}): take both files from one checkpoint"
            )


def _missing(path: Path) -> str:
    if not path.is_dir():
        return f"{path} is not a directory: give the folder that holds tokenizer.json"
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return (
            f"{path} has vocab.json and merges.txt but no tokenizer.json: add the tokenizer.json"
            " of the original checkpoint"
        )
    return f"{path} has no tokenizer.json: add the one of the original checkpoint"
