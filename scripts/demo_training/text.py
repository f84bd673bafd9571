"""Tokenizer and chat template: messages to text to token ids, and which of them are learned."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from scripts.demo_training.turns import Dialogue, Message
from scripts.demo_training.words import listed

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
SPECIAL = listed(
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>"
)
PLAIN = listed(
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> "
    "<|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>"
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+"
    r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Byte-level BPE with one token per digit; the added tokens are the last of the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(SPLIT), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIAL) - len(PLAIN),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in PLAIN])
    return tokenizer


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids of one conversation; the loss covers ids[i] where `learn[i]` is true."""

    ids: list[int]
    learn: list[bool]


REPLY = re.compile(r"<\|im_start\|>assistant\n(<think>\n(?:\n</think>\n\n)?)?", re.DOTALL)


class ChatFormat:
    """A tokenizer and its chat template."""

    def __init__(self, tokenizer: Tokenizer, template: str | None = None) -> None:
        self.tokenizer = tokenizer
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)

        def fail(message: str) -> None:
            raise jinja2.TemplateError(message)

        environment.globals["raise_exception"] = fail
        self.template = environment.from_string(template or TEMPLATE.read_text())
        self.end = tokenizer.token_to_id("<|im_end|>")

    @classmethod
    def load(cls, folder: Path) -> "ChatFormat":
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json")))

    def render(self, messages: list[Message], **options: Any) -> str:
        return self.template.render(messages=messages, **options)

    def prompt(self, messages: list[Message], thinking: bool, **options: Any) -> list[int]:
        """Ids up to the start of the reply."""
        text = self.render(
            messages, add_generation_prompt=True, enable_thinking=thinking, **options
        )
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def sample(self, dialogue: Dialogue) -> Sample:
        """A sample that learns every assistant turn, including its end token."""
        text = self.render(dialogue.messages, tools=dialogue.tools or None)
        pieces: list[tuple[str, bool]] = []
        at = 0
        while match := REPLY.search(text, at):
            end = text.index("<|im_end|>", match.end()) + len("<|im_end|>")
            pieces += [(text[at : match.end()], False), (text[match.end() : end], True)]
            at = end
        pieces.append((text[at:], False))
        ids: list[int] = []
        learn: list[bool] = []
        for piece, wanted in pieces:
            new = self.tokenizer.encode(piece, add_special_tokens=False).ids
            ids += new
            learn += [wanted] * len(new)
        return Sample(ids, learn)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)


def write_configs(folder: Path, max_length: int) -> None:
    """Write tokenizer_config.json, generation_config.json and the template to `folder`."""
    template = TEMPLATE.read_text()
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    added = {
        str(tokenizer.token_to_id(t)): {
            "content": t, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": t in SPECIAL,
        }
        for t in [*SPECIAL, *PLAIN]
    }  # fmt: skip
    config = {
        "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added,
        "bos_token": None, "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>",
        "errors": "replace", "model_max_length": max_length, "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": None,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    stops = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    generation = {
        "do_sample": True, "eos_token_id": stops, "pad_token_id": stops[1], "temperature": 0.6,
        "top_k": 20, "top_p": 0.95,
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
