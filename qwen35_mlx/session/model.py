"""`Model`: a loaded model as Python users hold it."""

import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Unpack

import mlx.core as mx
import numpy as np

from qwen35_mlx.arguments import checked
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.distributed.leader import LeadingNetwork
from qwen35_mlx.distributed.states import LeadingStates
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.drafter import CPU_HOPEFUL, HOPEFUL, Drafter, PassCosts
from qwen35_mlx.generation.drafts import CopyDrafts, MTPDrafts
from qwen35_mlx.generation.grammar import Grammar, GrammarVocabulary
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.library.home import STATES
from qwen35_mlx.lifetime import Owner
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.memory import largest_part, weight_bytes
from qwen35_mlx.model.network import Network
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache
from qwen35_mlx.prompt_cache.fingerprint import of_checkpoint, of_network
from qwen35_mlx.prompt_cache.snapshots import common_prefix_length
from qwen35_mlx.session import memory
from qwen35_mlx.session.events import Reply, TurnEvent
from qwen35_mlx.session.prompts import Prompts, check_vocabulary, end_tokens
from qwen35_mlx.session.reply_options import (
    CompletionArguments,
    PromptArguments,
    ReplyArguments,
    ReplyOptions,
)
from qwen35_mlx.session.reply_start import ReplyStart
from qwen35_mlx.session.response_format import reply_content
from qwen35_mlx.session.thinking_budget import ThinkingBudget
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.session.turn_events import TurnEvents
from qwen35_mlx.text.reply import THINK_CLOSE, Answer, PlainParser, ReplyParser
from qwen35_mlx.text.reply_end import ReplyEnd
from qwen35_mlx.text.reply_grammar import ReplyContent, reply_grammar
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.tokenizer import Tokenizer


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
        path, files: of its checkpoint, and of the weights in it.
        context: tokens that prompt and reply may have together.
        weight_bytes: of its weights in memory; of several processes, in the one with most.
        memory: bytes that a process may take; None for what this machine gives.
        whole_bytes: the same with those in other processes that run it, too.
        sampling: the defaults of the checkpoint.
        template: None if the checkpoint has none. Then only `complete` and `logits` work.
        largest_part: sizes of the network; of several processes, of the largest part.
        kv_bits, mtp: as for `load`.
        adapter: the file of the adapter that is applied; None without one.
        states: the prompt caches on disk by their folder, from `open_states` to `close`.
        arguments_left_out: template arguments of settings of which a notice has been given.

    Raises:
        Qwen35Error: from every method: an argument does not fit, or the caller is in another
            thread or a forked process.
    """

    def __init__(
        self,
        name: str,
        checkpoint: Checkpoint,
        network: Network,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        kv_bits: int | None = None,
        mtp: str | int = "auto",
    ):
        self.name = name
        self.memory = network.limit if isinstance(network, LeadingNetwork) else None
        self.mtp = mtp
        self._costs = PassCosts(CPU_HOPEFUL if mx.default_device() == mx.cpu else HOPEFUL)
        self.adapter = checkpoint.adapter
        self.path, self.files = checkpoint.path, checkpoint.files
        self.network = network
        self.tokenizer = tokenizer
        self.template = template
        self.kv_bits = kv_bits
        self._owner = Owner()
        self.arguments_left_out: set[str] = set()
        self.states: dict[Path, DiskSnapshotCache] = {}
        check_vocabulary(tokenizer, network.config.vocab_size)
        self.context = network.config.max_position_embeddings
        # Of the network in all processes.
        self._whole = checkpoint.model.with_context(self.context)
        self.whole_bytes = checkpoint.nbytes
        self.largest_part = network.config
        if (shard := network.config.shard) is not None and shard.pipeline:
            self.largest_part = largest_part(self._whole, shard)
        self.weight_bytes = weight_bytes(checkpoint.nbytes, self._whole, self.largest_part)
        self._prompts = Prompts(name, tokenizer, template, self.context)
        generation = checkpoint.text.generation_config
        self.sampling = Sampling.from_generation_config(generation)
        self.eos = end_tokens(tokenizer, network.config.eos_token_ids, generation)

    @property
    def owner(self) -> Owner:
        """The thread and the process that loaded it."""
        return self._owner

    @property
    def template_arguments(self) -> tuple[str, ...]:
        """Names of the variables that its template reads, for `template_arguments` of replies."""
        return () if self.template is None else self.template.arguments

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait until all states are on disk. Chats that are still open keep theirs in memory."""
        for states in self.states.values():
            states.close()
        self.states.clear()

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
        """The prompt cache of a library on disk. Later calls return what the first one opened.

        Args:
            folder: the library's; the states of all models go into one folder inside it.
            budget, notice: as for `DiskSnapshotCache`.
        """
        place = Path(folder).resolve() / STATES
        if (states := self.states.get(place)) is not None:
            return states
        weights = of_checkpoint(self.files, self.adapter)
        fingerprint = of_network(weights, self._whole, str(self.network.dtype), self.kv_bits)
        make: Callable[..., DiskSnapshotCache] = DiskSnapshotCache
        if isinstance(self.network, LeadingNetwork):
            make = partial(LeadingStates, self.network)
        states = make(place, fingerprint, budget=budget, notice=notice)
        weakref.finalize(self, states.finish)
        self.states[place] = states
        return states

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
        self, messages: Sequence[Mapping[str, Any]], **prompt: Unpack[PromptArguments]
    ) -> list[int]:
        """Token ids of the prompt for the next reply.

        Raises:
            Qwen35Error: the template rejects the messages, or the prompt fills the context.
        """
        return self._prompts.check_length(self.ids(messages, **prompt))

    def ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        reply: bool = True,
        **prompt: Unpack[PromptArguments],
    ) -> list[int]:
        """As `render`, but of any length.

        Args:
            reply: whether the prompt ends in the start of a reply.
        """
        return self.prompt_ids(messages, ReplyOptions.of(prompt, PromptArguments), reply=reply)

    def count(
        self, messages: Sequence[Mapping[str, Any]], **prompt: Unpack[PromptArguments]
    ) -> int:
        """Number of tokens of the prompt for the next reply."""
        return len(self.ids(messages, **prompt))

    def prompt_ids(
        self, messages: Sequence[Mapping[str, Any]], options: ReplyOptions, *, reply: bool = True
    ) -> list[int]:
        """As `ids`, of checked options."""
        self._owner.check("this model")
        return self._prompts.encode(self._prompts.render(messages, options, reply=reply))

    def stream(
        self, messages: Sequence[Mapping[str, Any]], **options: Unpack[ReplyArguments]
    ) -> Generator[TurnEvent]:
        """The reply to `messages` as it is written. Stop iterating to cancel.

            for event in model.stream([{"role": "user", "content": "Hi"}], max_tokens=100):
                if isinstance(event, qwen35_mlx.Answer):
                    print(event.text, end="", flush=True)

        Args:
            messages: {"role": ..., "content": ...} as chat templates take them.
            options: see `qwen35_mlx.ReplyArguments`.

        Raises:
            Qwen35Error: at once, for anything wrong with the arguments or the prompt.
        """
        turn = self.turn(messages, self.make_cache(), ReplyOptions.of(options))
        return TurnEvents(turn.run(), self._owner)

    def generate(
        self, messages: Sequence[Mapping[str, Any]], **options: Unpack[ReplyArguments]
    ) -> Reply:
        """The reply to `messages`, once it is complete. Arguments and errors: `stream`.

        reply = model.generate([{"role": "user", "content": "Hi"}], max_tokens=100)
        print(reply.text, reply.finish_reason)
        """
        turn = self.turn(messages, self.make_cache(), ReplyOptions.of(options))
        done = turn.run_to_end()
        reply, usage = turn.content, done.usage
        return Reply(
            reply.text, reply.thinking, reply.tool_calls, usage, done.finish_reason, done.drafts
        )

    def complete(
        self, prompt: str | Sequence[int], **options: Unpack[CompletionArguments]
    ) -> Reply:
        """What follows a raw text, without a chat template.

            print(model.complete("The capital of France is", max_tokens=5).text)

        Args:
            prompt: a text, in which nothing is a control token, or token ids.
            options: see `qwen35_mlx.ReplyArguments`; those of a prompt are not among them.

        Returns:
            the completion, with all of its whitespace and tags in `text`.

        Raises:
            Qwen35Error: the prompt is empty, fills the context, or has an id that is not in the
                vocabulary.
        """
        given = ReplyOptions.of(options, CompletionArguments)
        turn = self.completion(prompt, self.make_cache(), given)
        done = turn.run_to_end()
        text = "".join(event.text for event in turn.reply_events if isinstance(event, Answer))
        return Reply(text, "", (), done.usage, done.finish_reason, done.drafts)

    def completion(self, prompt: str | Sequence[int], cache: Cache, options: ReplyOptions) -> Turn:
        """A turn on a raw text, not yet started, on the caller's cache. Errors: `complete`."""
        self._owner.check("this model")
        prompt = self._prompts.raw(prompt)
        self.network.token_array(prompt)  # refuses unknown ids before anything is computed
        grammar = self._grammar(reply_content(options), thinking=False)
        return self._turn(prompt, PlainParser(), cache, options, grammar)

    def turn(
        self,
        messages: Sequence[Mapping[str, Any]],
        cache: Cache,
        options: ReplyOptions,
        *,
        copies: CopyDrafts | None = None,
        start: ReplyStart | None = None,
    ) -> Turn:
        """A turn, not yet started, on the caller's cache. Errors: `stream`.

        Args:
            copies: of earlier turns of the conversation, so that its text is not read again.
            start: of the reply, for the model to go on from; then the reply is free.
        """
        self._owner.check("this model")
        if not messages:
            raise Qwen35Error("there is no message to reply to: give at least one")
        rendered = self._prompts.render(messages, options)
        content = reply_content(options)
        before: list[int] = []
        if start is not None:
            if content is not None:
                raise Qwen35Error(
                    "a reply that goes on is free: leave out response_format and tool_choice"
                )
            before = self._prompts.encode(rendered)
            rendered = start.after(rendered, self.tokenizer.control_tokens.quote)
        prompt = self._prompts.check_length(self._prompts.encode(rendered))
        thinking = ChatTemplate.opens_thinking(rendered)
        calls = content is None or content.tools is not None
        think_token = self.tokenizer.control_tokens.id(THINK_CLOSE) is not None
        parser = ReplyParser(
            thinking=thinking, tools=options.tools, calls=calls, think_token=think_token
        )
        turn = self._turn(prompt, parser, cache, options, self._grammar(content, thinking), copies)
        if start is not None:
            parser.go_on_from(start.answer)
            turn.start = start.events
            turn.start_ids = prompt[common_prefix_length(before, prompt) :]
        return turn

    def _turn(
        self,
        prompt: list[int],
        parser: ReplyParser | PlainParser,
        cache: Cache,
        options: ReplyOptions,
        grammar: Grammar | None,
        copies: CopyDrafts | None = None,
    ) -> Turn:
        """A turn on a prompt that fits into the context."""
        room = self.context - len(prompt)
        chunk = memory.chunk_for(
            self.largest_part,
            self.network.dtype.size,
            len(prompt),
            self.weight_bytes,
            self.kv_bits,
            mtp=self.network.mtp is not None,
            largest=self.network.selection.chunk_tokens,
            bound=self.memory,
        )
        return Turn(
            network=self.network,
            tokenizer=self.tokenizer,
            cache=cache,
            prompt=prompt,
            parser=parser,
            eos=self.eos,
            sampling=self.sampling.updated(options.sampling),
            max_tokens=options.length(room),
            chunk=chunk,
            owner=self._owner,
            end=ReplyEnd(options.stop, one_call=options.parallel_tool_calls is False),
            seed=options.seed,
            grammar=grammar,
            drafter=self._drafter(cache, copies or CopyDrafts()),
            budget=ThinkingBudget.of(options.thinking_budget, self.tokenizer),
            repetition_guard=options.repetition_guard is not False,
        )

    def _grammar(self, content: ReplyContent | None, thinking: bool) -> Grammar | None:
        """The compiled grammar of a reply; None for one without."""
        if content is None:
            return None
        source = reply_grammar(content, self.tokenizer, self.eos, thinking=thinking)
        return self._vocabulary.compile(source)

    @cached_property
    def _vocabulary(self) -> GrammarVocabulary:
        return GrammarVocabulary(self.tokenizer, self.network.config.vocab_size, self.eos)

    def _drafter(self, cache: Cache, copies: CopyDrafts) -> Drafter | None:
        """A new drafter for one reply; None for none."""
        if self.mtp == "off":
            return None
        head = None if self.network.mtp is None else MTPDrafts(self.network, cache)
        if self.mtp == "auto":
            return Drafter(head, copies, self._costs)
        return Drafter(head, None, self._costs, depth=int(self.mtp))
