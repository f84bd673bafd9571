"""`/v1/completions` without a network."""

import pytest
from openai.types import Completion

from qwen35_mlx.server.completions import CompletionWriter, read
from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.session.events import Answer
from tests.server.fake_engine import done


@pytest.mark.parametrize(
    ("prompt", "read_as"),
    [("a", "a"), (["a"], "a"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2))],
)
def test_one_prompt_has_several_forms(prompt, read_as):
    request = read({"prompt": prompt}).request
    assert request.prompt == read_as
    assert dict(request.options) == {"max_tokens": 16}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"prompt": ["a", "b"]}, "prompt is a list of 2: send one prompt a request"),
        ({"prompt": [True]}, "prompt has True at place 0: give token ids"),
        ({"prompt": [5, -1]}, "prompt has -1 at place 1: give token ids"),
        ({"prompt": [[5, 2**63]]}, "prompt has 9223372036854775808 at place 1: give token ids"),
        ({"prompt": []}, "prompt is []: give a string or a list of token ids"),
        ({}, "prompt is None: give a string or a list of token ids"),
        ({"prompt": "a", "echo": True}, "echo is not supported: leave it out"),
        ({"prompt": "a", "logprobs": 1}, "logprobs is not supported: leave it out"),
        ({"prompt": "a", "best_of": 3}, "best_of is 3: one reply a request is supported"),
        ({"prompt": "a", "session": "x"}, "session is not supported: leave it out"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(fields, line):
    with pytest.raises(ApiError) as error:
        read(fields)
    assert str(error.value).startswith(line)


def test_whole_reply_keeps_its_whitespace():
    found = Completion.model_validate(CompletionWriter("m", 5).whole([Answer(" a\n")], done()))
    assert found.choices[0].text == " a\n"


def test_stream():
    writer = CompletionWriter("m", 5, include_usage=True)
    frames = writer.start(None) + writer.add(Answer(" a")) + writer.end(done("length"))
    # The client does not validate: the interface sends null as reason before the end.
    chunks = [Completion.construct(**dict(frame.data)) for frame in frames[:-1]]
    assert [[choice.text for choice in chunk.choices] for chunk in chunks] == [[" a"], [""], []]
    assert chunks[1].choices[0].finish_reason == "length"
    assert chunks[2].usage is not None
    assert frames[-1].data == "[DONE]"
