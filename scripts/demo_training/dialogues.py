"""Complete conversations, mixed from all generators and reproducible from a seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from scripts.demo_training import (
    arithmetic,
    definitions,
    facts,
    guide,
    needle,
    newcomer,
    smalltalk,
    tools,
    words,
)
from scripts.demo_training.heldout import Split, is_reserved, pseudo_word
from scripts.demo_training.turns import Dialogue, Exchange, dialogue

SYSTEMS = ("You are a helpful assistant.", "You are a friendly assistant.", "Be brief.",
           "You are a small demo model.", "Answer in short sentences.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mix:
    """Lengths of conversations, and weights of the skills."""

    turns: int = 6  # maximum turns of a chat
    sentences: int = 20  # maximum sentences of a pasted text
    long_text: float = 0.0  # share of texts with 120 sentences and more (up to `longest`)
    longest: int = 330
    weights: tuple[tuple[str, float], ...] = (
        ("chat", 30), ("arithmetic", 25), ("needle", 15), ("copy", 14), ("short", 10), ("tools", 4),
        ("called", 2), ("itself", 4), ("guide", 30),
    )  # fmt: skip


def distractor(rng: random.Random, split: Split) -> Exchange:
    """A turn without facts about the user."""
    roll = rng.random()
    if roll < 0.36:
        return smalltalk.chat(rng)
    if roll < 0.48:
        return definitions.define(rng)
    if roll < 0.56:
        return smalltalk.listing(rng)
    if roll < 0.63:
        return smalltalk.capital(rng)
    if roll < 0.69:
        return newcomer.ask(rng, "beyond")
    if roll < 0.73:
        return smalltalk.repeat(rng, split)
    if roll < 0.76:
        return smalltalk.sequence(rng)
    if roll < 0.79:
        return arithmetic.comparison(rng) if rng.random() < 0.6 else newcomer.ask(rng, "count")
    if roll < 0.81:
        return smalltalk.spell(rng)
    if roll < 0.83:
        return definitions.undefined(rng)
    if roll < 0.91:
        return guide.ask(rng)
    if roll < 0.94:
        return newcomer.ask(rng)
    return arithmetic.question(rng, *arithmetic.draw(rng, split, 1, rng.choice("+-")), False)


def chat(rng: random.Random, split: Split, mix: Mix) -> Dialogue:
    """Facts told in some turns and asked for in later ones, with other turns between."""
    system = rng.choice(SYSTEMS) if rng.random() < 0.15 else None
    length = rng.randint(1, mix.turns)
    known: dict[str, facts.Fact] = {}
    turns: list[Exchange] = []
    while len(turns) < length:
        roll, left = rng.random(), length - len(turns)
        if known and (roll < 0.35 or (left == 1 and roll < 0.85)):
            if roll < 0.07:
                fact = facts.draw(rng, split)
                if fact.slot not in known:
                    turns.append(facts.ask_untold(rng, fact))
            else:
                turns.append(facts.ask(rng, rng.choice(list(known.values()))))
        elif roll < 0.6 and (left > 1 or not known):
            new = facts.draw_many(rng, split, rng.choice((1, 1, 1, 2, 3)))
            fresh = [f for f in new if f.slot not in known]
            changed = [f for f in new if f.slot in known and facts.KINDS[f.kind].changes]
            if fresh:
                turns.append(facts.tell(rng, fresh))
            elif changed:
                fresh = changed[:1]
                turns.append(facts.change(rng, fresh[0]))
            known |= {f.slot: f for f in fresh}
        elif known and roll < 0.64:
            old = rng.choice(list(known.values()))
            if facts.KINDS[old.kind].changes and not old.animal + old.relative:
                new_fact = facts.draw(rng, split, old.kind)
                known[new_fact.slot] = new_fact
                turns.append(facts.change(rng, new_fact))
        else:
            turns.append(distractor(rng, split))
    return dialogue(rng, turns, "chat", system)


def recall(rng: random.Random, split: Split, gap: int, count: int) -> Dialogue:
    """Facts in the first turn, and a question about one of them `gap` turns later."""
    known = facts.draw_many(rng, split, count)
    turns = [facts.tell(rng, known)] + [distractor(rng, split) for _ in range(gap - 1)]
    return dialogue(rng, [*turns, facts.ask(rng, rng.choice(known))], "recall")


def untold(rng: random.Random, split: Split) -> Dialogue:
    """Some facts, and a last question about a different one."""
    *known, wanted = facts.draw_many(rng, split, rng.randint(1, 4))
    turns = [facts.tell(rng, known)] if known else []
    turns += [distractor(rng, split) for _ in range(rng.randint(0, 2))]
    if known and rng.random() < 0.5:
        turns.append(facts.ask(rng, rng.choice(known)))
    return dialogue(rng, [*turns, facts.ask_untold(rng, wanted)], "untold")


def short(rng: random.Random, split: Split) -> Dialogue:
    """One or two turns of anything."""
    turns = [distractor(rng, split) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.06:
        turns.append(arithmetic.too_large(rng))
    return dialogue(rng, turns, "short")


def called(rng: random.Random) -> Dialogue:
    """A question for the name that the system message gives to the model."""
    name = rng.choice(words.NAMES) if rng.random() < 0.5 else pseudo_word(rng).capitalize()
    system = rng.choice(("You are {n}.", "You are called {n}.", "Your name is {n}.",
                         "You are {n}, a friendly assistant."))  # fmt: skip
    ask = rng.choice(("What is your name?", "Who are you?", "What are you called?",
                      "What's your name?"))  # fmt: skip
    answer = rng.choice((f"My name is {name}.", f"I am {name}."))
    turns = [smalltalk.chat(rng) for _ in range(rng.choice((0, 0, 1, 2)))]
    turns = [t for t in turns if "demo" not in t.answer]
    turn = Exchange(ask, f"The system message says that I am {name}.", answer, (name,))
    return dialogue(rng, [*turns, turn], "called", system.replace("{n}", name))


def itself(rng: random.Random, split: Split) -> Dialogue:
    """A question about the model itself, which has not been given a name."""
    system = rng.choice(SYSTEMS) if rng.random() < 0.3 else None
    turns = [facts.tell(rng, facts.draw_many(rng, split, 1))] if rng.random() < 0.3 else []
    turns += [smalltalk.chat(rng) for _ in range(rng.choice((0, 0, 1)))]
    return dialogue(rng, [*turns, smalltalk.itself(rng)], "itself", system)


def guided(rng: random.Random, split: Split) -> Dialogue:
    """Questions about this program, and others that newcomers ask; sometimes after some talk."""
    system = rng.choice(SYSTEMS) if rng.random() < 0.1 else None
    turns = [distractor(rng, split) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        turns.append(guide.ask(rng) if rng.random() < 0.65 else newcomer.ask(rng))
    return dialogue(rng, turns, "guide", system)


def exercise(rng: random.Random, split: Split) -> Dialogue:
    """Arithmetic, mostly with thinking; sometimes after some talk."""
    if rng.random() < 0.3:
        turns = [arithmetic.small_sums(rng) for _ in range(rng.randint(1, 3))]
        return dialogue(rng, turns, "arithmetic", thinking=rng.random() < 0.3)
    thinking = rng.random() < 0.8
    low = rng.choice((10, 10, 10, 1))
    drawn = arithmetic.draw(rng, split, low)
    turns = [distractor(rng, split) for _ in range(rng.choice((0, 0, 0, 0, 1, 2)))]
    turns.append(arithmetic.question(rng, *drawn, thinking))
    return dialogue(rng, turns, "arithmetic", thinking=thinking)


def text(rng: random.Random, split: Split, mix: Mix) -> Dialogue:
    """A pasted text with questions."""
    if rng.random() < mix.long_text:
        size = rng.randint(120, mix.longest)
    else:
        size = min(rng.randint(1, mix.sentences), rng.randint(1, mix.sentences) + 2)
    questions = rng.choice((1, 2, 3, 4, 6)) if size < 40 else rng.randint(4, 10)
    turns = needle.document(rng, split, size, questions)
    return dialogue(rng, turns, "needle")


def copy(rng: random.Random, split: Split) -> Dialogue:
    """Repeating and looking up, the skills behind recall."""
    turns: list[Exchange] = []
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.5:
            turns.append(smalltalk.repeat(rng, split))
        else:
            turns += smalltalk.lookups(rng, split, rng.randint(1, 5))
    return dialogue(rng, turns, "copy")


def generate(seed: int, mix: Mix, held_out: bool = False) -> Iterator[Dialogue]:
    """An endless stream of conversations, without the questions of heldout_guide.toml."""
    for made in _generate(seed, mix, held_out):
        asked = [m["content"] for m in made.messages if m["role"] == "user"]
        if not any(map(is_reserved, asked)):
            yield made


def _generate(seed: int, mix: Mix, held_out: bool) -> Iterator[Dialogue]:
    rng, split = random.Random(seed), Split(held_out)
    names, weights = zip(*mix.weights, strict=True)
    while True:
        skill = rng.choices(names, weights)[0]
        if skill == "chat":
            yield chat(rng, split, mix)
        elif skill == "recall":
            gap = rng.randint(1, mix.turns)
            yield recall(rng, split, gap, rng.choice((1, 2, 3)))
        elif skill == "untold":
            yield untold(rng, split)
        elif skill == "arithmetic":
            yield exercise(rng, split)
        elif skill == "needle":
            yield text(rng, split, mix)
        elif skill == "copy":
            yield copy(rng, split)
        elif skill == "short":
            yield short(rng, split)
        elif skill == "called":
            yield called(rng)
        elif skill == "itself":
            yield itself(rng, split)
        elif skill == "guide":
            yield guided(rng, split)
        else:
            yield tools.call(rng)
