"""`PromptEncoder`: the same ids as encoding the whole rendering, within bounded memory."""

from qwen35_mlx.session.encoding import PromptEncoder


def test_encoding_message_by_message_equals_encoding_the_whole(model):
    messages = [
        {"role": "user", "content": "  a <|im_start|> b\n\n<|im_start|>"},
        {"role": "assistant", "content": "Grüße \n ñ  "},
        {"role": "user", "content": "a  "},
    ]
    rendered = model.template.render(messages, control_tokens=model.tokenizer.control_tokens)
    assert model._prompts._encoder.per_message
    assert model.ids(messages) == model.tokenizer.encode_prompt(rendered) == model.ids(messages)


def test_the_encoded_messages_remembered_are_bounded(model):
    for number in range(40):
        model.ids([{"role": "user", "content": f"{number} " * 100}])
    assert (
        sum(map(len, model._prompts._encoder._remembered.values()))
        == model._prompts._encoder._remembered_tokens
        <= 2 * model.context
    )


def test_a_tokenizer_without_the_message_mark_encodes_the_whole(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "token_id", lambda name: None)
    encoder = PromptEncoder(tokenizer, 100)
    assert not encoder.per_message
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert encoder.encode(text) == tokenizer.encode_prompt(text)
    assert encoder._remembered == {}


def test_a_repeated_message_is_encoded_once(tokenizer, monkeypatch):
    encoder = PromptEncoder(tokenizer, 100)
    encoded: list[str] = []
    real = tokenizer.encode_prompt

    def encode(text: str) -> list[int]:
        encoded.append(text)
        return real(text)

    monkeypatch.setattr(tokenizer, "encode_prompt", encode)
    first, second = "<|im_start|>user\nHi", "<|im_start|>user\nBye"
    assert encoder.encode(first) == real(first)
    assert encoder.encode(first + second) == real(first + second)
    assert [text for text in encoded if text] == [first, second]
