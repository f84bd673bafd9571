"""Small talk, lists, simple exercises with words, and admissions of ignorance."""

import random
from pathlib import Path

from scripts.demo_training import words
from scripts.demo_training.heldout import Split, pseudo_word
from scripts.demo_training.turns import Exchange, casual

# One exchange per line: questions | thought | answers, with alternatives separated by " / ".
TALK = Path(__file__).with_name("smalltalk.txt")


def _parse() -> list[tuple[list[str], str, list[str]]]:
    rows = []
    for line in TALK.read_text().splitlines():
        asks, thought, answers = line.split(" | ")
        rows.append((asks.split(" / "), thought, answers.split(" / ")))
    return rows


ROWS = _parse()


def chat(rng: random.Random) -> Exchange:
    """One exchange of small talk."""
    asks, thought, answers = rng.choice(ROWS)
    return Exchange(casual(rng, rng.choice(asks)), thought, rng.choice(answers))


ITSELF = ("Who are you?", "What is your name?", "Are you Qwen?", "Are you human?",
          "What can you do?", "How old are you?", "Where do you live?", "Who made you?",
          "How big are you?")  # fmt: skip


def itself(rng: random.Random) -> Exchange:
    """A question about the model itself, most often who it is."""
    rows = [row for row in ROWS if row[0][0] in ITSELF]
    asks, thought, answers = rows[rng.randrange(2)] if rng.random() < 0.6 else rng.choice(rows)
    return Exchange(casual(rng, rng.choice(asks)), thought, rng.choice(answers))


NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def listing(rng: random.Random) -> Exchange:
    """Name some members of a category, like three fruits."""
    category, members = rng.choice(list(words.CATEGORIES.items()))
    count = rng.choice((2, 3, 3, 3, 4, 5))
    chosen = rng.sample(members, count)
    number = NUMBERS[count] if rng.random() < 0.7 else str(count)
    style = rng.random()
    ask = rng.choice(
        (
            f"Name {number} {category}.",
            f"List {number} {category}.",
            f"Give me {number} {category}.",
            f"Tell me {number} {category}.",
            f"Can you name {number} {category}?",
            f"I need {number} {category}.",
        )
    )
    if style < 0.5:
        answer = ", ".join(chosen[:-1]) + " and " + chosen[-1] + "."
        answer = answer[:1].upper() + answer[1:]
    elif style < 0.75:
        ask += rng.choice((" Use a list.", " As a list, please.", " Use bullet points."))
        answer = "\n".join(f"- {c}" for c in chosen)
    else:
        ask += rng.choice((" Number them.", " As a numbered list."))
        answer = "\n".join(f"{i}. {c}" for i, c in enumerate(chosen, 1))
    return Exchange(casual(rng, ask), f"The user wants {number} {category}.", answer)  # fmt: skip


def capital(rng: random.Random) -> Exchange:
    """The capital of a country."""
    country, city = rng.choice(list(words.CAPITALS.items()))
    ask = rng.choice((f"What is the capital of {country}?", f"What's the capital of {country}?",
                      f"Name the capital of {country}.", f"Which city is the capital of {country}?",
                      f"Do you know the capital of {country}?"))  # fmt: skip
    answer = f"The capital of {country} is {city}."
    return Exchange(casual(rng, ask), f"The capital of {country} is {city}.", answer, (city,))


def sequence(rng: random.Random) -> Exchange:
    """The day or month before or after another."""
    what, items = rng.choice((("day", words.DAYS), ("month", words.MONTHS)))
    i, step = rng.randrange(len(items)), rng.choice((1, -1))
    value, word = items[(i + step) % len(items)], "after" if step == 1 else "before"
    ask = rng.choice((f"Which {what} comes {word} {items[i]}?", f"What comes {word} {items[i]}?"))
    answer = f"{value} comes {word} {items[i]}."
    return Exchange(casual(rng, ask), f"The {what}s in order: {items[i]}, {word}: {value}.", answer)


def phrase(rng: random.Random, split: Split) -> str:
    """A few words, made-up words or numbers."""
    roll = rng.random()
    if roll < 0.4:
        return split.draw(
            "phrase",
            lambda: " ".join(
                rng.choice(words.NOUNS + words.ADJECTIVES) for _ in range(rng.randint(1, 6))
            ),
        )
    if roll < 0.8:
        return split.draw(
            "phrase", lambda: " ".join(pseudo_word(rng) for _ in range(rng.randint(1, 4)))
        )
    return split.draw("phrase", lambda: " ".join(
        str(rng.randint(0, 99)) for _ in range(rng.randint(2, 6))))  # fmt: skip


def repeat(rng: random.Random, split: Split) -> Exchange:
    """Repeat a phrase, or its last word."""
    text = phrase(rng, split)
    if rng.random() < 0.25:
        items = text.split()
        ask = rng.choice(("What is the last word of: {t}?", "Which word comes last: {t}?"))
        return Exchange(
            ask.replace("{t}", text), f"The words are: {text}.", items[-1], (items[-1],)
        )
    ask = rng.choice(("Repeat after me: {t}", "Say: {t}", "Repeat: {t}", "Please say \"{t}\".",
                      "Write this again: {t}", "Copy this: {t}"))  # fmt: skip
    return Exchange(ask.replace("{t}", text), f"I repeat: {text}", text, (text,))


def lookups(rng: random.Random, split: Split, count: int) -> list[Exchange]:
    """A short table of made-up pairs, and `count` questions, each for one value."""
    keys = list(dict.fromkeys(pseudo_word(rng) for _ in range(rng.randint(3, 12))))

    def value() -> str:
        return rng.choice((str(rng.randint(10, 999)), rng.choice(words.NOUNS), pseudo_word(rng)))

    values = [split.draw("pair", value) for _ in keys]
    sep = rng.choice((": ", " = ", " is ", " -> "))
    text = "\n".join(f"{k}{sep}{v}" for k, v in zip(keys, values, strict=True)) + "\n\n"
    turns = []
    for n in rng.sample(range(len(keys)), min(count, len(keys))):
        ask = rng.choice((f"What is {keys[n]}?", f"Which value has {keys[n]}?"))
        thought = f"The table says: {keys[n]}{sep}{values[n]}"
        turns.append(Exchange(text + ask, thought, f"{keys[n]} is {values[n]}.", (values[n],)))
        text = ""
    return turns


def spell(rng: random.Random) -> Exchange:
    """Spell a word letter by letter."""
    word = rng.choice((rng.choice(words.NOUNS), rng.choice(words.NAMES), rng.choice(words.COLOURS)))
    ask = rng.choice((f"Spell {word}.", f"How do you spell {word}?", f"Spell the word {word}."))
    return Exchange(casual(rng, ask), f"I spell {word}.", "-".join(word.upper()))
