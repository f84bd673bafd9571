"""The language that a summary is asked for in."""

import pytest

from qwen35_mlx.text.language import SAMPLE, written_in

LEFT_OPEN = "the language that the user writes"


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["请帮我把这封信写得更礼貌一些。"], "Chinese"),
        (["請幫我把這封信寫得更禮貌一些。"], "Chinese"),
        (["この手紙をもっと丁寧に書き直してください。"], "Japanese"),
        (["東京都千代田区丸の内一丁目、新幹線乗車券及び特急券の予約方法"], "Japanese"),
        (["カタカナ"], "Japanese"),
        (["ﾃｽﾄ"], "Japanese"),
        (["Ｈｅｌｌｏ"], LEFT_OPEN),
        (["这家店叫“茶の味”，我很喜欢它的绿茶，下次你来的时候我们一起去吧"], "Chinese"),
        (["中文里有一个词“カメラ”。", "这一段说的是照相机的历史和它的发明人。"], "Chinese"),
        (["이 편지를 더 공손하게 고쳐 주세요."], "Korean"),
        (["ช่วยเขียนจดหมายนี้ให้สุภาพขึ้น"], f"{LEFT_OPEN}, in Thai script"),
        (["اكتب هذه الرسالة بأسلوب أكثر تهذيبا."], f"{LEFT_OPEN}, in Arabic script"),
        (["Перепиши это письмо вежливее."], f"{LEFT_OPEN}, in Cyrillic script"),
        (["Rewrite this letter, please."], LEFT_OPEN),
        (["Schreib diesen Brief höflicher."], LEFT_OPEN),
        ([], LEFT_OPEN),
        (["42 + 17 = ?", "👍🏽 ❤️", ""], LEFT_OPEN),
        # Code and names in between do not change it.
        (["为什么这个函数返回空值。", "def f(x):\n    return x"], "Chinese"),
        (["What does 你好 mean, and how is it pronounced in the north?"], LEFT_OPEN),
    ],
)
def test_the_language_is_that_of_most_of_the_text(texts: list[str], language: str) -> None:
    assert written_in(texts) == language


def test_the_newest_texts_count_and_long_ones_are_cut() -> None:
    taken: list[int] = []

    def texts():
        for number, text in enumerate(["你好" * SAMPLE, "hello " * SAMPLE, "hello " * SAMPLE]):
            taken.append(number)
            yield text

    assert written_in(texts()) == "Chinese"
    assert taken == [0]
