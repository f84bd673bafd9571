"""One question, one answer: `python examples/one_answer.py [QUESTION]`."""

import sys

import qwen35_mlx

question = sys.argv[1] if len(sys.argv) > 1 else "What is 47 + 38?"

# "demo" ships with the package. A folder or a repository on the Hugging Face Hub works too.
model = qwen35_mlx.load("demo")
reply = model.generate([{"role": "user", "content": question}], thinking=True, temperature=0.0)

print(f"Thinking: {reply.thinking}")
print(f"Answer: {reply.text}")
print(
    f"{reply.usage.prompt_tokens} tokens read, {reply.usage.reply_tokens} written, "
    f"finish reason: {reply.finish_reason}"
)
