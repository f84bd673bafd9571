"""`load` and `Model`: a loaded model as Python users hold it."""

import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.arguments import checked
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress, resolve_adapter, resolve_checkpoint
from qwen35_mlx.checkpoint.index import weight_bytes
from qwen35_mlx.checkpoint.load import Notice, load_network, print_notice
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.library.home import STATES
from qwen35_mlx.lifetime import Owner
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache
from qwen35_mlx.prompt_cache.fingerprint import of_adapter, of_network, of_weights
from qwen35_mlx.session import memory
from qwen35_mlx.session.encoding import PromptEncoder
from qwen35_mlx.session.events import Done, Reply, TurnEvent
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.session.turn_events import TurnEvents
from qwen35_mlx.text.reply import Answer, PlainParser, ReplyParser
from qwen35_mlx.text.stop import StopStrings
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.template_process import template_process
from qwen35_mlx.text.tokenizer import Tokenizer
from qwen35_mlx.untrusted_json import Fields

END_NAMES = ("<|im_end|>", "<|endoftext|>")
# More characters than text has on average for each token, in any language.
CHARACTERS_PER_TOKEN = 16
# Tokens of encoded messages to remember, in full contexts.
ENCODED_CONTEXTS = 2


@checked
def load(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    context: int | None = None,
    kv_bits: int | None = None,
    adapter_path: str | Path | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> "Model":
    """Load a model from a folder, the Hugging Face Hub ("org/repo") or the package ("demo").

        model = qwen35_mlx.load("demo")

    Args:
        revision: branch, tag or commit on the Hub.
        dtype: "float32", "float16" or "bfloat16"; None for the checkpoint's own, float32 on a CPU.
        context: tokens that prompt and reply may have together; None for the checkpoint's own.
            More than that, up to four times, switches YaRN on.
        kv_bits: 8 quantises keys and values to 8 bits, at a small cost in accuracy; None keeps
            them in the model's dtype.
        adapter_path: a LoRA adapter of PEFT or mlx-lm for this model, a folder or a repository of
            the Hub. Matrices that it changes are plain in memory, also those of a quantised model.
        progress: called with (bytes so far, bytes in all, what) while files are downloaded; by
            default, bars are drawn on stderr.
        notice: called with a line for the user where something is off; by default it goes to
            stderr.

    Raises:
        Qwen35Error: the model is not found, not complete, or not a Qwen3.5 checkpoint; or an
            argument does not fit.
    """
    path = resolve_checkpoint(str(name), revision=revision, progress=progress, notice=notice)
    template_process().start()  # ready by the time that the template has been read
    # Small files first: a broken template should not cost the time to read gigabytes.
    checkpoint = Checkpoint.open(path)
    if adapter_path is not None:
        adapter = resolve_adapter(str(adapter_path), progress)
        checkpoint = checkpoint.with_adapter(adapter)
    files = checkpoint.text
    tokenizer = Tokenizer.from_files(files)
    template = ChatTemplate.from_files(files)
    if template is None:
        (notice or print_notice)(
            f"{name} has no chat template: it cannot chat, only complete text and give logits; "
            "to chat, add the chat_template.jinja of the original checkpoint"
        )
    network = load_network(checkpoint, dtype, notice, context=context)
    return Model(
        str(name),
        path,
        network,
        tokenizer,
        template,
        kv_bits=kv_bits,
        adapter=checkpoint.adapter,
    )


@checked
class Model:
    """A network with its tokenizer and, for chat, its template.

        model = qwen35_mlx.load("demo")
        reply = model.generate([{"role": "user", "content": "What is 17 + 25?"}])
        print(reply.text)

    It belongs to the thread and the process that loaded it, as all MLX arrays do. `close` it after
    use, or use it in a `with` statement, where states are kept on disk; what is still open when
    Python exits is closed then.

    Attributes:
        name: as given to `load`.
        context: tokens that prompt and reply may have together.
        sampling: the defaults of the checkpoint.
        template: None if the checkpoint has none. Then only `complete` and `logits` work.
        kv_bits: as for `load`.
        adapter: the file of the adapter that is applied; None without one.
        states: the prompt cache on disk, from `open_states` to `close`.

    Raises:
        Qwen35Error: from every method: an argument does not fit, or the caller is in another
            thread or a forked process.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        network: Network,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        kv_bits: int | None = None,
        adapter: Path | None = None,
    ):
        self.name = name
        self.adapter = adapter
        self.path = path
        self.network = network
        self.tokenizer = tokenizer
        self.template = template
        self.kv_bits = kv_bits
        self._owner = Owner()
        self.states: DiskSnapshotCache | None = None
        _check_vocabulary(tokenizer, network.config.vocab_size)
        self.context = network.config.max_position_embeddings
        self._weights = weight_bytes(path)
        self._encoder = PromptEncoder(tokenizer, ENCODED_CONTEXTS * self.context)
        generation = read_json_object(path / "generation_config.json")
        self.sampling = Sampling.from_generation_config(generation)
        named = [tokenizer.token_id(name) for name in END_NAMES]
        listed = Fields(generation, "generation_config.json").token_ids("eos_token_id")
        self.eos = frozenset(
            [i for i in named if i is not None] + [*network.config.eos_token_ids, *listed]
        )

    @property
    def owner(self) -> Owner:
        """The thread and the process that loaded it."""
        return self._owner

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait until all states are on disk. Chats that are still open keep theirs in memory."""
        if self.states is not None:
            self.states.close()
            self.states = None

    def make_cache(self) -> Cache:
        """An empty cache for one conversation."""
        self._owner.check("this model")
        return self.network.make_cache(kv_bits=self.kv_bits)

    def open_states(
        self,
        folder: str | Path,
        *,
        budget: int | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> DiskSnapshotCache:
        """The prompt cache on disk. The first call opens it, later ones return the same object.

        Args:
            folder: the library's; the states of all models go into one folder inside it.
            budget, notice: as for `DiskSnapshotCache`.
        """
        if self.states is None:
            weights = of_weights(self.path) + (of_adapter(self.adapter) if self.adapter else "")
            fingerprint = of_network(
                weights, self.network.config, str(self.network.dtype), self.kv_bits
            )
            self.states = DiskSnapshotCache(
                Path(folder) / STATES, fingerprint, budget=budget, notice=notice
            )
            weakref.finalize(self, self.states.finish)
        return self.states

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Next-token logits at every position: ids [T] -> [T, vocab] float32.

        Raises:
            Qwen35Error: no ids, or one that is not in the vocabulary.
        """
        self._owner.check("this model")
        if len(ids) == 0:
            raise Qwen35Error("logits of an empty prompt: give at least one token id")
        hidden = self.network(self.network.token_array(list(ids)), self.make_cache())
        return np.array(self.network.logits(hidden)[0].astype(mx.float32))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Token ids of the prompt for the next reply.

        Raises:
            Qwen35Error: the template rejects the messages, or the prompt fills the context.
        """
        return self._check_length(self.ids(messages, thinking=thinking, tools=tools))

    def ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        reply: bool = True,
    ) -> list[int]:
        """As `render`, but of any length.

        Args:
            reply: whether the prompt ends in the start of a reply.
        """
        self._owner.check("this model")
        return self._encoder.encode(self._render(messages, thinking, tools, reply=reply))

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        thinking: bool | None,
        tools: Sequence[Mapping[str, Any]] | None,
        *,
        reply: bool = True,
    ) -> str:
        """The text of a prompt, in which the strings of messages and tools are quoted.

        Raises:
            Qwen35Error: there is no template, or the text is far too long for the context; before
                memory is taken to encode it.
        """
        if self.template is None:
            raise Qwen35Error(
                f"{self.name} has no chat template, so it cannot chat: add the chat_template.jinja "
                "of the original checkpoint to its folder, or choose another model"
            )
        rendered = self.template.render(
            messages,
            thinking=thinking,
            tools=tools,
            add_generation_prompt=reply,
            control_tokens=self.tokenizer.control_tokens,
        )
        if len(rendered) > self.context * CHARACTERS_PER_TOKEN:
            raise Qwen35Error(
                f"the conversation has {len(rendered):,} characters, far more than this model's "
                f"context of {self.context:,} tokens holds: shorten the message or start a new one"
            )
        return rendered

    def count(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> int:
        """Number of tokens of the prompt for the next reply."""
        return len(self.ids(messages, thinking=thinking, tools=tools))

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

            for event in model.stream([{"role": "user", "content": "Hi"}], max_tokens=100):
                if isinstance(event, qwen35_mlx.Answer):
                    print(event.text, end="", flush=True)

        Args:
            messages: {"role": ..., "content": ...} as chat templates take them.
            max_tokens: the most tokens of the reply; None for all that the context leaves.
            seed: the same seed gives the same reply again, on the same device.
            thinking: whether the model thinks first; None leaves it to the model's template.
            tools: function descriptions in JSON schema.
            stop: strings that end the reply; they do not appear in it.
            sampling: `temperature`, `top_p`, ... in place of the model's defaults: see `Sampling`.

        Raises:
            Qwen35Error: at once, for anything wrong with the arguments or the prompt.
        """
        turn = self.turn(
            messages,
            self.make_cache(),
            max_tokens=max_tokens,
            seed=seed,
            thinking=thinking,
            tools=tools,
            stop=stop,
            sampling=sampling,
        )
        return TurnEvents(turn.run(), self._owner)

    def generate(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        stop: str | Sequence[str] = (),
        **sampling: float | None,
    ) -> Reply:
        """The reply to `messages`, once it is complete. Arguments and errors: `stream`.

        reply = model.generate([{"role": "user", "content": "Hi"}], max_tokens=100)
        print(reply.text, reply.finish_reason)
        """
        turn = self.turn(
            messages,
            self.make_cache(),
            max_tokens=max_tokens,
            seed=seed,
            thinking=thinking,
            tools=tools,
            stop=stop,
            sampling=sampling,
        )
        *_, done = turn.run()
        assert isinstance(done, Done)
        content = turn.content
        return Reply(
            content.text, content.thinking, content.tool_calls, done.usage, done.finish_reason
        )

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        **sampling: float | None,
    ) -> Reply:
        """What follows a raw text, without a chat template.

            print(model.complete("The capital of France is", max_tokens=5).text)

        Args:
            prompt: a text, in which nothing is a control token, or token ids.
            max_tokens, seed, stop, sampling: as for `stream`.

        Returns:
            the completion, with all of its whitespace and tags in `text`.

        Raises:
            Qwen35Error: the prompt is empty, fills the context, or has an id that is not in the
                vocabulary.
        """
        self._owner.check("this model")
        if isinstance(prompt, str):
            if len(prompt) > self.context * CHARACTERS_PER_TOKEN:
                raise Qwen35Error(
                    f"the prompt has {len(prompt):,} characters, far more than this model's "
                    f"context of {self.context:,} tokens holds: shorten it"
                )
            prompt = self.tokenizer.encode(prompt)
        if not 0 < len(prompt) < self.context:
            raise Qwen35Error(
                f"the prompt has {len(prompt):,} tokens: it must have from 1 to "
                f"{self.context - 1:,}, since this model's context is {self.context:,}"
            )
        self.network.token_array(prompt)  # refuses unknown ids before anything is computed
        turn = self._turn(
            list(prompt),
            PlainParser(),
            self.make_cache(),
            max_tokens=max_tokens,
            seed=seed,
            stop=stop,
            sampling=sampling,
        )
        *_, done = turn.run()
        assert isinstance(done, Done)
        text = "".join(event.text for event in turn.reply_events if isinstance(event, Answer))
        return Reply(text, "", (), done.usage, done.finish_reason)

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
        """A turn, not yet started, on the caller's cache. Arguments and errors: `stream`."""
        self._owner.check("this model")
        if not messages:
            raise Qwen35Error("there is no message to reply to: give at least one")
        rendered = self._render(messages, thinking, tools)
        return self._turn(
            self._check_length(self._encoder.encode(rendered)),
            ReplyParser(thinking=ChatTemplate.opens_thinking(rendered), tools=tools),
            cache,
            max_tokens=max_tokens,
            seed=seed,
            stop=stop,
            sampling=sampling or {},
        )

    def _turn(
        self,
        prompt: list[int],
        parser: ReplyParser | PlainParser,
        cache: Cache,
        *,
        max_tokens: int | None,
        seed: int | None,
        stop: str | Sequence[str],
        sampling: Mapping[str, float | None],
    ) -> Turn:
        """A turn on a prompt that fits into the context."""
        room = self.context - len(prompt)
        chunk = memory.chunk_for(
            self.network.config,
            self.network.dtype.size,
            len(prompt),
            self._weights,
            self.kv_bits,
        )
        return Turn(
            network=self.network,
            tokenizer=self.tokenizer,
            cache=cache,
            prompt=prompt,
            parser=parser,
            eos=self.eos,
            sampling=self.sampling.updated(sampling),
            max_tokens=min(max_tokens or room, room),
            chunk=chunk,
            owner=self._owner,
            stop=StopStrings([stop] if isinstance(stop, str) else stop),
            seed=seed,
        )

    def _check_length(self, ids: list[int]) -> list[int]:
        if not ids:
            raise Qwen35Error("the prompt is empty: give at least one message")
        if len(ids) >= self.context:
            raise Qwen35Error(
                f"the conversation has {len(ids):,} tokens, and this model's context is "
                f"{self.context:,}: shorten the message, compact the conversation (its oldest "
                "turns become a summary) or start a new one"
            )
        return ids


def _check_vocabulary(tokenizer: Tokenizer, embeddings: int) -> None:
    """Refuse a tokenizer with tokens that the network has no embedding for."""
    if tokenizer.vocab_size > embeddings:
        last = tokenizer.vocab_size - 1
        raise Qwen35Error(
            f"tokenizer.json has the token {tokenizer.decode([last])!r} with the id {last}, and the"
            f" model has {embeddings:,} embeddings: take both files from one checkpoint"
        )
