"""Names of files in messages, in any script and beside any punctuation."""

from pathlib import Path

import pytest
from qwen35_chat.attachments import attached, files_below, taken_apart
from qwen35_chat.completion import files_for
from qwen35_chat.mentions import mention

from qwen35_mlx.errors import Qwen35Error

NAMES = ["notes.txt", "报告.txt", "会议 记录.md", "it's.txt", 'a "b".txt', "レポート.md", "a,b.txt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*NAMES, "src/a.py", "src/b.py", "报告", "example.org", "图@2x.txt", "back\\slash"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"in {name}")
    return tmp_path


def names(text: str, folder: Path) -> list[str]:
    found = attached(text, folder)
    return [file.name for file in found.files] + [group.name for group in found.groups]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("请看@notes.txt里的内容", ["notes.txt"]),
        ("请看@报告.txt里的内容", ["报告.txt"]),
        ("请看@报告里的内容", ["报告"]),
        ("请看（@notes.txt）。", ["notes.txt"]),
        ("「@レポート.md」を読んで", ["レポート.md"]),
        ("@notes.txt，@报告.txt。", ["notes.txt", "报告.txt"]),
        ("比较@notes.txt和@报告.txt、谢谢", ["notes.txt", "报告.txt"]),
        ("파일@notes.txt를 읽어줘", ["notes.txt"]),
        ("อ่าน@notes.txtหน่อย", ["notes.txt"]),
        ("请看＠notes.txt！", ["notes.txt"]),
        ("请看@“会议 记录.md”的结论", ["会议 记录.md"]),
        ('请看@"会议 记录.md"的结论', ["会议 记录.md"]),
        ('see @"a \\"b\\".txt".', ['a "b".txt']),
        ("see @it's.txt", ["it's.txt"]),
        ("see '@notes.txt'", ["notes.txt"]),
        ("(@notes.txt)", ["notes.txt"]),
        ("[@notes.txt]", ["notes.txt"]),
        ("{@notes.txt}", ["notes.txt"]),
        ("<@notes.txt>", ["notes.txt"]),
        ("files:@notes.txt,@a,b.txt;@it's.txt", ["notes.txt", "a,b.txt", "it's.txt"]),
        ("what is in @notes.txt?", ["notes.txt"]),
        ("@notes.txt...", ["notes.txt"]),
        ("请看@图@2x.txt吧", ["图@2x.txt"]),
        ("看@src/里的代码", ["src/"]),
        ("看@src里的代码", ["src"]),
        ("看@src/*.py里的代码", ["src/*.py"]),
        ("看@back\\slash吧", ["back\\slash"]),
        # No files: addresses of mail and of the web, and people.
        ("write to me@example.org", []),
        ("write to a.b+c@example.org, please", []),
        ("почта@example.org", []),
        ("https://x.com/@notes.txt", []),
        ("邮箱是zhang@example.org。", []),
        ("谢谢@张三，你好", []),
        ("谢谢@公司.com", []),
        ("`看@notes.txt`", []),
    ],
)
def test_which_files_are_meant(text: str, expected: list[str], folder: Path) -> None:
    assert names(text, folder) == expected


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("看 @notse.txt，谢谢", "notse.txt; did you mean @notes.txt"),
        ("请看@notse.txt里的内容", "notse.txt; did you mean @notes.txt"),
        ("看（@没有.txt）", "没有.txt in "),
        ("请看@没有.txt", "没有.txt in "),
        ("请看一下@没有.txt好吗", "没有.txt in "),
        ("これを、@nofile.md読んで", "nofile.md in "),
        ("파일@없음.txt를 읽어", "없음.txt in "),
    ],
)
def test_a_missing_file_is_named_without_what_follows(
    text: str, missing: str, folder: Path
) -> None:
    with pytest.raises(Qwen35Error) as refused:
        attached(text, folder)
    assert f"there is no file {missing}" in str(refused.value)


def test_names_with_quotation_marks_come_through_a_message_whole(folder: Path) -> None:
    text, files = taken_apart(attached('see @"a \\"b\\".txt" and @notes.txt', folder).text)
    assert text == 'see @"a \\"b\\".txt" and @notes.txt'
    assert [file.name for file in files] == ['a "b".txt', "notes.txt"]


def test_every_name_is_found_by_its_mention(folder: Path) -> None:
    for name in files_below(folder):
        if not name.endswith("/"):
            assert names(f"看{mention(name)}", folder) == [name]
            assert names(f"see {mention(name)} now", folder) == [name]


@pytest.mark.parametrize(
    ("text", "insert", "replaces"),
    [
        ("请看@not", "@notes.txt ", 4),
        ("请看（@not", "@notes.txt ", 4),
        ("@notes.txt，@报", "@报告.txt ", 2),
        ("@报告.txt和@not", "@notes.txt ", 4),
        ("请看＠not", "@notes.txt ", 4),
        ('看@"会议', '@"会议 记录.md" ', 4),
        ("看@“会议 ", '@"会议 记录.md" ', 5),
        ("see @a", '@"a \\"b\\".txt" ', 2),
    ],
)
def test_names_are_completed(text: str, insert: str, replaces: int) -> None:
    choices = files_for(text, ["notes.txt", "报告.txt", "会议 记录.md", 'a "b".txt'])
    assert (choices[0].insert, choices[0].replaces) == (insert, replaces)


@pytest.mark.parametrize("text", ["mail me@not", "почта@not", "http://a/@not", "看@not es", "a"])
def test_nothing_is_completed_in_an_address(text: str) -> None:
    assert files_for(text, ["notes.txt"]) == []


def test_a_long_text_without_spaces_costs_few_looks_at_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **o: looks.append(1) or stat(self, **o))
    assert names("请看@" + "没有这个文件" * 2_000, folder) == []
    assert len(looks) < 1_000
