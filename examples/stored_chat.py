"""A chat that survives its process: `python examples/stored_chat.py FOLDER`.

Messages go to a library in FOLDER, and so do snapshots of the prompt cache. After a restart, only
the tokens of the new turn are prefilled.
"""

import sys

import qwen35_mlx
from qwen35_mlx.library.library import Library


def ask(chat: qwen35_mlx.Chat, question: str) -> None:
    """Print the answer to a question, and the tokens that the turn prefilled."""
    *_, done = chat.send(question, max_tokens=100)
    assert isinstance(done, qwen35_mlx.Done)
    usage = done.usage
    new_tokens = usage.prompt_tokens - usage.cached_tokens
    print(f"{question} -> {done.message['content']}")
    print(f"  prompt: {usage.prompt_tokens} tokens, prefilled: {new_tokens}")


folder = sys.argv[1] if len(sys.argv) > 1 else sys.exit("give a folder for the library")

with Library(folder) as library:
    model = qwen35_mlx.load("demo")
    chat = qwen35_mlx.Chat.open(model, library=library, thinking=False, temperature=0.0)
    ask(chat, "My name is Ada.")
    ask(chat, "Name three fruits.")
    number = chat.conversation.id
    chat.close()

# As in a new process: only the folder and the number of the conversation are left.
with Library(folder) as library:
    model = qwen35_mlx.load("demo")
    chat = qwen35_mlx.Chat.open(model, number, library=library)
    print(f"Reopened with {len(chat.messages)} messages.")
    ask(chat, "What is my name?")
    chat.close()
