"""A history of any length becomes one summary, in parts that each fit into the context."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from qwen35_mlx.errors import Qwen35Error, TooLongError
from qwen35_mlx.library.conversation import SUMMARY_HEADING, ChatSettings, Message, Usage
from qwen35_mlx.library.library import Library
from qwen35_mlx.library.summaries import before_summary, whole_path
from qwen35_mlx.session import memory
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.compaction import LEAST_TOKENS, SUMMARY_SHARE
from qwen35_mlx.session.events import Answer, Done, PrefillProgress, TurnEvent, Written
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.text.tokenizer import Tokenizer
from tests.random_model import CONTEXT
from tests.session.scripted import reply_with

SUMMARY = "They count."
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Any]]]:
    """The messages of each turn from now on. Nothing is computed: every reply is `SUMMARY`."""
    begun: list[list[dict[str, Any]]] = []
    messages_of: dict[int, list[dict[str, Any]]] = {}
    make = Model.turn

    def turn(self: Model, messages: Sequence[Any], *rest: Any, **more: Any) -> Turn:
        made = make(self, messages, *rest, **more)
        messages_of[id(made)] = [*messages]
        return made

    def run(self: Turn) -> Iterator[TurnEvent]:
        total = len(self.prompt)
        assert total + self.max_tokens <= CONTEXT
        begun.append(messages_of[id(self)])
        for done in (0, total // 2, total - 1):
            yield PrefillProgress(done, total, 0)
        self.reply_ids.append(1)
        self.reply_events.append(Answer(SUMMARY))
        yield Answer(SUMMARY)
        yield Done("stop", Usage(total, 0, 1, 0.0, 0.0, 0), {})

    monkeypatch.setattr(Model, "turn", turn)
    monkeypatch.setattr(Turn, "run", run)
    return begun


def chat_of(model: Model, library: Library, texts: Sequence[str], **options: Any) -> Chat:
    """A stored conversation of questions and replies in turn."""
    conversation, parent = library.create(title="long"), None
    for n, text in enumerate(texts):
        added = Message(0, parent, ("user", "assistant")[n % 2], text)
        parent = library.add_message(conversation, added).id
    return Chat(model, library=library, conversation=conversation, temperature=0.0, **options)


def numbered(model: Model, contexts: float) -> list[str]:
    """Texts, each different, that together fill the context so many times."""
    texts: list[str] = []
    tokens = 0
    while tokens < contexts * CONTEXT or len(texts) % 2:
        texts.append(f"Number {len(texts)}: " + "fox dog " * 10)
        tokens += len(model.tokenizer.encode(texts[-1]))
    return texts


def history_of(prompts: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """What was summed up: each prompt without the system message and the request."""
    return [m["content"] for read in prompts for m in read[:-1] if m["role"] != "system"]


@pytest.mark.parametrize("contexts", [0.5, 3, 10])
def test_a_history_of_any_length_is_summed_up_at_once(
    model, prompts, tmp_path, monkeypatch, contexts
):
    encoded: list[str] = []
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, t: encoded.append(t) or encode(self, t))
    texts = numbered(model, contexts)
    encoded.clear()
    with Library(tmp_path) as library:
        chat = chat_of(model, library, texts, system="Be brief.")
        events = list(chat.compact())
        first, *kept = chat.messages
        assert first.content == f"Be brief.\n\n{SUMMARY_HEADING}\n{SUMMARY}"
        assert [m.content for m in kept] == texts[-4:]
        assert history_of(prompts) == texts[:-4]
        assert len(prompts) >= contexts
        assert all(model.count(read) > 0.7 * CONTEXT for read in prompts[:-1])
        assert [read[0]["content"] for read in prompts[1:]] == [first.content] * (len(prompts) - 1)
        assert prompts[0][0]["content"] == "Be brief."
        # Every message is counted once.
        assert encoded == texts
        # The view has something to show, and the engine hears a cancel, all the time.
        assert events[0] == PrefillProgress(0, encoded_length(model, texts[0]), 0)
        read = [event for event in events if isinstance(event, PrefillProgress)]
        shares = [event.done for event in read]
        assert shares == sorted(shares)
        counted = read[len(texts) :]
        assert len({event.total for event in counted}) == 1
        assert counted[0].total * 0.9 < counted[-1].done <= counted[-1].total
        assert sum(isinstance(event, Written) for event in events) == 2 * len(prompts)
        assert chat.context_used < CONTEXT
        # All of it is still there.
        shown = [m.content for m in whole_path(chat.conversation) if m.summary is None]
        assert shown == texts
        chat.close()


def encoded_length(model: Model, text: str) -> int:
    return len(model.tokenizer.encode(text)) + 8


def test_a_message_longer_than_the_context_is_summed_up_in_pieces(model, prompts, tmp_path):
    long = "".join(f"line {n} of a long file\n" for n in range(250))
    with Library(tmp_path) as library:
        chat = chat_of(model, library, [f"Read this.\n{long}", "Done.", "Two?", "2", "Three?", "3"])
        list(chat.compact())
        assert "".join(history_of(prompts)) == f"Read this.\n{long}Done."
        assert len(prompts) >= 4
        assert [m.content for m in chat.messages[1:]] == ["Two?", "2", "Three?", "3"]
        chat.close()


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ((1, 1, 1, 1, 1, 1), 4),
        ((1, 1, 1, 30, 1, 1), 2),  # the newest two turns would fill more than half of the context
        ((1, 30, 1, 1), 2),
        ((1, 1, 1, 1, 1, 30), 0),
        ((1, 30), 0),
        ((30,), 0),
    ],
)
def test_the_newest_turns_stay_if_they_leave_room(model, prompts, tmp_path, sizes, kept):
    texts = [f"Text {n}. " + "word word " * 3 * size for n, size in enumerate(sizes)]
    with Library(tmp_path) as library:
        chat = chat_of(model, library, texts)
        end = chat.conversation.leaf
        list(chat.compact())
        assert [m.content for m in chat.messages[1:]] == (texts[-kept:] if kept else [])
        summed_up = texts[:-kept] if kept else texts
        assert "".join(history_of(prompts)) == "".join(summed_up)
        # The way back is there, and the view has everything, also after a message said before.
        assert before_summary(chat.conversation) == end
        again = texts[len(texts) // 4 * 2]
        list(chat.send(again))
        assert before_summary(chat.conversation) == end
        shown = [m.content for m in whole_path(chat.conversation) if m.summary is None]
        assert shown == [*texts, again, SUMMARY]
        chat.close()


@pytest.mark.parametrize("sizes", [(1,), (1, 1), (1, 1, 1, 1), (1, 1, 1)])
def test_what_stays_anyway_is_not_summed_up(model, prompts, tmp_path, sizes):
    with Library(tmp_path) as library:
        chat = chat_of(model, library, ["word"] * len(sizes))
        before = chat.conversation
        with pytest.raises(Qwen35Error, match="nothing to summarise: the newest 2 turns stay"):
            list(chat.compact())
        assert chat.conversation == before
        assert not prompts
        chat.close()


@pytest.mark.parametrize("at", ["counting", "first part", "second part"])
def test_it_can_be_stopped_anywhere_and_changes_nothing(model, prompts, tmp_path, at):
    with Library(tmp_path) as library:
        chat = chat_of(model, library, numbered(model, 3))
        before = chat.conversation
        events = chat.compact()
        next(events)
        while len(prompts) < {"counting": 0, "first part": 1, "second part": 2}[at]:
            next(events)
        events.close()
        assert chat.conversation == before == library.conversation(before.id)
        list(chat.compact())
        assert chat.messages[0].summary == SUMMARY
        chat.close()


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("请总结一下这封信。", "Chinese"),
        ("この手紙を要約してください。", "Japanese"),
        ("이 편지를 요약해 주세요.", "Korean"),
        ("Перескажи это письмо.", "the language that the user writes, in Cyrillic script"),
        ("Sum this up.", "the language that the user writes"),
    ],
)
def test_the_summary_is_asked_for_in_the_language_of_the_user(
    model, prompts, tmp_path, question, language
):
    english = "An answer in English, which is longer than the question that it answers."
    with Library(tmp_path) as library:
        chat = chat_of(model, library, [question, english] * 3)
        list(chat.compact())
        assert prompts[-1][-1]["content"].endswith(f"Write the summary only, in {language}.")
        chat.close()


def test_a_second_compaction_sums_up_the_first_summary_too(model, prompts, tmp_path):
    texts = numbered(model, 2)
    with Library(tmp_path) as library:
        chat = chat_of(model, library, texts, system="Be brief.")
        list(chat.compact())
        list(chat.send("One more."))
        prompts.clear()
        list(chat.compact())
        assert prompts[0][0]["content"] == f"Be brief.\n\n{SUMMARY_HEADING}\n{SUMMARY}"
        assert history_of(prompts) == texts[-4:-2]
        assert chat.messages[0].content.count(SUMMARY_HEADING) == 1
        chat.close()


def test_tools_are_not_called_instead(model, prompts, tmp_path):
    with Library(tmp_path) as library:
        chat = chat_of(model, library, numbered(model, 2), tools=[TOOL])
        turns = []
        make = Model.turn

        def observed(self: Model, messages: Any, cache: Any, options: Any, **more: Any):
            turns.append(options)
            return make(self, messages, cache, options, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Model, "turn", observed)
            list(chat.compact())
        assert {options.tool_choice for options in turns} == {"none"}
        assert all(options.tools for options in turns)  # so that what is cached stays so
        chat.close()


def test_a_part_that_does_not_fit_is_taken_shorter(model, prompts, tmp_path, monkeypatch):
    """The memory may be smaller than the context, and a template may write more than expected."""
    chunk_for = memory.chunk_for

    def small(config: Any, itemsize: Any, tokens: int, *rest: Any, **more: Any) -> int:
        if tokens > 400:
            raise TooLongError("too much for this machine")
        return chunk_for(config, itemsize, tokens, *rest, **more)

    monkeypatch.setattr(memory, "chunk_for", small)
    texts = numbered(model, 3)
    with Library(tmp_path) as library:
        chat = chat_of(model, library, texts)
        list(chat.compact())
        assert history_of(prompts) == texts[:-4]
        chat.close()


def test_a_system_prompt_without_room_is_named(model, prompts, tmp_path):
    room = CONTEXT - int(CONTEXT * SUMMARY_SHARE)
    system = "word " * (room - LEAST_TOKENS)
    with Library(tmp_path) as library:
        chat = chat_of(model, library, numbered(model, 2))
        chat.configure(ChatSettings(system=system))
        before = chat.conversation
        with pytest.raises(TooLongError, match="the system prompt and the tools leave no room"):
            list(chat.compact())
        assert chat.conversation == before
        chat.close()


def test_no_summary_is_an_error_that_changes_nothing(model, tmp_path, monkeypatch):
    reply_with(monkeypatch, model, "")
    with Library(tmp_path) as library:
        chat = chat_of(model, library, ["word"] * 6)
        before = chat.conversation
        with pytest.raises(Qwen35Error, match="wrote no summary"):
            list(chat.compact())
        assert chat.conversation == before
        chat.close()
