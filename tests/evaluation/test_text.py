"""The built-in text, its documents, and whether two tokenizers agree on it."""

import json
import shutil

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.evaluation import text as room
from qwen35_mlx.evaluation.text import built_in_texts, make_documents, tokenizer_difference
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.text.tokenizer import Tokenizer


def test_the_built_in_text_has_four_kinds():
    prose, code, chinese, arithmetic = built_in_texts()
    assert " the " in prose
    assert "def " in code
    assert sum("\u4e00" <= c <= "\u9fff" for c in chinese) > 500
    assert sum(c.isdigit() for c in arithmetic) > 400


def test_the_arithmetic_is_right():
    lines = [line for line in built_in_texts()[3].splitlines() if line[:1].isdigit()]
    sums = [line.split(" = ") for line in lines if line.count(" = ") == 1 and "%" not in line]
    sums = [s for s in sums if set("".join(s)) <= set("0123456789+-*/. ")]
    assert len(sums) >= 5
    assert all(eval(left) == pytest.approx(eval(right)) for left, right in sums)


def test_each_text_gives_the_same_share(tokenizer):
    texts = built_in_texts()
    lengths = [len(tokenizer.encode(text)) for text in texts]
    documents = make_documents(tokenizer, texts, 400)
    assert abs(sum(map(len, documents)) - 400) <= len(texts)
    for ids, text, length in zip(documents, texts, lengths, strict=True):
        assert len(ids) == pytest.approx(400 * length / sum(lengths), abs=1)
        assert ids == tokenizer.encode(text)[: len(ids)]


def test_a_long_text_is_cut_into_equal_documents(tokenizer, monkeypatch):
    monkeypatch.setattr(room, "MAX_DOCUMENT", 50)
    ids = tokenizer.encode(built_in_texts()[0])[:151]
    documents = make_documents(tokenizer, [built_in_texts()[0]], 151)
    assert [len(one) for one in documents] == [37, 38, 38, 38]
    assert [i for one in documents for i in one] == ids


def test_more_tokens_than_there_are_take_all(tokenizer):
    texts = built_in_texts()
    documents = make_documents(tokenizer, texts, 1 << 18)
    assert sum(map(len, documents)) == sum(len(tokenizer.encode(text)) for text in texts)


@pytest.mark.parametrize("texts", [[], [""], ["a"]])
def test_a_text_with_nothing_to_predict_is_refused(tokenizer, texts):
    with pytest.raises(Qwen35Error, match="give one of 2 or more"):
        make_documents(tokenizer, texts)


def changed(checkpoint, tmp_path, change) -> Tokenizer:
    folder = shutil.copytree(checkpoint, tmp_path / "changed")
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return Tokenizer.from_files(TextFiles.from_folder(folder))


def test_equal_tokenizers_have_no_difference(tokenizer, checkpoint):
    assert (
        tokenizer_difference(
            tokenizer, Tokenizer.from_files(TextFiles.from_folder(checkpoint)), ["x"]
        )
        is None
    )


def test_an_id_of_two_meanings_is_named(tokenizer, checkpoint, tmp_path):
    def swap(content):
        vocab = content["model"]["vocab"]
        vocab["!"], vocab['"'] = vocab['"'], vocab["!"]

    other = changed(checkpoint, tmp_path, swap)
    found = tokenizer_difference(tokenizer, other, ["x"], ("this", "that"))
    assert found is not None
    assert "is '!' in this and '\"' in that" in found


def test_a_text_that_is_split_differently_is_shown(tokenizer, checkpoint, tmp_path):
    def forget_merges(content):
        content["model"]["merges"] = []

    other = changed(checkpoint, tmp_path, forget_merges)
    texts = ["The quick brown fox"]
    found = tokenizer_difference(tokenizer, other, texts, ("this", "that"))
    assert found is not None
    assert found.startswith("this and that split the text differently at 'T")


def test_a_token_that_only_one_lists_is_no_difference(tokenizer, checkpoint, tmp_path):
    def drop(content):
        content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "ñ"]

    other = changed(checkpoint, tmp_path, drop)
    assert tokenizer_difference(tokenizer, other, ["The fox"]) is None
