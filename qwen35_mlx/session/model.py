"""A loaded model as Python users hold it."""

import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.hub import Progress, resolve
from qwen35_mlx.checkpoint.layouts import Checkpoint
from qwen35_mlx.checkpoint.load import Notice, load_network
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.sampling import Sampling
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network
from qwen35_mlx.session.events import TurnEvent
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.text.reply import ReplyParser
from qwen35_mlx.text.stop import StopStrings
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.tokenizer import Tokenizer

END_NAMES = ("<|im_end|>", "<|endoftext|>")
# Tokens between two progress events, and until a cancel is heard.
GPU_CHUNK, CPU_CHUNK = 2048, 512


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> "Model":
    """A model from a folder, from the Hugging Face Hub ("org/repo") or from the package ("demo").

    Args:
        revision: branch, tag or commit on the Hub.
        dtype: "float32", "float16" or "bfloat16"; None for the checkpoint's own, float32 on a CPU.
        progress: called with (bytes so far, bytes in all, what) while files are downloaded; without
            it bars are drawn on stderr.
        notice: called with a line for the user where something is off; without it on stderr.

    Raises:
        Qwen35Error: not found, not complete, or not a Qwen3.5 checkpoint.
    """
    path = resolve(str(name), revision=revision, progress=progress)
    # Small files first: a missing template should not cost the time to read gigabytes.
    checkpoint = Checkpoint.open(path)
    tokenizer = Tokenizer.from_directory(path)
    template = ChatTemplate.from_directory(path)
    return Model(str(name), path, load_network(checkpoint, dtype, notice), tokenizer, template)


class Model:
    """A network with the text side that belongs to it.

    Belongs to the thread that made it, as all MLX arrays do.

    Attributes:
        name: as it was asked for.
        context: tokens that prompt and reply may have together.
        sampling: the defaults of the checkpoint.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        network: Network,
        tokenizer: Tokenizer,
        template: ChatTemplate,
    ):
        self.name = name
        self.path = path
        self.network = network
        self.tokenizer = tokenizer
        self.template = template
        self.context = network.config.max_position_embeddings
        generation = _generation_config(path)
        self.sampling = Sampling.from_generation_config(generation)
        named = [tokenizer.token_id(name) for name in END_NAMES]
        listed = generation.get("eos_token_id") or []
        self.eos = frozenset(
            [i for i in named if i is not None]
            + list(network.config.eos_token_ids)
            + (listed if isinstance(listed, list) else [listed])
        )

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Next-token logits at every position: ids [T] -> [T, vocab] float32.

        Raises:
            Qwen35Error: no ids, or one that is not in the vocabulary.
        """
        vocab = self.network.config.vocab_size
        if len(ids) == 0:
            raise Qwen35Error("logits of an empty prompt: give at least one token id")
        if bad := [i for i in ids if not 0 <= i < vocab]:
            raise Qwen35Error(f"token id {bad[0]} is not in the vocabulary of {vocab}")
        hidden = self.network(mx.array([list(ids)], dtype=mx.int32), self.network.make_cache())
        return np.array(self.network.logits(hidden)[0].astype(mx.float32))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """The prompt that asks for the next reply, as token ids.

        Raises:
            Qwen35Error: the template refuses the messages, or the prompt fills the context.
        """
        return self._encode(self.template.render(messages, thinking=thinking, tools=tools))

    def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        stop: str | Sequence[str] = (),
        **sampling: float | None,
    ) -> Generator[TurnEvent]:
        """The reply to `messages` as it is written. Stop iterating to cancel.

        Args:
            messages: {"role": ..., "content": ...} as chat templates take them.
            max_tokens: length of the reply; None for whatever the context leaves.
            seed: for the same reply again, on the same device.
            thinking: None leaves it to the model's template.
            tools: function descriptions in JSON schema.
            stop: strings that end the reply; they do not appear in it.
            sampling: `temperature`, `top_p`, ... over the model's defaults: see `Sampling`.

        Raises:
            Qwen35Error: at once, for anything wrong with the arguments or the prompt.
        """
        turn = self.turn(
            messages,
            self.network.make_cache(),
            max_tokens=max_tokens,
            seed=seed,
            thinking=thinking,
            tools=tools,
            stop=stop,
            sampling=sampling,
        )
        return turn.run()

    def turn(
        self,
        messages: Sequence[Mapping[str, Any]],
        cache: Cache,
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        stop: str | Sequence[str] = (),
        sampling: Mapping[str, float | None] | None = None,
    ) -> Turn:
        """A turn on a cache of the caller's. Arguments and errors: `stream`."""
        if not messages:
            raise Qwen35Error("there is no message to reply to: give at least one")
        rendered = self.template.render(messages, thinking=thinking, tools=tools)
        prompt = self._encode(rendered)
        if max_tokens is not None and max_tokens < 1:
            raise Qwen35Error(f"max_tokens is {max_tokens}: it must be 1 or more")
        room = self.context - len(prompt)
        return Turn(
            network=self.network,
            tokenizer=self.tokenizer,
            cache=cache,
            prompt=prompt,
            parser=ReplyParser(thinking=self.template.opens_thinking(rendered), tools=tools),
            eos=self.eos,
            sampling=self.sampling.updated(sampling or {}),
            max_tokens=min(max_tokens or room, room),
            chunk=CPU_CHUNK if mx.default_device() == mx.cpu else GPU_CHUNK,
            stop=StopStrings([stop] if isinstance(stop, str) else stop),
            seed=seed,
        )

    def _encode(self, rendered: str) -> list[int]:
        ids = self.tokenizer.encode(rendered)
        if not ids:
            raise Qwen35Error("the prompt is empty: give at least one message")
        if len(ids) >= self.context:
            raise Qwen35Error(
                f"the conversation has {len(ids):,} tokens, and this model's context is "
                f"{self.context:,}: shorten it or start a new one"
            )
        return ids


def _generation_config(path: Path) -> dict[str, Any]:
    file = path / "generation_config.json"
    if not file.exists():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Qwen35Error(f"{file} cannot be read ({error}): fetch it again") from None
    if not isinstance(config, dict):
        raise Qwen35Error(f"{file} is not a JSON object: fetch it again")
    return config
