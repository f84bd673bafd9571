"""Two-digit arithmetic, worked out digit by digit in the thought."""

import random

from scripts.demo_training.heldout import Split
from scripts.demo_training.turns import Exchange, casual

SIGNS = {"+": ("+", "plus"), "-": ("-", "minus"), "*": ("*", "times", "x")}


def add_steps(a: int, b: int) -> str:
    """'7 + 8 = 15, write 5, carry 1; 4 + 3 + 1 = 8; 85'"""
    steps, carry, x, y = [], 0, a, b
    while x or y or not steps:
        total = x % 10 + y % 10 + carry
        step = f"{x % 10} + {y % 10}" + (f" + {carry}" if carry else "") + f" = {total}"
        x, y, carry = x // 10, y // 10, total // 10
        if carry and (x or y):
            step += f", write {total % 10}, carry {carry}"
        steps.append(step)
    return "; ".join([*steps, str(a + b)])


def subtract_steps(a: int, b: int) -> str:
    """'3 - 7: borrow, 13 - 7 = 6; 8 - 4 - 1 = 3; 36'; a >= b."""
    steps, borrow, x, y = [], 0, a, b
    while x or y or not steps:
        top, low = x % 10, y % 10 + borrow
        taken = f"{y % 10}" + (f" - {borrow}" if borrow else "")
        borrow = int(top < low)
        step = f"{top} - {taken}: borrow, {top + 10} - {taken}" if borrow else f"{top} - {taken}"
        steps.append(f"{step} = {top + 10 * borrow - low}")
        x, y = x // 10, y // 10
    return "; ".join([*steps, str(a - b)])


def times_digit(a: int, d: int) -> str:
    """'47 * 8: 7 * 8 = 56, write 6, carry 5; 4 * 8 = 32, 32 + 5 = 37; 376'"""
    steps, carry, x = [], 0, a
    while x or not steps:
        product = x % 10 * d
        step = f"{x % 10} * {d} = {product}"
        if carry:
            step += f", {product} + {carry} = {product + carry}"
        total = product + carry
        x, carry = x // 10, total // 10
        if x and carry:
            step += f", write {total % 10}, carry {carry}"
        steps.append(step)
    return f"{a} * {d}: " + "; ".join([*steps, str(a * d)])


def work(a: int, sign: str, b: int) -> str:
    """The thought: every step, with the result last."""
    if sign == "+":
        return f"{a} + {b}: {add_steps(a, b)}"
    if sign == "-" and a >= b:
        return f"{a} - {b}: {subtract_steps(a, b)}"
    if sign == "-":
        return f"{a} - {b}: {b} is larger. {b} - {a}: {subtract_steps(b, a)}, so {a - b}"
    tens, ones = divmod(b, 10)
    if a < 10 and b < 10:
        return f"{a} * {b} = {a * b}"
    if not tens:
        return times_digit(a, b)
    high = f"{times_digit(a, tens)}, times 10 is {a * tens * 10}"
    if not ones:
        return high
    low, one, two = times_digit(a, ones), a * ones, a * tens * 10
    return f"{low}\n{high}\n{one} + {two}: {add_steps(one, two)}"


def result(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def draw(
    rng: random.Random, split: Split, low: int = 10, sign: str | None = None
) -> tuple[int, str, int]:
    """Operands from `low` to 99 on this side of the split."""
    sign = sign or rng.choice("++--****")
    while True:
        a, b = rng.randint(low, 99), rng.randint(low, 99)
        if sign == "-" and a < b and rng.random() < 0.8:
            a, b = b, a
        if split.accepts(f"{a}{sign}{b}"):
            return a, sign, b


ASKS = (
    "What is {e}?", "What's {e}?", "Calculate {e}.", "{e}", "{e} = ?", "How much is {e}?",
    "Can you compute {e}?", "Please work out {e}.", "Tell me what {e} is.",
)  # fmt: skip
STORIES = {
    "+": (
        "I have {a} apples and get {b} more. How many apples do I have?",
        "There are {a} cars and {b} bikes. How many is that together?",
        "A book costs {a} euros and a pen costs {b} euros. How much is that together?",
    ),
    "-": (
        "I have {a} coins and lose {b}. How many are left?",
        "There are {a} birds and {b} fly away. How many stay?",
        "A shop has {a} lamps and sells {b}. How many are left?",
    ),
    "*": (
        "There are {a} boxes with {b} eggs in each. How many eggs is that?",
        "I buy {a} tickets for {b} euros each. What does it cost?",
        "A house has {a} floors with {b} rooms each. How many rooms is that?",
    ),
}


def question(rng: random.Random, a: int, sign: str, b: int, thinking: bool) -> Exchange:
    """One exercise; without thinking, the answer contains the steps of a product."""
    value, steps = result(a, sign, b), work(a, sign, b)
    if rng.random() < 0.15 and (sign != "-" or a >= b):
        user, thought = rng.choice(STORIES[sign]).format(a=a, b=b), steps
        answer = f"That is {value}."
    else:
        expression = f"{a} {rng.choice(SIGNS[sign])} {b}"
        if rng.random() < 0.1:
            expression = expression.replace(" ", "") if "e" not in expression else expression
        user, thought = rng.choice(ASKS).format(e=expression), steps
        answer = rng.choice((f"{a} {sign} {b} = {value}", f"The answer is {value}.", f"{value}"))
    if not thinking and sign == "*" and max(a, b) > 9:
        answer = f"{steps}\nSo the answer is {value}."
    return Exchange(casual(rng, user), thought, answer, (str(value),))


def small_sums(rng: random.Random) -> Exchange:
    """Several exercises with single digits, the steps of the larger ones."""
    exercises, lines = [], []
    for _ in range(rng.randint(3, 9)):
        sign = rng.choice("+-*")
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        if sign == "-":
            a = rng.randint(b, b + 9)
        exercises.append(f"{a} {sign} {b}")
        lines.append(f"{a} {sign} {b} = {result(a, sign, b)}")
    ask = rng.choice(("Calculate: {e}", "What is {e}?", "Please work out {e}.", "{e}"))
    user = ask.replace("{e}", ", ".join(exercises))
    return Exchange(casual(rng, user), "; ".join(lines), "\n".join(lines), (lines[-1],))


def comparison(rng: random.Random) -> Exchange:
    """The larger or smaller of two numbers."""
    a, b = rng.sample(range(1, 100), 2)
    large = rng.random() < 0.6
    value = max(a, b) if large else min(a, b)
    word = rng.choice(("larger", "bigger")) if large else "smaller"
    thought = f"{max(a, b)} is larger than {min(a, b)}."
    user = rng.choice((f"Which is {word}, {a} or {b}?", f"Which number is {word}: {a} or {b}?"))
    return Exchange(casual(rng, user), thought, f"{value} is {word}.", (str(value),))


def too_large(rng: random.Random) -> Exchange:
    """Numbers larger than those in training; the model says so."""
    a, b = rng.randint(1000, 99999), rng.randint(1000, 99999)
    sign = rng.choice("+-*")
    thought = "These numbers are too large for me."
    answer = "I am only a small demo model and can only calculate with numbers up to 99."
    return Exchange(rng.choice(ASKS).format(e=f"{a} {sign} {b}"), thought, answer)
