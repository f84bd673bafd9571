"""Long generated texts, and questions about one detail in them."""

import random

from scripts.demo_training import words
from scripts.demo_training.heldout import Split, pseudo_word
from scripts.demo_training.turns import Exchange, casual
from scripts.demo_training.words import listed

ITEMS = listed("door,box,safe,locker,gate,room,garage,suitcase,drawer,cabinet,chest,bike lock", ",")


def filler(rng: random.Random) -> str:
    """A sentence that is the answer to no question."""
    noun, other = rng.sample(words.NOUNS, 2)
    adj, adj2 = rng.sample(words.ADJECTIVES, 2)
    place = rng.choice(words.PLACES)
    return rng.choice((
        f"The {adj} {noun} stood near {place}.",
        f"We saw a {adj} {noun} and a {adj2} {other}.",
        f"Nobody looked at the {noun} in {place}.",
        f"It was a {adj} morning at {place}.",
        f"The {noun} was {adj}, but the {other} was {adj2}.",
        f"On {rng.choice(words.DAYS)} the {noun} was still {adj}.",
        f"There is a {adj} {noun} behind {place}.",
        f"They painted the {noun} {rng.choice(words.COLOURS)}.",
        f"I walked from {place} to {rng.choice(words.PLACES)}.",
        f"Every {noun} needs a {adj} {other}.",
        f"Later we had {rng.choice(words.FOODS)} at {place}.",
        f"The price of the {noun} was {rng.randint(2, 99)} euros.",
        f"{rng.choice(words.NAMES)} forgot the {noun}.",
        f"Do not touch the {adj} {noun}.",
    ))  # fmt: skip


def made_up(rng: random.Random) -> str:
    return pseudo_word(rng).capitalize()


def detail(rng: random.Random, split: Split) -> tuple[str, str, str, str, str]:
    """(key, sentence, question, answer, value): one fact of a text."""
    who = rng.choice(words.NAMES) if rng.random() < 0.6 else made_up(rng)
    sort = rng.randrange(8)
    if sort <= 1:
        thing = f"{rng.choice(words.COLOURS)} {rng.choice(ITEMS)}"
        value = split.draw("code", lambda: str(rng.randint(1000, 9999)))
        sentence = rng.choice(
            (f"The code of the {thing} is {value}.", f"The code for the {thing} is {value}.")
        )
        question = rng.choice(
            (
                f"What is the code of the {thing}?",
                f"What is the code for the {thing}?",
                f"Which code opens the {thing}?",
            )
        )
        return f"code {thing}", sentence, question, f"The code of the {thing} is {value}.", value
    if sort == 2:
        value = split.draw("place", lambda: made_up(rng))
        if rng.random() < 0.5:
            value = split.pick(rng, "place", words.CITIES)
        return (
            f"lives {who}",
            f"{who} lives in {value}.",
            f"Where does {who} live?",
            f"{who} lives in {value}.",
            value,
        )
    if sort == 3:
        value = split.draw("room", lambda: str(rng.randint(10, 999)))
        return (
            f"room {who}",
            f"{who} is in room {value}.",
            rng.choice((f"Which room is {who} in?", f"In which room is {who}?")),
            f"{who} is in room {value}.",
            value,
        )
    if sort == 4:
        value = split.pick(rng, "job", words.JOBS)
        if rng.random() < 0.35:
            value = split.draw("job", lambda: pseudo_word(rng))
        return (
            f"job {who}",
            f"{who} works as a {value}.",
            rng.choice((f"What is the job of {who}?", f"What does {who} work as?")),
            f"{who} works as a {value}.",
            value,
        )
    if sort == 5:
        value = split.draw("phone", lambda: str(rng.randint(10000, 99999)))
        return (
            f"phone {who}",
            f"The phone number of {who} is {value}.",
            rng.choice((f"What is the phone number of {who}?", f"What is {who}'s number?")),
            f"The phone number of {who} is {value}.",
            value,
        )
    if sort == 6:
        thing = f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.NOUNS)}"
        value = split.draw("owner", lambda: made_up(rng))
        if rng.random() < 0.5:
            value = split.pick(rng, "owner", words.NAMES)
        return (
            f"owner {thing}",
            f"The {thing} belongs to {value}.",
            f"Who does the {thing} belong to?",
            f"The {thing} belongs to {value}.",
            value,
        )
    value = split.draw("password", lambda: pseudo_word(rng))
    thing = rng.choice(("computer", "library", "garden", "club", "office", "tower", "archive"))
    return (f"password {thing}", f"The password of the {thing} is {value}.",
            f"What is the password of the {thing}?", f"The password of the {thing} is {value}.",
            value)  # fmt: skip


TITLES = ("Here are my notes.", "Please read this text.", "This is my diary.", "Read this:",
          "Here is a long text.", "Some notes from my desk:", "Text:")  # fmt: skip


def document(
    rng: random.Random, split: Split, sentences: int, questions: int, depth: float | None = None
) -> list[Exchange]:
    """A text of `sentences` sentences with the first question below it, then more questions.

    `depth` (0 start, 1 end) places the first asked detail; without it, anywhere.
    """
    details: dict[str, tuple[str, str, str, str, str]] = {}
    density = rng.choice((0.1, 0.3, 0.6))
    wanted = min(sentences, max(questions, int(sentences * density), 1))
    wanted = min(wanted, 40)
    while len(details) < wanted:
        fact = detail(rng, split)
        details.setdefault(fact[0], fact)
    facts = list(details.values())
    lines = [filler(rng) for _ in range(max(0, sentences - wanted))]
    lines += [f[1] for f in facts[1:]]
    rng.shuffle(lines)
    where = rng.random() if depth is None else depth
    lines.insert(round(where * len(lines)), facts[0][1])
    style = rng.random()
    if style < 0.4:
        text = " ".join(lines)
    elif style < 0.7:
        text = "\n".join(f"- {line}" for line in lines)
    else:
        text = "\n".join(" ".join(lines[i : i + 5]) for i in range(0, len(lines), 5))
    asked = [facts[0], *rng.sample(facts[1:], min(questions - 1, len(facts) - 1))]
    turns = []
    for n, (_, sentence, question, answer, value) in enumerate(asked):
        user = casual(rng, question)
        if n == 0 and rng.random() < 0.8:
            user = f"{rng.choice(TITLES)}\n\n{text}\n\n{user}"
        elif n == 0:
            user = f"{user}\n\n{text}"
        turns.append(Exchange(user, f"The text says: {sentence}", answer, (value,)))
    return turns
