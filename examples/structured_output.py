"""An answer in a JSON schema, and a forced tool call: `python examples/structured_output.py`."""

import json

import qwen35_mlx

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "capital": {"type": "boolean"}},
    "required": ["city", "capital"],
    "additionalProperties": False,
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "unit": {"enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
    },
}
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]

model = qwen35_mlx.load("demo")
form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
reply = model.generate(QUESTION, response_format=form, thinking=False, temperature=0.0)
print(json.loads(reply.text))

tools = [{"type": "function", "function": WEATHER}]
reply = model.generate(QUESTION, tools=tools, tool_choice="required", temperature=0.0)
for call in reply.tool_calls:
    print(call.name, dict(call.arguments), reply.finish_reason)
