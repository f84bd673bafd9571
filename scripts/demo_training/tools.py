"""Dialogues in which the model calls a function."""

import random
from typing import Any

from scripts.demo_training import words
from scripts.demo_training.heldout import pseudo_word
from scripts.demo_training.turns import Dialogue, Message, casual


def spec(name: str, description: str, **parameters: str) -> dict[str, Any]:
    """A function in the usual JSON form; every parameter is required."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {"type": "function", "function": {"name": name, "description": description,
            "parameters": {"type": "object", "properties": properties,
                           "required": list(parameters)}}}  # fmt: skip


TOOLS = {
    "get_weather": spec("get_weather", "The weather in a city", city="string"),
    "get_time": spec("get_time", "The time in a city", city="string"),
    "set_timer": spec("set_timer", "Start a timer", minutes="integer"),
    "calculate": spec("calculate", "Calculate an expression", expression="string"),
    "save_note": spec("save_note", "Save a note", text="string"),
}


def scene(rng: random.Random, name: str) -> tuple[str, dict[str, Any], str, str]:
    """(question, arguments, the tool's result, the final answer)."""
    city = rng.choice(words.CITIES) if rng.random() < 0.6 else pseudo_word(rng).capitalize()
    if name == "get_weather":
        sky, degrees = rng.choice(("sunny", "rainy", "cloudy", "windy")), rng.randint(-5, 35)
        ask = rng.choice(("What is the weather in {c}?", "How is the weather in {c}?"))
        return (
            ask.replace("{c}", city),
            {"city": city},
            f"{sky}, {degrees} degrees",
            f"In {city} it is {sky} with {degrees} degrees.",
        )
    if name == "get_time":
        time = f"{rng.randint(0, 23)}:{rng.randint(10, 59)}"
        return (f"What time is it in {city}?", {"city": city}, time, f"In {city} it is {time}.")
    if name == "set_timer":
        minutes = rng.randint(2, 90)
        return (
            f"Set a timer for {minutes} minutes.",
            {"minutes": minutes},
            "ok",
            f"The timer is set for {minutes} minutes.",
        )
    if name == "calculate":
        a, b = rng.randint(100, 9999), rng.randint(100, 9999)
        return (
            f"What is {a} * {b}?",
            {"expression": f"{a} * {b}"},
            str(a * b),
            f"The result is {a * b}.",
        )
    text = f"{rng.choice(('buy', 'bring', 'clean', 'sell'))} the {rng.choice(words.NOUNS)}"
    return (f"Make a note: {text}", {"text": text}, "saved", "I have saved the note.")  # fmt: skip


def call(rng: random.Random, system: str | None = None) -> Dialogue:
    """A question, a tool call, its result and the answer; sometimes only up to the call."""
    names = rng.sample(list(TOOLS), rng.randint(1, 3))
    name = names[0]
    rng.shuffle(names)
    ask, arguments, result, answer = scene(rng, name)
    thinking = rng.random() < 0.6
    thought = f"I call {name}." if thinking else ""
    call_message: Message = {
        "role": "assistant",
        "content": "",
        "reasoning_content": thought,
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": casual(rng, ask)}, call_message]
    if rng.random() < 0.75:
        last = f"The result is: {result}." if thinking else ""
        messages.append({"role": "tool", "content": result})
        messages.append({"role": "assistant", "content": answer, "reasoning_content": last})
    return Dialogue(messages, thinking, "tools", [TOOLS[n] for n in names])
