"""Probabilities of the next token and of given answers: `python examples/logits.py`."""

import numpy as np

import qwen35_mlx

model = qwen35_mlx.load("demo")
question = {"role": "user", "content": "Name three fruits."}


def log_probabilities(ids: list[int]) -> np.ndarray:
    """Log-probabilities of the token after each position: ids [T] -> [T, vocab]."""
    logits = model.logits(ids).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


prompt = model.render([question], thinking=False)
after_prompt = log_probabilities(prompt)[-1]
print("Most likely first tokens of the answer:")
for token in np.argsort(after_prompt)[:-6:-1]:
    print(f"  {np.exp(after_prompt[token]):6.1%}  {model.tokenizer.decode([int(token)])!r}")

print("Probability of complete answers:")
for answer in ("Apple, pear and cherry.", "Carrot, potato and onion."):
    ids = model.tokenizer.encode(answer)
    rows = log_probabilities(prompt + ids)[len(prompt) - 1 : -1]
    print(f"  {np.exp(rows[np.arange(len(ids)), ids].sum()):.1e}  {answer}")
