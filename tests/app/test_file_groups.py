"""Folders and patterns in messages: what they name, what is left out, and the question before."""

import subprocess
from pathlib import Path

import pytest
from qwen35_chat import file_groups
from qwen35_chat.attachments import attached
from qwen35_chat.fake import CONTEXT
from qwen35_chat.file_groups import file_group, names_file
from qwen35_chat.file_question import ask_about, may_need_question
from qwen35_chat.screens.answers import ARMED_SECONDS
from qwen35_chat.tokens import TokenCounter

from qwen35_mlx.errors import Qwen35Error
from tests.app.drive import Driver, chat, reply
from tests.app.plain_drive import PlainChat


def write(folder: Path, *names: str, text: str = "text") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    write(folder, "a.py", "b.txt", "src/c.py", "src/deep/d.py", "src/deep/e.md", "odd [1].py")
    return folder


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("src/", ["src/c.py", "src/deep/d.py", "src/deep/e.md"]),
        ("src", ["src/c.py", "src/deep/d.py", "src/deep/e.md"]),
        ("*.py", ["a.py", "odd [1].py"]),
        ("**/*.py", ["a.py", "odd [1].py", "src/c.py", "src/deep/d.py"]),
        ("src/**/*.py", ["src/c.py", "src/deep/d.py"]),
        ("src/**", ["src/c.py", "src/deep/d.py", "src/deep/e.md"]),
        ("src/*/*", ["src/deep/d.py", "src/deep/e.md"]),
        ("**/deep/**/*.md", ["src/deep/e.md"]),
        ("[ab].*", ["a.py", "b.txt"]),
        ("?.py", ["a.py"]),
        ("*.rs", []),
        ("*.PY", []),
    ],
)
def test_a_name_stands_for_these_files_and_no_others(
    name: str, files: list[str], folder: Path
) -> None:
    assert [file for file, _ in file_group(name, folder).paths] == files
    every = [file for file, _ in file_group(".", folder).paths]
    assert [file[2:] for file in every if names_file(name, file[2:])] == files


def test_a_file_with_the_name_of_a_pattern_is_itself(folder: Path) -> None:
    found = attached('see @"odd [1].py"', folder)
    assert [file.name for file in found.files] == ["odd [1].py"]
    assert not found.groups


def test_a_folder_elsewhere_keeps_the_way_it_was_named(folder: Path) -> None:
    assert [file for file, _ in file_group("../src/*.py", folder / "src").paths] == ["../src/c.py"]
    absolute = str(folder / "src/deep")
    assert file_group(absolute, Path()).paths[0][0] == f"{absolute}/d.py"


def test_what_is_hidden_linked_made_or_no_text_is_left_out_and_counted(folder: Path) -> None:
    write(folder, ".env", ".git/config", ".github/x.yml", "node_modules/x.js", "src/secret.txt")
    (folder / "link.py").symlink_to(folder / ".env")
    (folder / "up").symlink_to(folder.parent)
    (folder / "image.py").write_bytes(b"\x89PNG\x00")
    (folder / "large.py").write_text("x" * 2_000_001)
    (group,) = attached("@./", folder).groups
    names = [file.name for file in group.files]
    assert names == [
        *("./a.py", "./b.txt", "./odd [1].py", "./src/c.py"),
        *("./src/deep/d.py", "./src/deep/e.md", "./src/secret.txt"),
    ]
    assert group.left_out == {
        "hidden": 3,
        "links": 2,
        "made by programs": 1,
        "not text": 1,
        "too large": 1,
    }
    (group,) = attached("@*.py", folder).groups
    assert group.left_out == {"links": 1, "not text": 1, "too large": 1}


IGNORE = {
    ".gitignore": "*.log\n/out/\n!keep.log\n# a comment\n\nsub/*.tmp\n",
    "sub/.gitignore": "*.txt\n!deep/x.txt\n!b.log\n",
}


def test_git_ignores_the_same_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        *("a.log", "keep.log", "out/x", "in/out/x", "in/a.log", "sub/a.tmp", "a.tmp"),
        *("sub/a.txt", "sub/deep/x.txt", "sub/deep/y.txt", "a.txt", "sub/b.log"),
    )
    for name, text in IGNORE.items():
        write(tmp_path, name, text=text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    command = ["git", "ls-files", "--others", "--exclude-standard"]
    of_git = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    shown = {line for line in of_git.stdout.split() if ".gitignore" not in line}
    assert {name for name, _ in file_group("**", tmp_path).paths} == shown
    # The rules of the folders above hold in a folder that is named.
    below = {name for name in shown if name.startswith("sub/")}
    assert {f"sub/{name}" for name, _ in file_group("**", tmp_path / "sub").paths} == below
    # A folder that is ignored was named, so it is meant.
    assert [name for name, _ in file_group("out", tmp_path).paths] == ["out/x"]


@pytest.mark.parametrize("text", ["a[\n!\n/\n***\n\\\n", "\0"])
def test_an_odd_gitignore_ends_nothing(text: str, tmp_path: Path) -> None:
    write(tmp_path, "a.py")
    write(tmp_path, ".gitignore", text=text)
    assert [name for name, _ in file_group("*", tmp_path).paths] == ["a.py"]


def test_too_many_files_are_refused_before_they_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, value, line in (
        ("MOST_FILES", 2, "src/ has more than 2 files: name a part of them"),
        ("MOST_BYTES", 11, "src/ has 3 files with 12 bytes, more than any context holds"),
        ("MOST_LOOKED_AT", 3, "src/ has more than 3 files and folders to look through"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(file_groups, limit, value)
            with pytest.raises(Qwen35Error, match=line):
                file_group("src/", folder)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("@*.rs", r"\*\.rs has no file that can be attached\. As text .*`@\*\.rs`"),
        ("@empty/", "empty/ has no file that can be attached"),
        ("@pictures", r"pictures has no file that can be attached \(1 hidden, 1 not text\)"),
    ],
)
def test_no_file_at_all_is_one_line(message: str, line: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    write(folder, "pictures/.x")
    (folder / "pictures/a.png").write_bytes(b"\0")
    with pytest.raises(Qwen35Error, match=line):
        attached(f"see {message}", folder)


@pytest.mark.parametrize("text", ["so @*note* this", "@[x] and @?", "a @a\0* b"])
def test_a_sign_of_a_pattern_alone_is_text(text: str, folder: Path) -> None:
    assert attached(text, folder).text == text


def test_a_file_of_two_groups_is_sent_once(folder: Path) -> None:
    found = attached("@src/c.py @src/ @src/*.py", folder)
    assert found.text.count('<file name="src/c.py">') == 1
    assert found.text.count("<file ") == 3


def test_the_question_has_the_tokens_of_each_file_and_their_share(folder: Path) -> None:
    write(folder, "src/c.py", text="word " * 800)
    found = attached("@src/", folder)
    question = ask_about(found, TokenCounter(), 4_000, 0)
    assert question is not None
    assert question.title == "Send 3 files of src/?"
    lines = question.text.split("\n")
    assert question.summary == "About 1,002 tokens, 25% of the 4,000 left in the context"
    assert lines == ["1,000  src/c.py", "    1  src/deep/d.py", "    1  src/deep/e.md"]
    unknown = ask_about(found, TokenCounter(), None, 0)
    assert unknown is not None
    assert unknown.summary == "About 1,002 tokens"
    with pytest.raises(Qwen35Error, match="3 files with about 1,002 tokens, and 1,002 are left"):
        ask_about(found, TokenCounter(), 1_002, 0)


@pytest.mark.parametrize(
    ("message", "title", "answer"),
    [
        ("@big.txt", "Send big.txt?", "Send 1 file"),
        ("@big.txt @small.txt", "Send big.txt and small.txt?", "Send 2 files"),
        ("@big.txt @small.txt @src/c.py", "Send big.txt and 2 others?", "Send 3 files"),
        ("@small.txt @src/", "Send 4 files?", "Send 4 files"),
        ("@small.txt", "", ""),
    ],
)
def test_a_tenth_of_the_context_needs_a_question(
    message: str, title: str, answer: str, folder: Path
) -> None:
    write(folder, "big.txt", text="word" * 400)
    write(folder, "small.txt", text="word" * 399)
    found = attached(message, folder)
    question = ask_about(found, TokenCounter(), 4_000, 4_000)
    assert question is None if not title else question is not None
    if question is not None:
        assert (question.title, question.yes) == (title, answer)
        assert "left in the context" in question.summary
    assert may_need_question(found, 4_000)  # by its characters


def test_few_characters_or_an_unknown_context_need_no_count(folder: Path) -> None:
    write(folder, "big.txt", text="x" * 400)
    found = attached("@big.txt", folder)
    assert may_need_question(found, 4_000)
    assert not may_need_question(found, 4_001)
    assert not may_need_question(found, 0)
    with pytest.raises(Qwen35Error, match=r"about 100 tokens, and 90 .*: give a part of it"):
        ask_about(found, TokenCounter(), 90, 900)


async def test_a_large_file_is_sent_after_a_question(home: Path) -> None:
    write(Path(), "big.txt", text="word " * (CONTEXT // 5))
    async with chat(home) as at:
        await at.send("see @big.txt")
        await at.until(lambda: "Send big.txt?" in at.text)
        assert "left in the context" in " ".join(at.text.split())
        at.clock.now += 2 * ARMED_SECONDS
        await at.press("escape")
        assert (at.sent, at.typed) == ([], "see @big.txt")
        await at.press("ctrl+c")
        await at.send("see @big.txt")
        await at.until(lambda: "Send big.txt?" in at.text)
        at.clock.now += 2 * ARMED_SECONDS
        await at.press("enter")
        assert at.sent == [attached("see @big.txt", Path()).text]


async def asked(at: Driver) -> None:
    await at.until(lambda: "Send 2 files" in at.text)
    at.clock.now += 2 * ARMED_SECONDS


async def test_a_folder_is_sent_after_a_question(home: Path) -> None:
    write(Path(), "src/a.py", "src/b.py", text="print()\n")
    write(Path(), "src/.env")
    async with chat(home) as at:
        await at.press("@", "s", "r", "c")
        await at.until(lambda: "sends its files" in at.text)
        await at.press("tab", "h", "i", "enter")
        await at.until(lambda: "Send 2 files of src/?" in at.text)
        assert "left in the context" in at.text
        assert "Left out: 1 hidden" in at.text
        await at.press("enter")  # too early to be meant
        assert at.sent == []
        await asked(at)
        await at.press("enter")
        first = '@src/ hi\n\n<file name="src/a.py">\nprint()\n</file>'
        assert at.sent == [first + '\n\n<file name="src/b.py">\nprint()\n</file>']
        assert at.typed == ""


@pytest.mark.parametrize("keys", [["escape"], ["ctrl+c"], ["down", "enter"]])
async def test_a_folder_that_is_declined_sends_nothing(keys: list[str], home: Path) -> None:
    write(Path(), "src/a.py", "src/b.py")
    async with chat(home) as at:
        await at.send("look at @src/*.py please")
        await asked(at)
        await at.press(*keys)
        assert at.sent == []
        assert at.typed == "look at @src/*.py please"
        assert at.app.chat.writing.unsent == []


async def test_a_folder_beyond_the_context_is_refused_with_the_numbers(home: Path) -> None:
    write(Path(), "src/a.py", text="word, " * 10 * CONTEXT)
    async with chat(home) as at:
        await at.send("@src/")
        await at.until(lambda: f"{CONTEXT:,} are left in the context" in " ".join(at.text.split()))
        assert at.sent == []
        assert at.typed == "@src/"


async def test_an_edit_offers_the_folder_and_not_its_files(home: Path) -> None:
    write(Path(), "src/a.py", "src/b.py")
    async with chat(home) as at:
        await at.send("see @src/.")
        await asked(at)
        await at.press("enter")
        await at.shown(reply("fine"))
        await at.press("f4")
        assert at.typed == "see @src/."


def test_plain_mode_asks_in_a_line(session: PlainChat) -> None:
    write(Path(), "src/a.py", "src/b.py")
    text = session.run("see @src/", "no", "see @src/", "yes", reply("fine"))
    assert text.count("Send 2 files of src/?") == 2
    assert "Not sent." in text
    assert session.engine.sent == [attached("see @src/", Path()).text]


def test_plain_mode_without_a_user_sends_no_folder(home: Path) -> None:
    write(Path(), "src/a.py")
    session = PlainChat(home, attended=False)
    assert "nobody can agree" in session.run("see @src/")
    assert session.engine.sent == []
    session.library.close()


def test_plain_mode_asks_about_a_large_file_if_there_is_a_user(home: Path) -> None:
    write(Path(), "big.txt", text="word " * (CONTEXT // 5))
    for attended in (True, False):
        session = PlainChat(home, attended=attended)
        text = session.run("see @big.txt", *(["no"] if attended else [reply("fine")]))
        assert ("Send big.txt?" in text) is attended
        assert bool(session.engine.sent) is not attended
        session.library.close()
