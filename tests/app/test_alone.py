"""The command line with which the chat goes on alone."""

import pytest
from qwen35_chat.alone import arguments_alone
from qwen35_chat.command_parser import command_parser


@pytest.mark.parametrize(
    ("words", "conversation", "alone"),
    [
        (["--hosts", "h.json"], 3, ["--resume", "3"]),
        (["--hosts=h.json", "-m", "demo"], None, ["-m", "demo"]),
        (
            ["--hosts", "h.json", "--resume", "Sums", "--kv-bits", "8"],
            3,
            ["--kv-bits", "8", "--resume", "3"],
        ),
        (["--hosts", "h.json", "--resume"], 3, ["--resume", "3"]),
        (["--continue", "--hosts", "h.json", "--parallel", "pipeline"], 3, ["--resume", "3"]),
        (
            ["--hosts", "h.json", "--seed", "1", "What", "is", "it?"],
            3,
            ["--seed", "1", "--resume", "3"],
        ),
        (
            ["--hosts", "h.json", "--system", "Sums", "--", "Sums"],
            3,
            ["--system", "Sums", "--resume", "3"],
        ),
    ],
)
def test_all_but_hosts_message_and_conversation_stays(words, conversation, alone):
    assert arguments_alone(words, command_parser().parse_args(words), conversation) == alone
