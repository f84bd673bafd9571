"""The events of a reply, and a tool call: `python examples/events.py`."""

from collections.abc import Sequence

import qwen35_mlx

WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}

chat = qwen35_mlx.Chat(
    qwen35_mlx.load("demo"),
    tools=[{"type": "function", "function": WEATHER}],
    thinking=True,
    temperature=0.0,
)
content: str | Sequence[dict[str, str]] = "What is the weather in Paris?"
while content:
    message, content = content, ()
    for event in chat.send(message, max_tokens=200):
        match event:
            case qwen35_mlx.PrefillProgress(done, total):
                print(f"[prefill {done}/{total}]")
            case qwen35_mlx.Thinking(text) | qwen35_mlx.Answer(text):
                print(text, end="", flush=True)
            case qwen35_mlx.ToolCall(name, arguments):
                print(f"[call {name} {dict(arguments)}]")
                content = [{"role": "tool", "content": "sunny, 21 degrees"}]
            case qwen35_mlx.Done(finish_reason, usage):
                print(f"\n[{finish_reason}, {usage.reply_tokens} tokens]")
