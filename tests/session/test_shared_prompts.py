"""Clients that send the whole history pay for new tokens only, also after a restart."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen35_mlx.library.library import Library
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache, common_prefix_length
from qwen35_mlx.session.load import load
from qwen35_mlx.session.request_engine import RequestEngine
from tests.session.clients import GREEDY, Clients

TURNS = 10
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def reader(model_folder):
    """The served model once more, in the test's thread."""
    return load(model_folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "library"


class Conversation:
    """A client that keeps the history without thinking, as OpenAI's clients do.

    Attributes:
        prefilled, new: tokens so far: that were read, and that the last prompt and reply did not
            hold yet.
    """

    def __init__(self, model, **options: Any):
        self._model = model
        self.options = options
        self.messages: list[Mapping[str, Any]] = [SYSTEM]
        self._known: Sequence[int] = []
        self.prefilled = self.new = 0

    def ask(self, clients: Clients, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        done = clients.ask(self.messages, max_tokens=4, **self.options).done()
        prompt = self._model.ids(self.messages, **self.options)
        assert len(prompt) == done.usage.prompt_tokens
        self.prefilled += len(prompt) - done.usage.cached_tokens
        self.new += len(prompt) - common_prefix_length(prompt, self._known)
        reply = self._model.ids([*self.messages, done.message], **self.options, reply=False)
        self._known = [*prompt, *reply[common_prefix_length(prompt, reply) :]]
        self.messages.append({"role": "assistant", "content": done.message["content"]})


def serve(model, folder: Path, work: Callable[[Clients], None]) -> None:
    """Let an engine with the library in this folder do some work."""
    with Library(folder) as library:
        engine = RequestEngine(model.name, library=library)
        engine.start()
        try:
            work(Clients(engine))
        finally:
            engine.close()


def test_many_turns_with_the_whole_history_prefill_what_is_new(reader, folder):
    """Half of them before a restart; the logits behind them equal a fresh prefill."""
    ours, other = (Conversation(reader, thinking=thinking) for thinking in (True, False))

    def half(start: int, clients: Clients) -> None:
        for turn in range(start, start + TURNS // 2):
            ours.ask(clients, f"{turn} + 5?")
            if turn % 3 == 0:
                other.ask(clients, f"{turn} * 3?")  # between them, on the same cache

    serve(reader, folder, lambda clients: half(0, clients))
    serve(reader, folder, lambda clients: half(TURNS // 2, clients))
    for one in (ours, other):
        assert one.prefilled <= 1.1 * one.new
    check_state(reader, folder, ours)


def check_state(reader, folder: Path, conversation: Conversation) -> None:
    """What the cache holds of the newest prompt gives the logits of a fresh prefill."""
    prompt = reader.ids(conversation.messages[:-1], **conversation.options)
    states = reader.open_states(folder)
    cache = reader.make_cache()
    SnapshotCache(states).restore(prompt, cache)
    assert cache.offset > len(prompt) // 2
    rest = reader.network.token_array(prompt[cache.offset :])
    got = np.array(reader.network.logits(reader.network(rest, cache))[0, -1])
    reader.close()
    np.testing.assert_allclose(got, reader.logits(prompt)[-1], atol=1e-3)


def test_a_changing_header_line_does_not_bust_the_cache(reader, folder):
    def work(clients: Clients) -> None:
        cached = []
        for number in range(3):
            header = {"type": "text", "text": f"x-anthropic-billing-header: cch={number:05};"}
            body = {"type": "text", "text": "Be brief. " * 40}
            done = clients.ask(
                [
                    {"role": "system", "content": [header, body]},
                    {"role": "user", "content": "Hello"},
                ]
            ).done()
            cached.append(done.usage.cached_tokens / done.usage.prompt_tokens)
        assert cached[0] == 0
        assert min(cached[1:]) > 0.9

    serve(reader, folder, work)


def test_a_reply_from_the_shared_cache_is_that_of_a_fresh_prefill(reader, folder):
    messages = [SYSTEM, {"role": "user", "content": "What is 17 + 25?"}]
    fresh = reader.generate(messages, max_tokens=20, **GREEDY)

    def work(clients: Clients) -> None:
        first = clients.ask(messages, max_tokens=20).done()
        again = clients.ask(messages, max_tokens=20).done()
        assert again.usage.cached_tokens > 0
        assert first.message["content"] == again.message["content"] == fresh.text

    serve(reader, folder, work)
