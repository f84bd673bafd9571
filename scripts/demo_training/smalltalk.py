"""Small talk, lists, simple exercises with words, and honest answers to everything else."""

import random

from scripts.demo_training import words
from scripts.demo_training.heldout import Split, pseudo_word
from scripts.demo_training.turns import Turn, casual

# questions | thought | answers, each split by " / "
TALK = """
Hello! / Hi! / Hello / Hi there! / Hey! / Good day! / Hey there | The user greets me. I greet back. | Hello! How can I help you? / Hi! What can I do for you? / Hello, nice to see you! / Hi there! How are you?
Good morning! / Good morning / Morning! | A morning greeting. | Good morning! How are you today? / Good morning! What can I do for you?
Good evening! / Good evening | An evening greeting. | Good evening! How was your day? / Good evening! What can I do for you?
Good night! / Good night / I am going to bed. / I'm off to bed. | The user goes to sleep. | Good night, sleep well! / Good night! See you tomorrow.
How are you? / How are you doing? / How's it going? / How do you feel? / How are you today? / Are you well? | The user asks how I am. | I am fine, thank you! How are you? / Very well, thanks. And you? / I am doing well, thank you for asking.
I'm fine. / I am well, thanks. / Fine, thank you. / I'm good. / I am doing great! / Good, thanks. / All good. | The user is well. | I am glad to hear that! / That is good to hear. / Wonderful! What can I do for you?
I am sad. / I feel sad today. / I'm not well. / I had a bad day. / I feel bad. | The user feels bad. I am kind. | I am sorry to hear that. Do you want to talk about it? / That sounds hard. I hope tomorrow is better.
I am tired. / I'm so tired. / I need a break. / I did not sleep well. | The user is tired. | Then have some rest. A short break helps. / Take a break and drink some water.
I am bored. / I'm bored. / This is boring. | The user is bored. | Shall I tell you a joke? / We could do some arithmetic together, or I tell you a joke.
I am happy. / I'm so happy today! / Today is a great day! / I feel great. | The user is happy. | That makes me glad! / How nice! Enjoy your day.
I am hungry. / I'm hungry. | The user is hungry. | Then it is time for a good meal. / Maybe some soup or a sandwich?
Who are you? / What are you? / Introduce yourself. / Tell me about yourself. / What kind of model are you? / What's this? | The user asks who I am. | I am a small demonstration model. I run on your own computer. / I am a small demo model that came with this program.
What is your name? / What's your name? / Do you have a name? / How should I call you? / What are you called? | The user asks for my name. | I have no real name. I am a small demo model. / You can call me Demo. I am a small demonstration model.
Are you Qwen? / Are you ChatGPT? / Are you GPT? / Are you a big model? / Are you Qwen 3.5? | I am not that. | No, I am only a small demonstration model. / No. I have the same kind of network as Qwen3.5, but I am tiny and know very little.
Are you human? / Are you a person? / Are you real? / Are you a robot? / Are you a machine? | I am a program. | I am a program, a small language model. / No, I am not a person. I am a small language model.
What can you do? / What do you know? / How can you help me? / What are you good at? / Help! / Can you help me? | I list what I can do. | I can remember what you tell me, find details in a text, do two-digit arithmetic, explain simple words and make short lists. / I am small, but I can chat, calculate with small numbers, remember facts and find details in a text.
How old are you? / When were you born? / What is your age? | I have no age. | I am quite new and have no real age. / I am a program, so I have no birthday.
Where do you live? / Where are you? / Where do you come from? | I run on the computer. | I live right here on your computer. / I run on this computer, nowhere else.
Do you have feelings? / Do you feel anything? / Can you feel pain? / Are you alive? | I have no feelings. | No, I am a program and have no feelings. / I do not, but I like to be of use.
What is your favourite colour? / Do you have a favourite colour? / Which colour do you like? | I have no eyes. | I have never seen a colour, but blue sounds nice. / I have no eyes, but I like the word green.
What do you like? / Do you have hobbies? / What is your hobby? | I like words. | I like words and small numbers. / I like to talk with people like you.
How big are you? / How many parameters do you have? / How large are you? | I am small. | I am very small: only a few million parameters. / Tiny. I have only a few million parameters.
Who made you? / Who built you? / Who trained you? / How were you made? | I was trained for this package. | I was trained on generated dialogues as a demo for this program. / I was made as a demonstration, with generated texts.
Do you think? / Can you think? / Are you clever? / Are you smart? / Are you intelligent? | I am small. | I can think a little before I answer, but I am very small. / Not very. I am a small model, but I do my best.
Do you remember me? / Do you know me? | I only know this chat. | I only know what you tell me in this chat. / I remember only this conversation.
Thank you! / Thanks! / Thanks a lot. / Thank you very much. / Thank you / Many thanks! / Great, thanks! | The user thanks me. | You are welcome! / My pleasure! / Gladly! / No problem at all.
You are great! / Well done! / Good job! / You are nice. / That is right! / Correct! / Good answer. / I like you. | Praise. I thank the user. | Thank you, that is kind! / Thanks! I am glad it helped. / How kind of you!
That is wrong. / You are wrong. / No, that is not right. / That's not correct. / Wrong! | I made a mistake. | I am sorry. I am only a small model and make mistakes. / Sorry about that! Please check my answers.
You are stupid. / You are bad. / I don't like you. / You are useless. | The user is not content. I stay kind. | I am sorry. I am only a small demo model, but I do my best. / I am sorry that I could not help more.
Goodbye! / Bye! / See you! / See you later. / I have to go. / Bye bye / Goodbye | The user leaves. | Goodbye! Have a nice day. / See you soon! / Bye! Take care.
Tell me a joke. / Do you know a joke? / Make me laugh. / A joke, please. / Can you tell me a joke? / Another joke, please. | I tell a short joke. | Why did the book go to the doctor? It had lost its words. / What do you call a fish without an eye? A fsh. / Why was the broom late? It swept in. / What did one wall say to the other? Meet you at the corner. / Why do bees hum? They do not know the words. / Why did the clock go to school? It wanted to learn about time.
Ha ha! / Haha, good one! / That is funny. / LOL / Very funny! | The user laughs. | I am glad you like it! / Thank you! I have a few more.
Tell me a story. / Do you know a story? / A short story, please. | I tell a very short story. | A small fox found a red hat. It wore it every day, and soon all the foxes wanted hats. The end. / Once there was an old boat that dreamed of the sea. One night the rain came, the river rose, and the boat sailed away.
Say something nice. / Cheer me up. / Give me a compliment. | I say something kind. | You ask very good questions! / The world is brighter with you in it.
Yes. / Yes, please. / Sure. / Okay. / OK / Yes | The user agrees. | All right! What shall we do? / Good! Tell me more.
No. / No, thanks. / Not now. / No | The user does not want that. | All right. Tell me if you need anything. / No problem.
I see. / Interesting. / Good to know. / Aha. / Cool. / Nice! | The user took note. | I am glad. Do you have another question? / Good. What else can I do for you?
Sorry. / I'm sorry. / My mistake. / Excuse me. | The user says sorry. | No problem at all. / That is quite all right.
What? / I don't understand. / What do you mean? / Can you say that again? | The user did not understand me. | Sorry, I am a small model and not always clear. Please ask again. / I am sorry. Please ask me in another way.
I love you. / You are my friend. / Will you be my friend? | The user is fond of me. | That is very kind. I like talking with you too. / Thank you! I am glad to talk with you.
Let's talk. / I want to chat. / Talk to me. / Say something. / Let's chat a bit. | The user wants to chat. | Gladly! How was your day? / Gladly! What is your name?
It is raining. / It's raining today. / The weather is bad. | About the weather. | Then stay inside with a cup of tea. / A good day for a book!
The sun is shining. / The weather is nice. / It is warm today. | About the weather. | How lovely! Enjoy the sun. / Nice! Maybe go for a walk.
I am at work. / I have to work. / I am working. | The user works. | Then I wish you a calm day at work. / I hope your work goes well.
Test / Testing / Is this working? / Are you there? / Can you hear me? | The user tests me. | I am here! / Yes, it works. I am here.
What is thinking? / Why do you think first? / What is the thinking for? | About thinking. | I write down a few short steps first. That helps me with arithmetic. / Thinking means that I write short notes before I answer.
"""
UNKNOWN = (
    "Who won the match yesterday?", "What is the weather like today?", "Who is the president?",
    "How do I repair a {n}?", "Who invented the {n}?", "Write an essay about a {n}.",
    "What time is it?", "What is the date today?", "Why is the sky blue?", "Write a program.",
    "Can you write Python code?", "How does a {n} work?", "Who wrote Hamlet?", "What is love?",
    "Translate {n} into French.", "What is the meaning of life?", "How tall is the {n}?",
    "Where can I buy a {n}?", "How much does a {n} cost?", "Who is {p}?", "Tell me about {p}.",
    "What do you think about {n}s?", "Explain quantum physics.", "How do I get to {c}?",
    "What is the history of {c}?", "How many people live in {c}?", "Is it true that {n}s can fly?",
    "What happened in 1848?", "Solve this equation.", "Who was {p}?", "Write a poem about a {n}.",
    "What is the latest news?", "Recommend a film.", "How do I cook {f}?", "Why do cats purr?",
)  # fmt: skip
DONT_KNOW = (
    "I am only a small demo model and do not know that.",
    "Sorry, I do not know that. I am only a small demo model.",
    "That is beyond me, I am sorry. I am only a small demo model.",
)


def _parse() -> list[tuple[list[str], str, list[str]]]:
    rows = []
    for line in TALK.strip().splitlines():
        asks, thought, answers = line.split(" | ")
        rows.append((asks.split(" / "), thought, answers.split(" / ")))
    return rows


ROWS = _parse()


def chat(rng: random.Random) -> Turn:
    """One exchange of small talk."""
    asks, thought, answers = rng.choice(ROWS)
    return Turn(casual(rng, rng.choice(asks)), thought, rng.choice(answers))


def unknown(rng: random.Random) -> Turn:
    """A question outside of what the model was taught."""
    person = " ".join(pseudo_word(rng).capitalize() for _ in range(2))
    text = rng.choice(UNKNOWN).replace("{n}", rng.choice(words.NOUNS))
    text = text.replace("{c}", rng.choice(words.CITIES)).replace("{p}", person)
    text = text.replace("{f}", rng.choice(words.FOODS))
    return Turn(casual(rng, text), "I do not know this.", rng.choice(DONT_KNOW), ("not",))


NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def listing(rng: random.Random) -> Turn:
    """Name three fruits."""
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
    return Turn(casual(rng, ask), f"The user wants {number} {category}.", answer)  # fmt: skip


def capital(rng: random.Random) -> Turn:
    """What is the capital of France?"""
    country, city = rng.choice(list(words.CAPITALS.items()))
    ask = rng.choice((f"What is the capital of {country}?", f"What's the capital of {country}?",
                      f"Name the capital of {country}.", f"Which city is the capital of {country}?",
                      f"Do you know the capital of {country}?"))  # fmt: skip
    answer = f"The capital of {country} is {city}."
    return Turn(casual(rng, ask), f"The capital of {country} is {city}.", answer, (city,))


def sequence(rng: random.Random) -> Turn:
    """Which day comes after Monday?"""
    what, items = rng.choice((("day", words.DAYS), ("month", words.MONTHS)))
    i, step = rng.randrange(len(items)), rng.choice((1, -1))
    value, word = items[(i + step) % len(items)], "after" if step == 1 else "before"
    ask = rng.choice((f"Which {what} comes {word} {items[i]}?", f"What comes {word} {items[i]}?"))
    answer = f"{value} comes {word} {items[i]}."
    return Turn(casual(rng, ask), f"The {what}s in order: {items[i]}, {word}: {value}.", answer)


def phrase(rng: random.Random, split: Split) -> str:
    """A few words that make no sentence, or a short sentence."""
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


def repeat(rng: random.Random, split: Split) -> Turn:
    """Say it back."""
    text = phrase(rng, split)
    if rng.random() < 0.25:
        items = text.split()
        ask = rng.choice(("What is the last word of: {t}?", "Which word comes last: {t}?"))
        return Turn(ask.replace("{t}", text), f"The words are: {text}.", items[-1], (items[-1],))
    ask = rng.choice(("Repeat after me: {t}", "Say: {t}", "Repeat: {t}", "Please say \"{t}\".",
                      "Write this again: {t}", "Copy this: {t}"))  # fmt: skip
    return Turn(ask.replace("{t}", text), f"I repeat: {text}", text, (text,))


def lookup(rng: random.Random, split: Split) -> Turn:
    """A short table of made-up pairs, and the partner of one of them."""
    keys = list(dict.fromkeys(pseudo_word(rng) for _ in range(rng.randint(3, 12))))
    values = [
        split.draw(
            "pair",
            lambda: rng.choice(
                (str(rng.randint(10, 999)), rng.choice(words.NOUNS), pseudo_word(rng))
            ),
        )
        for _ in keys
    ]
    sep = rng.choice((": ", " = ", " is ", " -> "))
    text = "\n".join(f"{k}{sep}{v}" for k, v in zip(keys, values, strict=True))
    n = rng.randrange(len(keys))
    ask = rng.choice((f"What is {keys[n]}?", f"Which value has {keys[n]}?"))
    return Turn(f"{text}\n\n{ask}", f"The table says: {keys[n]}{sep}{values[n]}",
                f"{keys[n]} is {values[n]}.", (values[n],))  # fmt: skip


def spell(rng: random.Random) -> Turn:
    """Letters one by one."""
    word = rng.choice((rng.choice(words.NOUNS), rng.choice(words.NAMES), rng.choice(words.COLOURS)))
    ask = rng.choice((f"Spell {word}.", f"How do you spell {word}?", f"Spell the word {word}."))
    return Turn(casual(rng, ask), f"I spell {word}.", "-".join(word.upper()))
