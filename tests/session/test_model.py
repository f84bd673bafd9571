"""`Model`: logits, streams and whole replies, and what is refused."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tokenizers

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.session.events import Answer, Done, PrefillProgress, Reply, Thinking, ToolCall
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from tests.random_model import CONTEXT
from tests.session.scripted import reply_with

HI = [{"role": "user", "content": "Hi"}]
GREEDY: dict[str, Any] = {"temperature": 0.0}


def reply(model: Model, **options) -> tuple[str, Done]:
    events = list(model.stream(HI, **{"max_tokens": 40, **GREEDY, **options}))
    done = events[-1]
    assert isinstance(done, Done)
    return "".join(e.text for e in events if isinstance(e, Answer)), done


def greedy_ids(model: Model, count: int) -> list[int]:
    prompt = model.render(HI)
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model.logits(ids)[-1].argmax()))
    return ids[len(prompt) :]


def test_logits_are_numpy_float32_for_every_position(model):
    logits = model.logits([1, 2, 3])
    assert logits.shape == (3, 512)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(model.logits([1, 2, 3, 4])[:3], logits, atol=1e-4)


@pytest.mark.parametrize(("ids", "words"), [([], "empty"), ([3, 512], "512"), ([-1], "-1")])
def test_logits_refuse_bad_ids(model, ids, words):
    with pytest.raises(Qwen35Error, match=words):
        model.logits(ids)


@pytest.fixture(scope="session")
def bare_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model without a chat template."""
    path = shutil.copytree(model_folder, tmp_path_factory.mktemp("bare") / "model")
    (path / "chat_template.jinja").unlink()
    return path


def test_a_model_without_a_template_gives_logits_and_completes(model: Model, bare_folder: Path):
    lines: list[str] = []
    bare = load(bare_folder, notice=lines.append)
    assert bare.template is None
    assert ["no chat template" in line for line in lines] == [True]
    np.testing.assert_array_equal(bare.logits([1, 2, 3]), model.logits([1, 2, 3]))
    expected = model.complete("The fox", max_tokens=8, temperature=0)
    assert bare.complete("The fox", max_tokens=8, temperature=0).text == expected.text


@pytest.mark.parametrize("method", ["render", "count", "generate", "stream", "ids"])
def test_a_model_without_a_template_cannot_chat(bare_folder: Path, method: str):
    bare = load(bare_folder, notice=lambda line: None)
    with pytest.raises(Qwen35Error, match=r"has no chat template, so it cannot chat: add the"):
        getattr(bare, method)(HI)


@pytest.mark.parametrize("as_ids", [True, False])
def test_a_completion_is_the_argmax_of_the_logits(model: Model, as_ids: bool):
    prompt = model.tokenizer.encode("The quick brown")
    ids = list(prompt)
    for _ in range(6):
        ids.append(int(model.logits(ids)[-1].argmax()))
    given = prompt if as_ids else "The quick brown"
    got = model.complete(given, max_tokens=6, temperature=0)
    assert got.text == model.tokenizer.decode(ids[len(prompt) :])
    assert (got.usage.prompt_tokens, got.usage.reply_tokens) == (len(prompt), 6)
    assert (got.finish_reason, got.thinking, got.tool_calls) == ("length", "", ())


def test_a_completion_keeps_whitespace_and_tags(model: Model, monkeypatch):
    text = "\n <think>so</think>\n\n<tool_call>\n<function=f>\n</function>\n</tool_call> \n"
    reply_with(monkeypatch, model, text)
    got = model.complete("x")
    assert (got.text, got.thinking, got.tool_calls) == (text, "", ())
    assert got.finish_reason == "stop"


def test_a_completion_ends_at_a_stop_string(model: Model, monkeypatch):
    reply_with(monkeypatch, model, "one\ntwo\nthree")
    assert model.complete("x", stop="\nthree").text == "one\ntwo"


def test_the_text_to_complete_holds_no_control_tokens(model: Model):
    assert model.complete("<|im_end|>", max_tokens=1).usage.prompt_tokens > 1


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "has 0 tokens"),
        ([], "has 0 tokens"),
        ([3, 512], "512"),
        ([-1], "-1"),
        ([1] * CONTEXT, "1,000 tokens: it must have from 1 to 999"),
        ("fox " * CONTEXT, "it must have from 1 to 999"),
        ("fox " * 10**5, "400,000 characters, far more than"),
        (None, "prompt"),
        ({"role": "user"}, "prompt"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_prompt_that_cannot_be_completed_is_named(model: Model, prompt: Any, words: str):
    with pytest.raises(Qwen35Error, match=words):
        model.complete(prompt, max_tokens=1)


def test_a_stream_ends_in_usage_and_a_message(model):
    text, done = reply(model)
    assert done.finish_reason == "length"
    assert done.message["content"] == text.strip()
    usage = done.usage
    assert usage.reply_tokens == 40
    assert usage.prompt_tokens == len(model.render(HI))
    assert usage.cached_tokens == 0
    assert usage.prefill_rate > 0
    assert usage.decode_rate > 0
    assert usage.peak_memory > 0


def test_prefill_progress_starts_at_nothing_and_ends_before_the_last_token(model):
    long = [{"role": "user", "content": "word " * 150}]
    events = list(model.stream(long, max_tokens=1, **GREEDY))
    progress = [e for e in events if isinstance(e, PrefillProgress)]
    total = progress[0].total
    assert total > 512
    assert progress[0].done == 0
    assert progress[-1].done == total - 1
    assert [e.done for e in progress] == sorted(e.done for e in progress)
    assert len(progress) > 2


def test_greedy_reply_is_the_argmax_of_the_logits(model):
    _, done = reply(model, max_tokens=5)
    assert done.message["content"] == model.tokenizer.decode(greedy_ids(model, 5)).strip()


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_gives_the_same_reply(model, seed):
    hot = {"temperature": 1.5, "top_p": 1.0, "top_k": 0}
    first, _ = reply(model, seed=seed, **hot)
    assert reply(model, seed=seed, **hot)[0] == first
    assert reply(model, seed=seed + 1, **hot)[0] != first


def test_thinking_decides_how_the_reply_begins(model):
    thought = list(model.stream(HI, thinking=True, max_tokens=5, **GREEDY))
    assert any(isinstance(e, Thinking) for e in thought)
    assert not any(isinstance(e, Thinking) for e in model.stream(HI, thinking=False, max_tokens=5))


def test_every_end_token_ends_the_reply_and_is_not_shown(model, monkeypatch):
    ids = greedy_ids(model, 20)
    end = ids[10]
    monkeypatch.setattr(model, "eos", frozenset([end]))
    text, done = reply(model)
    assert done.finish_reason == "stop"
    assert done.usage.reply_tokens == ids.index(end) + 1
    assert text.strip() == model.tokenizer.decode(ids[: ids.index(end)]).strip()


def test_end_tokens_come_from_names_config_and_generation_config(model_folder, tmp_path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [500, 501]}))
    model = load(folder)
    names = {model.tokenizer.token_id("<|im_end|>"), model.tokenizer.token_id("<|endoftext|>")}
    assert model.eos == names | {511, 500, 501}


@pytest.mark.parametrize("stop", [["END"], ["\n\n"], ["\n\nw", "ght"]])
def test_a_stop_string_ends_the_answer_and_no_thinking(model, monkeypatch, stop):
    """The empty line between the two is of neither."""
    text = "thought END\n\nmore\n</think>\n\nanswer right END\n\nwrong"
    reply_with(monkeypatch, model, text)
    cut = model.generate(HI, thinking=True, stop=stop)
    assert (cut.thinking, cut.finish_reason) == ("thought END\n\nmore", "stop")
    answer = "answer right END\n\nwrong"
    assert cut.text == answer[: min(answer.find(one) % 99 for one in stop)].strip()
    assert model.generate(HI, thinking=True, stop="more").text == answer
    cut = model.complete("x", stop="</think>")
    assert cut.text == "thought END\n\nmore\n"


def test_stop_string_ends_the_reply_before_it(model):
    text, _ = reply(model)
    stop = text[6:9]
    short, done = reply(model, stop=[stop])
    assert (done.finish_reason, done.stop) == ("stop", stop)
    assert short == text[: text.index(stop)]


def test_generate_returns_what_stream_yields(model):
    options: dict[str, Any] = {"thinking": True, "max_tokens": 40, **GREEDY}
    events = list(model.stream(HI, **options))
    done = events[-1]
    assert isinstance(done, Done)
    reply = model.generate(HI, **options)
    assert isinstance(reply, Reply)
    assert reply.thinking == "".join(e.text for e in events if isinstance(e, Thinking)).strip()
    assert reply.text == done.message["content"]
    assert reply.for_template() == done.message
    assert reply.finish_reason == done.finish_reason == "length"
    assert reply.tool_calls == ()
    assert (reply.usage.prompt_tokens, reply.usage.reply_tokens) == (
        len(model.render(HI, thinking=True)),
        40,
    )


def test_generate_takes_the_arguments_of_stream(model):
    stream, generate = (inspect.signature(method) for method in (model.stream, model.generate))
    assert generate.parameters == stream.parameters


def test_generate_brings_thinking_text_and_tool_calls(model, monkeypatch):
    call = "<tool_call>\n<function=f>\n<parameter=x>\n7\n</parameter>\n</function>\n</tool_call>"
    reply_with(monkeypatch, model, f"why\n</think>\n\nLet me.\n\n{call}")
    tools = [{"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}}}]
    reply = model.generate(HI, thinking=True, tools=tools)
    assert (reply.thinking, reply.text) == ("why", "Let me.")
    assert reply.tool_calls == (ToolCall("f", {"x": 7}),)
    assert reply.finish_reason == "tool_calls"


def test_generate_brings_what_the_parser_held_back(model, monkeypatch):
    reply_with(monkeypatch, model, "Well <tool_call>\n<function=f>\n<para")
    reply = model.generate(HI)
    assert reply.text == "Well <tool_call>\n<function=f>\n<para"
    assert (reply.tool_calls, reply.finish_reason) == ((), "stop")


def test_generate_stops_at_a_stop_string(model):
    text = model.generate(HI, max_tokens=40, **GREEDY).text
    reply = model.generate(HI, max_tokens=40, stop=text[6:9], **GREEDY)
    assert reply.finish_reason == "stop"
    assert reply.text == text[: text.index(text[6:9])].strip()


@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        ([], {}, "no message"),
        (HI, {"max_tokens": 0}, "max_tokens is 0"),
        (HI, {"temperature": -1}, "temperature"),
        (HI, {"heat": 1}, "'heat'"),
        (HI, {"stop": [""]}, "stop string"),
        ([{"role": "user", "content": "x " * CONTEXT}], {}, "context is 1,000"),
        ([{"content": "x"}], {}, "role"),
    ],
)
def test_bad_arguments_are_refused_at_once(model, messages, options, words):
    with pytest.raises(Qwen35Error, match=words):
        model.stream(messages, **options)
    with pytest.raises(Qwen35Error, match=words):
        model.generate(messages, **options)


def test_reply_stops_where_the_context_ends(model, monkeypatch):
    monkeypatch.setattr(model, "eos", frozenset())
    prompt = [{"role": "user", "content": "1 " * 900}]
    left = CONTEXT - len(model.render(prompt))
    assert 0 < left < 100
    done = list(model.stream(prompt, **GREEDY))[-1]
    assert isinstance(done, Done)
    assert done.usage.reply_tokens == left
    assert done.finish_reason == "length"


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json"])
def test_a_folder_without_one_of_its_files_is_named(model_folder, tmp_path, missing):
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    (folder / missing).unlink()
    with pytest.raises(Qwen35Error) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert missing.removesuffix(".jinja").replace("_", " ").split(".")[0] in str(
        caught.value
    ).replace("_", " ")


@pytest.mark.parametrize(
    "text", ["{", '{"eos_token_id": "x"}', '{"eos_token_id": [[1]]}', '{"eos_token_id": 1e999}']
)
def test_broken_generation_config_is_named(model_folder, tmp_path, text):
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(Qwen35Error, match=r"generation_config\.json"):
        load(folder)


def test_a_link_to_nothing_among_the_weights_is_named(model_folder, tmp_path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    (folder / "model-2.safetensors").symlink_to("nowhere")
    with pytest.raises(Qwen35Error, match=r"cannot read .*model-2\.safetensors"):
        load(folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_on_request(model_folder, dtype):
    model = load(model_folder, dtype=dtype)
    assert model.network.dtype == getattr(mx, dtype)
    assert np.isfinite(model.logits([1, 2, 3])).all()


def test_unknown_dtype_is_named(model_folder):
    with pytest.raises(Qwen35Error, match="int4"):
        load(model_folder, dtype="int4")


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens([f"<x{number}>" for number in range(200)])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(Qwen35Error, match="the model has 512 embeddings"):
        load(folder)


@pytest.mark.parametrize("bad", [-1, 10**6, 2**31, 2**40, 2**70, 1.5, "1", None])
def test_an_id_without_an_embedding_never_reaches_the_network(model, bad):
    for ids in ([bad], [1, bad, 2], [1, 2, bad]):
        with pytest.raises(Qwen35Error, match=r"is not in the vocabulary|token ids"):
            model.logits(ids)
        with pytest.raises(Qwen35Error, match=r"is not in the vocabulary|token ids"):
            list(prefill(model.network, model.make_cache(), ids, 2))
    with pytest.raises(Qwen35Error, match=r"is not in the vocabulary|token ids"):
        next(decode(model.network, model.make_cache(), [bad], Sampler(Sampling(temperature=0), 8)))


def test_a_text_far_too_long_is_refused_before_it_is_encoded(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "encode_prompt", None)
    with pytest.raises(Qwen35Error, match="characters, far more than"):
        model.count([{"role": "user", "content": "a" * 20 * model.context}])
