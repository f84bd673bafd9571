"""A conversation whose turns cost only their own tokens."""

from collections.abc import Generator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.cache import Snapshot
from qwen35_mlx.session.events import TurnEvent
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.text.reply import message_from

# Positions to come back to: the last turns' anchors and ends. Each holds one recurrent state.
KEPT_STATES = 4


class Chat:
    """A conversation with one model, held in memory.

    The network's state is kept after each turn under the token ids that led to it. The next
    turn renders the whole conversation, and goes on from the longest of these prefixes, so that
    it equals a fresh prefill by construction.

    Args:
        system: the system prompt.
        thinking: whether the model thinks before it answers; None leaves it to its template.
        tools: function descriptions in JSON schema.
        sampling: over the model's defaults.

    Attributes:
        messages: the conversation so far, as chat templates take it.
    """

    def __init__(
        self,
        model: Model,
        *,
        system: str | None = None,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **sampling: float | None,
    ):
        self.model = model
        self.thinking = thinking
        self.tools = tools
        self.sampling = sampling
        self.messages: list[Mapping[str, Any]] = []
        if system is not None:
            self.messages.append({"role": "system", "content": system})
        self._states: list[tuple[list[int], Snapshot]] = []

    def send(
        self,
        content: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> Generator[TurnEvent]:
        """Add a message and stream the reply to it.

        Stop iterating (or close the iterator) to cancel: what was said so far stays in the
        conversation; if nothing was, the message is taken back.

        Args:
            content: the user's text; or messages of role "tool", the results of tool calls.

        Raises:
            Qwen35Error: the message is empty or does not fit the context; nothing is added then.
        """
        if isinstance(content, str):
            if not content.strip():
                raise Qwen35Error("the message is empty: write something")
            added: list[Mapping[str, Any]] = [{"role": "user", "content": content}]
        else:
            added = list(content)
        messages = [*self.messages, *added]
        turn = self.model.turn(
            messages,
            self.model.network.make_cache(),
            max_tokens=max_tokens,
            seed=seed,
            thinking=self.thinking,
            tools=self.tools,
            stop=stop,
            sampling=self.sampling,
        )
        self._resume(turn)
        turn.anchor = self._anchor(messages, turn.prompt)
        turn.at_anchor = lambda: self._keep(turn, turn.prompt[: turn.anchor])
        return self._run(turn, messages)

    def _run(self, turn: Turn, messages: list[Mapping[str, Any]]) -> Generator[TurnEvent]:
        before = self.messages
        self.messages = messages
        try:
            yield from turn.run()
        finally:
            if turn.reply:
                self._keep(turn, [*turn.prompt, *turn.reply])
                self.messages = [*messages, message_from(turn.parts)]
            else:
                self.messages = before

    def _resume(self, turn: Turn) -> None:
        """Restore the longest kept state that is a proper prefix of the prompt."""
        fitting = [
            (ids, snapshot)
            for ids, snapshot in self._states
            if len(ids) < len(turn.prompt) and turn.prompt[: len(ids)] == ids
        ]
        if fitting:
            turn.cache.restore(max(fitting, key=lambda state: len(state[0]))[1])

    def _keep(self, turn: Turn, ids: Sequence[int]) -> None:
        snapshot = turn.cache.snapshot()
        assert snapshot.offset == len(ids)
        self._states = [*self._states[1 - KEPT_STATES :], (list(ids), snapshot)]

    def _anchor(self, messages: Sequence[Mapping[str, Any]], prompt: Sequence[int]) -> int:
        """How many tokens of this prompt the next turn's will begin with.

        The prompt's end is not among them: templates drop old thinking, and what the generation
        prompt opens for it. So a next turn is rendered and compared.
        """
        probe = [
            *messages,
            {"role": "assistant", "content": "."},
            {"role": "user", "content": "."},
        ]
        rendered = self.model.template.render(probe, thinking=self.thinking, tools=self.tools)
        following = self.model.tokenizer.encode(rendered)
        pairs = zip(prompt, following, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
