"""Write a home folder with conversations and states, as this version stores them.

    TZ=UTC python tests/stored/write.py FOLDER

Files of every released version are kept beside this program; `tests/test_stored.py` opens them
with the present code. Uses public names only, so that it runs on any version.
"""

import os
import subprocess
import sys
from pathlib import Path

OPTIONS = {"temperature": 0.0, "thinking": False}


def drain(events):
    *_, last = events
    return last


def write(folder: Path) -> None:
    os.environ["QWEN35_HOME"] = str(folder)
    import qwen35_mlx

    model = qwen35_mlx.load("demo")
    chat = qwen35_mlx.Chat.open(model, system="You are Robin.", **OPTIONS)
    drain(chat.send("My name is Ada.", max_tokens=24))
    drain(chat.send("What is my name?", max_tokens=24))
    drain(chat.edit(chat.messages[2].id, "Who are you?", max_tokens=24))
    drain(chat.retry(max_tokens=8, seed=3))
    first = chat.conversation.id
    chat.close()

    chat = qwen35_mlx.Chat.open(
        model, thinking=True, temperature=0.5, top_p=0.9, top_k=12, presence_penalty=0.5
    )
    drain(chat.send("What is 47 + 38?", seed=7))
    stopped = chat.send("What is 12 + 30?", seed=7)
    for event in stopped:
        if type(event).__name__ == "Thinking":
            break
    stopped.close()
    chat.close()

    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
    chat = qwen35_mlx.Chat.open(model, tools=tools, **OPTIONS)
    drain(chat.send("What is the weather in Paris?", max_tokens=60))
    chat.close()

    chat = qwen35_mlx.Chat.open(model, **OPTIONS)
    drain(chat.send("你好，世界：今天天气怎么样？ 😀", max_tokens=12))  # noqa: RUF001
    chinese = chat.conversation.id
    chat.close()
    try:
        from qwen35_mlx.library.library import Library
    except ImportError:  # 0.1.0 before its rooms were parted
        from qwen35_mlx.session.library import Library
    with Library(folder) as library:
        library.save_draft(chinese, "还没有发送\nsecond line")
        library.rename(first, "Robin and Ada")

    export(folder, first, "md")
    for conversation in range(first, chinese + 1):
        export(folder, conversation, "json")


def export(folder: Path, conversation: int, kind: str) -> None:
    command = [sys.executable, "-m", "qwen35_chat.main", "--export", str(conversation)]
    done = subprocess.run([*command, "--format", kind], capture_output=True, check=True)
    (folder / f"{conversation}.{kind}").write_bytes(done.stdout)


if __name__ == "__main__":
    write(Path(sys.argv[1]).absolute())
