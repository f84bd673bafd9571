"""Facts that users tell about themselves, and later questions about them."""

import random
from dataclasses import dataclass

from scripts.demo_training import words
from scripts.demo_training.heldout import Split, pseudo_word
from scripts.demo_training.turns import Exchange, casual
from scripts.demo_training.words import listed


@dataclass(frozen=True, slots=True)
class Kind:
    """Phrases about one fact; `{v}` stands for its value."""

    says: tuple[str, ...]
    joins: str  # the fact as a clause of a longer sentence
    acks: tuple[str, ...]
    asks: tuple[str, ...]
    answers: tuple[str, ...]
    about: str  # "your name"
    changes: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "name": Kind(
        ("My name is {v}.", "I am {v}.", "Hi, I'm {v}.", "Hello, my name is {v}.", "Call me {v}.",
         "You can call me {v}.", "I'm called {v}."),
        "my name is {v}",
        ("Nice to meet you, {v}!", "Hello {v}, nice to meet you.", "Hi {v}! How can I help?",
         "Good to know you, {v}."),
        ("What is my name?", "What's my name?", "Do you remember my name?", "Who am I?",
         "Can you tell me my name?", "What am I called?", "Do you know my name?"),
        ("Your name is {v}.", "You are {v}.", "You told me your name is {v}."),
        "your name",
        ("Actually, my name is {v}.", "Sorry, I meant {v}. My name is {v}."),
    ),
    "age": Kind(
        ("I am {v} years old.", "I'm {v} years old.", "I am {v}.", "My age is {v}.",
         "I just turned {v}."),
        "I am {v} years old",
        ("Thank you, I will remember that you are {v}.", "{v}, noted.", "{v} is a fine age."),
        ("How old am I?", "What is my age?", "Do you remember how old I am?", "Tell me my age."),
        ("You are {v} years old.", "You are {v}.", "You told me that you are {v} years old."),
        "your age",
    ),
    "city": Kind(
        ("I live in {v}.", "I'm from {v}.", "My home is in {v}.", "I come from {v}.",
         "I live in {v} these days.", "My city is {v}."),
        "I live in {v}",
        ("{v} sounds like a nice place.", "{v}, how nice!", "I will remember that you live in {v}.",
         "Living in {v} must be interesting."),
        ("Where do I live?", "Which city do I live in?", "What city am I from?", "Where am I from?",
         "Do you remember where I live?", "What is my city?"),
        ("You live in {v}.", "You told me you live in {v}.", "Your home is in {v}."),
        "where you live",
        ("I have moved to {v}.", "I moved to {v} now.", "By the way, I live in {v} now."),
    ),
    "job": Kind(
        ("I work as a {v}.", "My job is {v}.", "I'm a {v} by trade.", "For a living, I am a {v}."),
        "I work as a {v}",
        ("That sounds like interesting work.", "Being a {v} must keep you busy.",
         "A {v}! That is a good job."),
        ("What is my job?", "What do I do for a living?", "What do I work as?",
         "Do you remember my job?", "What's my profession?"),
        ("You work as a {v}.", "You are a {v}.", "Your job is {v}."),
        "your job",
        ("I changed jobs. I work as a {v} now.", "I have a new job: I am a {v} now."),
    ),
    "colour": Kind(
        ("My favourite colour is {v}.", "I like the colour {v} best.", "My favorite color is {v}.",
         "The colour I love most is {v}."),
        "my favourite colour is {v}",
        ("{v} is a beautiful colour.", "Good choice, {v} is lovely.", "I will remember {v}."),
        ("What is my favourite colour?", "Which colour do I like best?",
         "What's my favorite color?", "Do you remember my favourite colour?"),
        ("Your favourite colour is {v}.", "You like {v} best.", "It is {v}."),
        "your favourite colour",
        ("I changed my mind, my favourite colour is {v} now.",),
    ),
    "food": Kind(
        ("My favourite food is {v}.", "I love {v} most of all foods.", "I like to eat {v} best.",
         "My favorite food is {v}."),
        "my favourite food is {v}",
        ("Yum, {v}!", "{v} is delicious.", "Good taste! I will remember {v}."),
        ("What is my favourite food?", "What food do I like best?", "What do I like to eat?",
         "Do you remember my favourite food?", "What's my favorite food?"),
        ("Your favourite food is {v}.", "You like {v} best.", "It is {v}."),
        "your favourite food",
    ),
    "drink": Kind(
        ("My favourite drink is {v}.", "I like to drink {v}.", "I drink {v} every morning."),
        "my favourite drink is {v}",
        ("{v} is a good choice.", "I see, {v} it is."),
        ("What is my favourite drink?", "What do I like to drink?", "Which drink do I like?"),
        ("Your favourite drink is {v}.", "You like to drink {v}.", "It is {v}."),
        "your favourite drink",
    ),
    "hobby": Kind(
        ("My hobby is {v}.", "In my free time I enjoy {v}.", "I love {v}.", "I really like {v}."),
        "my hobby is {v}",
        ("{v} is a lovely hobby.", "That sounds like fun!", "{v}, how nice!"),
        ("What is my hobby?", "What do I enjoy in my free time?", "What's my hobby?",
         "Do you remember my hobby?"),
        ("Your hobby is {v}.", "You enjoy {v}.", "You told me that your hobby is {v}."),
        "your hobby",
    ),
    "pet": Kind(
        ("My {a} is called {v}.", "I have a {a} called {v}.", "I have a {a} named {v}.",
         "My {a}'s name is {v}.", "We have a {a}, {v}."),
        "I have a {a} called {v}",
        ("{v} is a lovely name for a {a}.", "Say hello to {v} from me!", "How sweet! Hello, {v}.",
         "A {a} called {v}, how nice!"),
        ("What is my {a} called?", "What is the name of my {a}?", "What's my {a}'s name?",
         "Do you remember the name of my {a}?", "How is my {a} called?"),
        ("Your {a} is called {v}.", "Your {a}'s name is {v}.", "The name of your {a} is {v}."),
        "the name of your {a}",
    ),
    "relative": Kind(
        ("My {r} is called {v}.", "My {r}'s name is {v}.", "I have a {r} called {v}.",
         "{v} is my {r}."),
        "my {r} is called {v}",
        ("{v} is a nice name.", "I will remember that your {r} is called {v}.",
         "Nice, please greet {v} from me."),
        ("What is my {r} called?", "What is my {r}'s name?", "What's the name of my {r}?",
         "Who is my {r}?", "Do you remember my {r}'s name?"),
        ("Your {r} is called {v}.", "Your {r}'s name is {v}.", "{v} is your {r}."),
        "the name of your {r}",
    ),
    "birthday": Kind(
        ("My birthday is in {v}.", "I was born in {v}.", "I have my birthday in {v}."),
        "my birthday is in {v}",
        ("{v} is a good month for a birthday.", "I will remember {v}."),
        ("When is my birthday?", "In which month is my birthday?", "Which month was I born in?"),
        ("Your birthday is in {v}.", "It is in {v}.", "You were born in {v}."),
        "your birthday",
    ),
    "number": Kind(
        ("My lucky number is {v}.", "My favourite number is {v}.", "Remember the number {v}.",
         "Please remember this number: {v}."),
        "my lucky number is {v}",
        ("{v}, noted.", "I will remember {v}.", "Good, I will keep {v} in mind."),
        ("What is my number?", "Which number did I tell you?", "What was my lucky number?",
         "What number should you remember?", "What is my lucky number?"),
        ("Your number is {v}.", "The number is {v}.", "You told me the number {v}."),
        "your number",
    ),
    "instrument": Kind(
        ("I play the {v}.", "I am learning the {v}.", "My instrument is the {v}."),
        "I play the {v}",
        ("The {v} has a beautiful sound.", "Playing the {v} must be fun.", "How nice, the {v}!"),
        ("Which instrument do I play?", "What instrument do I play?", "What do I play?"),
        ("You play the {v}.", "Your instrument is the {v}.", "It is the {v}."),
        "which instrument you play",
    ),
    "language": Kind(
        ("I am learning {v}.", "I speak {v} at home.", "My mother tongue is {v}."),
        "I speak {v}",
        ("{v} is a beautiful language.", "How interesting, {v}!"),
        ("Which language do I speak?", "What language did I mention?", "Which language is mine?"),
        ("You speak {v}.", "It is {v}.", "You told me about {v}."),
        "your language",
    ),
    "word": Kind(
        ("The password is {v}.", "The secret word is {v}.", "Remember the word {v}.",
         "Please remember the word {v}."),
        "the secret word is {v}",
        ("I will remember the word {v}.", "Noted: {v}.", "All right, the word is {v}."),
        ("What is the secret word?", "What was the word?", "Which word did I tell you?",
         "What is the password?", "Which word should you remember?"),
        ("The word is {v}.", "It is {v}.", "You told me the word {v}."),
        "the secret word",
    ),
}  # fmt: skip
RELATIVES = listed(
    "sister brother mother father wife husband daughter son friend aunt uncle boss neighbour "
    "teacher cousin grandmother grandfather"
)
LISTS: dict[str, list[str]] = {
    "city": words.CITIES, "job": words.JOBS, "colour": words.COLOURS, "food": words.FOODS,
    "drink": words.DRINKS, "hobby": words.HOBBIES, "birthday": words.MONTHS,
    "instrument": words.INSTRUMENTS, "language": words.LANGUAGES,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fact:
    kind: str
    value: str
    animal: str = ""
    relative: str = ""

    def say(self, text: str) -> str:
        """Fill a phrase; a value that opens a sentence gets a capital."""
        filled = text.replace("{a}", self.animal).replace("{r}", self.relative)
        value = self.value[:1].upper() + self.value[1:] if filled.startswith("{v}") else self.value
        filled = filled.replace("{v}", value, 1).replace("{v}", self.value)
        for word in ("a", "A"):
            for vowel in "aeio":
                filled = filled.replace(f" {word} {vowel}", f" {word}n {vowel}")
        return filled

    @property
    def slot(self) -> str:
        """Facts with the same slot would contradict each other."""
        return f"{self.kind}{self.animal}{self.relative}"


def draw(rng: random.Random, split: Split, kind: str | None = None) -> Fact:
    """A fact with a value on this side of the split."""
    kind = kind or rng.choice(list(KINDS))
    animal = rng.choice(words.ANIMALS) if kind == "pet" else ""
    relative = rng.choice(RELATIVES) if kind == "relative" else ""

    def made_up() -> str:
        return pseudo_word(rng).capitalize()

    if kind in LISTS and kind != "birthday" and rng.random() < 0.35:
        # Made-up values teach the model to copy, and not to guess a likely colour.
        lower = kind not in ("city", "language")
        value = split.draw(kind, lambda: pseudo_word(rng) if lower else made_up())
    elif kind in LISTS:
        value = split.pick(rng, kind, LISTS[kind])
    elif kind in ("age", "number"):
        value = split.draw(kind, lambda: str(rng.randint(5, 99 if kind == "age" else 999)))
    elif kind == "word":
        value = split.draw(kind, lambda: pseudo_word(rng))
        if rng.random() < 0.4:
            value = split.pick(rng, kind, words.NOUNS + words.ADJECTIVES)
    elif rng.random() < 0.5:
        value = split.draw(kind, made_up)
    else:
        value = split.pick(rng, kind, words.PETS if kind == "pet" else words.NAMES)
    return Fact(kind, value, animal, relative)


def draw_many(rng: random.Random, split: Split, count: int) -> list[Fact]:
    """Facts that do not contradict each other."""
    found: dict[str, Fact] = {}
    while len(found) < count:
        fact = draw(rng, split)
        found.setdefault(fact.slot, fact)
    return list(found.values())


def tell(rng: random.Random, facts: list[Fact]) -> Exchange:
    """The user states one to three facts in one message."""
    first = facts[0]
    kind = KINDS[first.kind]
    if len(facts) == 1:
        user = first.say(rng.choice(kind.says))
        thought = rng.choice(("The user tells me {b}: {v}.", "A fact: {b} is {v}. I note it."))
        thought = first.say(thought.replace("{b}", theirs(kind.about)))
        return Exchange(casual(rng, user), thought, first.say(rng.choice(kind.acks)))
    parts = [f.say(KINDS[f.kind].joins) for f in facts]
    user = ", ".join(parts[:-1]) + " and " + parts[-1] + "."
    user = user[:1].upper() + user[1:]
    thought = "The user tells me: " + ", ".join(f.value for f in facts) + "."
    answer = rng.choice(
        ("Thank you, I will remember that.", "Noted, I will keep that in mind.", "Good to know!",
         first.say(rng.choice(kind.acks)))
    )  # fmt: skip
    return Exchange(casual(rng, user), thought, answer)


def change(rng: random.Random, fact: Fact) -> Exchange:
    """The user corrects an earlier fact."""
    user = fact.say(rng.choice(KINDS[fact.kind].changes))
    thought = f"{theirs(KINDS[fact.kind].about).capitalize()} is now {fact.value}."
    answer = fact.say(rng.choice(("Thank you, I will remember: {v}.", "Noted: {v} it is now.")))
    return Exchange(casual(rng, user), thought, answer)


def theirs(about: str) -> str:
    """'your name' -> "the user's name", for thoughts."""
    return about.replace("your ", "the user's ").replace("you ", "the user ")


def ask(rng: random.Random, fact: Fact) -> Exchange:
    """The user asks for a fact told earlier."""
    kind = KINDS[fact.kind]
    about = theirs(fact.say(kind.about))
    thought = rng.choice(
        (f"The user told me {about} before: {fact.value}.", f"I look back: {about}: {fact.value}.")
    )
    answer = fact.say(rng.choice(kind.answers))
    return Exchange(casual(rng, fact.say(rng.choice(kind.asks))), thought, answer, (fact.value,))


def ask_untold(rng: random.Random, fact: Fact) -> Exchange:
    """The user asks for a fact that was never told."""
    kind = KINDS[fact.kind]
    about = fact.say(kind.about)
    answer = rng.choice((f"You have not told me {about} yet.", f"I do not know {about} yet."))
    thought = f"I look back: the user has not told me {theirs(about)}."
    return Exchange(casual(rng, fact.say(rng.choice(kind.asks))), thought, answer, ("not",))
