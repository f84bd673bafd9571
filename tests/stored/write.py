"""Write a data folder with conversations and cache snapshots in the format of this version.

    TZ=UTC python tests/stored/write.py FOLDER

The files of every release are kept in this folder, and `tests/test_stored.py` opens them with the
current code. The script uses public names only, so that it runs with any version.
"""

import os
import subprocess
import sys
from pathlib import Path

OPTIONS = {"temperature": 0.0, "thinking": False}


def last_event(events):
    *_, last = events
    return last


def write(folder: Path) -> None:
    os.environ["QWEN35_HOME"] = str(folder)
    import qwen35_mlx

    model = qwen35_mlx.load("demo")
    chat = qwen35_mlx.Chat.open(model, system="You are Robin.", **OPTIONS)
    last_event(chat.send("My name is Ada.", max_tokens=24))
    last_event(chat.send("What is my name?", max_tokens=24))
    last_event(chat.edit(chat.messages[2].id, "Who are you?", max_tokens=24))
    last_event(chat.retry(max_tokens=8, seed=3))
    first = chat.conversation.id
    chat.close()

    chat = qwen35_mlx.Chat.open(
        model, thinking=True, temperature=0.5, top_p=0.9, top_k=12, presence_penalty=0.5
    )
    last_event(chat.send("What is 47 + 38?", seed=7))
    stopped = chat.send("What is 12 + 30?", seed=7)
    for event in stopped:
        if type(event).__name__ == "Thinking":
            break
    stopped.close()
    chat.close()

    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
    chat = qwen35_mlx.Chat.open(model, tools=tools, **OPTIONS)
    last_event(chat.send("What is the weather in Paris?", max_tokens=60))
    chat.close()

    chat = qwen35_mlx.Chat.open(model, **OPTIONS)
    last_event(chat.send("你好，世界：今天天气怎么样？ 😀", max_tokens=12))
    chinese = chat.conversation.id
    chat.close()
    try:
        from qwen35_mlx.library.library import Library
    except ImportError:  # before the library was a package of its own
        from qwen35_mlx.session.library import Library
    with Library(folder) as library:
        library.save_draft(chinese, "还没有发送\nsecond line")
        library.rename(first, "Robin and Ada")

    export(folder, first, "md")
    for conversation in range(first, chinese + 1):
        export(folder, conversation, "json")


def export(folder: Path, conversation: int, kind: str) -> None:
    command = [sys.executable, "-m", "qwen35_chat.main", "--export", str(conversation)]
    result = subprocess.run([*command, "--format", kind], capture_output=True, check=True)
    (folder / f"{conversation}.{kind}").write_bytes(result.stdout)


if __name__ == "__main__":
    write(Path(sys.argv[1]).absolute())
