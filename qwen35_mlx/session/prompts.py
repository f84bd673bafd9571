"""From messages or a raw text to token ids that fit into a model's context."""

from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error, TooLongError
from qwen35_mlx.session.encoding import PromptEncoder
from qwen35_mlx.session.reply_options import ReplyOptions
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.tokenizer import Tokenizer
from qwen35_mlx.untrusted_json import Fields

END_NAMES = ("<|im_end|>", "<|endoftext|>")
# More characters than text has on average for each token, in any language.
CHARACTERS_PER_TOKEN = 16
# Tokens of encoded messages to remember, in full contexts.
ENCODED_CONTEXTS = 2


class Prompts:
    """The prompts of one model.

    Args:
        name: of the model, for error lines.
        template: None if the model has none.
        context: tokens that prompt and reply may have together.
    """

    def __init__(
        self, name: str, tokenizer: Tokenizer, template: ChatTemplate | None, context: int
    ):
        self._name = name
        self._tokenizer = tokenizer
        self._template = template
        self._context = context
        self._encoder = PromptEncoder(tokenizer, ENCODED_CONTEXTS * context)

    def encode(self, rendered: str) -> list[int]:
        """The ids of what `render` returns."""
        return self._encoder.encode(rendered)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: ReplyOptions,
        *,
        reply: bool = True,
    ) -> str:
        """The text of a prompt, in which the strings of messages and tools are quoted.

        Args:
            reply: whether it ends in the start of a reply.

        Raises:
            Qwen35Error: there is no template, or the text is far too long for the context; before
                memory is taken to encode it.
        """
        if self._template is None:
            raise Qwen35Error(
                f"{self._name} has no chat template, so it cannot chat: add the chat_template.jinja"
                " of the original checkpoint to its folder, or choose another model"
            )
        rendered = self._template.render(
            messages,
            thinking=options.thinking,
            tools=options.tools,
            arguments=options.template_arguments,
            add_generation_prompt=reply,
            control_tokens=self._tokenizer.control_tokens,
        )
        if len(rendered) > self._context * CHARACTERS_PER_TOKEN:
            raise TooLongError(
                f"the conversation has {len(rendered):,} characters, far more than this model's "
                f"context of {self._context:,} tokens holds: shorten the message or start a new one"
            )
        return rendered

    def check_length(self, ids: list[int]) -> list[int]:
        """The ids of a conversation, if they leave room for a reply.

        Raises:
            Qwen35Error: there are none, or they fill the context.
        """
        if not ids:
            raise Qwen35Error("the prompt is empty: give at least one message")
        if len(ids) >= self._context:
            raise TooLongError(
                f"the conversation has {len(ids):,} tokens, and this model's context is "
                f"{self._context:,}: shorten the message, compact the conversation (its oldest "
                "turns become a summary) or start a new one"
            )
        return ids

    def raw(self, prompt: str | Sequence[int]) -> list[int]:
        """The ids of a raw text, in which nothing is a control token, or ids as they are.

        Raises:
            Qwen35Error: there are none, or they fill the context.
        """
        if isinstance(prompt, str):
            if len(prompt) > self._context * CHARACTERS_PER_TOKEN:
                raise TooLongError(
                    f"the prompt has {len(prompt):,} characters, far more than this model's "
                    f"context of {self._context:,} tokens holds: shorten it"
                )
            prompt = self._tokenizer.encode(prompt)
        if not 0 < len(prompt) < self._context:
            raise (TooLongError if prompt else Qwen35Error)(
                f"the prompt has {len(prompt):,} tokens: it must have from 1 to "
                f"{self._context - 1:,}, since this model's context is {self._context:,}"
            )
        return list(prompt)


def check_vocabulary(tokenizer: Tokenizer, embeddings: int) -> None:
    """Refuse a tokenizer with tokens that the network has no embedding for."""
    if tokenizer.vocab_size > embeddings:
        last = tokenizer.vocab_size - 1
        raise Qwen35Error(
            f"tokenizer.json has the token {tokenizer.decode([last])!r} with the id {last}, and the"
            f" model has {embeddings:,} embeddings: take both files from one checkpoint"
        )


def end_tokens(
    tokenizer: Tokenizer, config: Sequence[int], generation: Mapping[str, Any]
) -> frozenset[int]:
    """Ids that end a reply: by name, of config.json, and of generation_config.json."""
    named = [tokenizer.token_id(name) for name in END_NAMES]
    listed = Fields(generation, "generation_config.json").token_ids("eos_token_id")
    return frozenset([i for i in named if i is not None] + [*config, *listed])
