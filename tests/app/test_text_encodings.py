"""Files in other encodings than UTF-8."""

import random
from collections import Counter
from pathlib import Path

import pytest
from qwen35_chat.attachments import attached
from qwen35_chat.text_encodings import LEAST_PAIRS, Decoded, decoded

from qwen35_mlx import evaluation
from tests.app.chinese_texts import SIMPLIFIED, TRADITIONAL
from tests.app.drive import chat

LONG = (
    Path(__file__).parent / "languages" / "chinese.md",
    Path(evaluation.__file__).parent / "texts" / "chinese.txt",
)
CHINESE = "请把这个文件翻译成英文，然后保存到桌面上。\n今天天气很好，我们去公园。\n"
SAMPLES = {
    "Chinese": CHINESE,
    "a table": "数据,单位\n北京,3\n",
    "one character": "人",
    "Japanese": "このファイルを英語に翻訳してください。今日はいい天気です。\n",
    "Korean": "이 파일을 영어로 번역해 주세요. 오늘은 날씨가 좋습니다.\n",
    "Russian": "Переведите этот файл на английский язык, пожалуйста.\n",
    "French": "Le café est fermé à cause de la fête du déménagement.\n",
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize(
    ("codec", "said"),
    [
        ("utf-8", ""),
        ("utf-8-sig", "UTF-8 with a byte order mark"),
        ("utf-16", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-32", "UTF-32"),
    ],
)
def test_unicode_in_any_form(name: str, codec: str, said: str) -> None:
    if codec in ("utf-16-le", "utf-16-be") and name == "one character":
        pytest.skip("two bytes without a mark may be anything")
    assert decoded(SAMPLES[name].encode(codec)) == Decoded(SAMPLES[name], said)


@pytest.mark.parametrize("name", ["Chinese", "a table", "one character"])
@pytest.mark.parametrize("codec", ["gbk", "gb18030", "gb2312"])
def test_gbk(name: str, codec: str) -> None:
    assert decoded(SAMPLES[name].encode(codec)) == Decoded(SAMPLES[name], "GBK")


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("Japanese", "shift_jis"),
        ("Japanese", "euc_jp"),
        ("Korean", "euc_kr"),
        ("Russian", "cp1251"),
        ("Russian", "koi8_r"),
        ("French", "cp1252"),
        ("French", "mac_roman"),
    ],
)
def test_another_encoding_is_never_taken_for_chinese(name: str, codec: str) -> None:
    assert decoded(SAMPLES[name].encode(codec)) is None


CODECS = {"GBK": ("gbk", SIMPLIFIED), "Big5": ("cp950", TRADITIONAL)}


@pytest.mark.parametrize("name", CODECS)
def test_gbk_and_big5_are_told_apart(name: str) -> None:
    """Sentences, their parts of 8 to 16 characters, and pages of them."""
    codec, texts = CODECS[name]
    pages = ["\n".join(texts[at:]) for at in range(0, len(texts), 5)]
    parts = [text[at : at + size] for text in texts for size in (8, 12, 16) for at in (0, 4)]
    parts = [part for part in parts if pairs(part) >= LEAST_PAIRS]
    assert len(texts) + len(pages) + len(parts) > 180
    for text in (*texts, *pages):
        assert decoded(text.encode(codec)) == Decoded(text, name)
    found = [decoded(part.encode(codec)) for part in parts]
    told = {(part, one) for part, one in zip(parts, found, strict=True) if one is not None}
    assert told <= {(part, Decoded(part, name)) for part in parts}
    # Some few are all of pairs that are as likely to be of another language.
    assert found.count(None) <= 0.02 * len(parts)


@pytest.mark.parametrize("name", CODECS)
def test_a_guess_at_a_short_text_is_called_one(name: str) -> None:
    codec, texts = CODECS[name]
    counts: Counter[str] = Counter()
    for text in texts:
        for size in (1, 2, 3, 5, 7):
            for at in range(len(text) - size):
                part = text[at : at + size].encode(codec)
                if not is_utf8(part) and (found := decoded(part)) is not None:
                    right = found.text.encode(codec, "replace") == part
                    counts["right" if right else found.encoding] += 1
    assert counts.pop("right") > 1000
    other = next(iter(CODECS.keys() - {name}))
    assert counts.keys() <= {f"{other} (too short to tell from {name})"}
    assert counts.total() < 100


def pairs(text: str) -> int:
    """The characters of two bytes in GBK and Big5."""
    return sum(not character.isascii() for character in text)


def is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8, too, by chance; those of ASCII are."""
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("file", LONG)
def test_a_long_text_in_gbk(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    data = text.encode("gbk", "ignore")
    assert decoded(data) == Decoded(data.decode("gbk"), "GBK")


@pytest.mark.parametrize("codec", ["big5", "cp950"])
def test_big5_is_said_in_the_note(tmp_path: Path, codec: str) -> None:
    (tmp_path / "a.txt").write_bytes(TRADITIONAL[0].encode(codec))
    (tmp_path / "b.txt").write_bytes("鐘樓".encode(codec))
    found = attached("@a.txt @b.txt", tmp_path)
    assert TRADITIONAL[0] in found.text
    said = "a.txt is read as Big5, b.txt is read as GBK (too short to tell from Big5)"
    assert found.note == said


def test_bytes_that_are_no_text_are_none() -> None:
    random_ = random.Random(2)
    assert decoded(b"") == Decoded("")
    assert not any(decoded(random_.randbytes(200)) for _ in range(500))
    for data in (b"\0\1", b"\xff\xfe\0", b"PK\3\4\0\0", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"a\0b"):
        assert decoded(data) is None


def test_a_file_in_gbk_is_sent_as_text_and_the_note_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(CHINESE.encode("gbk"))
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfplain")
    (tmp_path / "c.txt").write_text("plain")
    found = attached("@a.txt @b.txt @c.txt", tmp_path)
    assert CHINESE.rstrip() in found.text
    assert "\ufeff" not in found.text
    said = "a.txt is read as GBK, b.txt is read as UTF-8 with a byte order mark"
    assert found.note == said


async def test_the_screen_says_how_a_file_was_read(home: Path) -> None:
    Path("notes.txt").write_bytes(CHINESE.encode("utf-16"))
    async with chat(home) as at:
        await at.send("请看@notes.txt")
        await at.until(lambda: "notes.txt is read as UTF-16" in at.text)
        assert CHINESE.rstrip() in at.sent[0]
