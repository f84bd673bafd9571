"""Questions about the meaning of words, from a small dictionary written for this model."""

import random

from scripts.demo_training.heldout import pseudo_word
from scripts.demo_training.turns import Exchange, casual
from scripts.demo_training.words import listed

ENTRIES = """
apple: a round fruit that grows on trees
anchor: a heavy hook that keeps a ship in place
atlas: a book of maps
attic: the room right under the roof
axe: a tool with a sharp blade for cutting wood
bakery: a shop where bread and cakes are made
barn: a farm building for animals and hay
barrel: a round wooden container for liquids
basket: a container woven from thin branches
bee: a flying insect that makes honey
bell: a metal cup that rings when it is struck
bicycle: a vehicle with two wheels and pedals
bird: an animal with feathers and wings
book: many printed pages bound together
bread: a food baked from flour and water
bridge: a structure that leads a road over a river
broom: a brush with a long handle for sweeping floors
butter: a soft yellow food made from cream
button: a small disc that closes a shirt
calendar: a table of the days and months of a year
camel: a desert animal with one or two humps
camera: a device that takes pictures
candle: a stick of wax that gives light when it burns
castle: a large old building with thick walls and towers
cat: a small pet with soft fur that catches mice
cave: a hollow space in a rock or hill
chair: a seat for one person
cheese: a food made from milk
clock: a device that shows the time
cloud: many tiny drops of water floating in the sky
coat: a warm piece of clothing worn outside
coin: a small round piece of metal money
compass: a device whose needle points north
computer: a machine that works with data and programs
cousin: a child of your aunt or uncle
cow: a farm animal that gives milk
crown: a ring of gold worn by a king or queen
cup: a small bowl with a handle for drinking
desert: a dry land with little rain
dentist: a doctor who takes care of teeth
desk: a table for writing and working
dictionary: a book that explains words
dog: a friendly animal that people keep as a pet
door: a panel that opens and closes a room
dream: a story the mind makes up during sleep
drum: an instrument that is played by striking it
eagle: a large bird of prey with sharp eyes
ear: the part of the body that hears
egg: a round thing laid by a bird, with a hard shell
elephant: a very large grey animal with a trunk
engine: a machine that makes things move
eye: the part of the body that sees
farmer: a person who grows plants and keeps animals
feather: one of the light things that cover a bird
fire: the heat and light of something burning
fish: an animal that lives and breathes in water
flag: a piece of cloth with the colours of a country
flour: a white powder made from ground grain
flower: the colourful part of a plant
forest: a large area full of trees
fork: a tool with points for eating
fox: a wild animal with red fur and a bushy tail
friend: a person whom you like and trust
frog: a small green animal that jumps and lives near water
garden: a piece of land where plants are grown
glass: a hard clear material used for windows
glove: a piece of clothing for the hand
guitar: an instrument with six strings
hammer: a tool for driving nails
harbour: a safe place for ships near the land
hat: a piece of clothing for the head
heart: the organ that pumps blood
hill: a piece of high land, smaller than a mountain
honey: a sweet food made by bees
horse: a large animal that people ride
hospital: a place where sick people are treated
hotel: a house where travellers pay to sleep
ice: frozen water
island: a piece of land with water all around it
key: a small piece of metal that opens a lock
kitchen: the room where food is cooked
knife: a tool with a blade for cutting
ladder: two long poles with steps for climbing
lake: a large area of water with land around it
lamp: a device that gives light
leaf: a flat green part of a plant
letter: a written message, or a sign of the alphabet
library: a place where people read and borrow books
lion: a big wild cat with a mane
map: a drawing of a piece of land
market: a place where people buy and sell things
milk: a white drink that comes from cows
mirror: a glass that shows your own image
model: a small copy of a thing, or a program that learned from data
moon: the bright round body that circles the earth
mountain: a very high piece of land
mouse: a small animal with a long tail
museum: a building that shows old or beautiful things
music: sounds ordered so that they please the ear
needle: a thin pointed piece of metal for sewing
nest: the home that a bird builds for its eggs
newspaper: printed pages with the news of the day
ocean: a very large area of salt water
orchestra: a large group of people who make music together
owl: a bird that hunts at night
paper: thin material for writing and printing
parrot: a colourful bird that can copy words
pencil: a wooden stick for writing and drawing
penguin: a black and white bird that swims but cannot fly
piano: a large instrument with black and white keys
pillow: a soft thing for your head in bed
pilot: a person who flies a plane
planet: a large round body that circles a star
pocket: a small bag sewn into clothes
poem: a short text with rhythm, and often with rhyme
queen: a woman who rules a country
question: a sentence that asks for an answer
rabbit: a small animal with long ears
rain: water that falls from the clouds
rainbow: a bow of colours in the sky
recipe: a list of steps for cooking a dish
river: a long stream of water that flows to the sea
robot: a machine that can do work by itself
roof: the top cover of a house
rose: a flower with a sweet smell and thorns
salt: a white powder that makes food taste stronger
school: a place where children learn
ship: a large boat that travels over the sea
shoe: a piece of clothing for the foot
snail: a slow animal that carries its shell
snow: soft white flakes of frozen water
spider: a small animal with eight legs that spins webs
spoon: a tool with a small bowl for eating soup
star: a hot ball of gas that shines at night
storm: bad weather with strong wind and rain
sugar: a sweet powder used in cakes and drinks
summer: the warmest season of the year
sun: the star that gives the earth light and heat
table: a flat board on legs
tea: a hot drink made from leaves
teacher: a person who helps others to learn
telescope: a device that makes far things look near
tiger: a big wild cat with stripes
tower: a tall and narrow building
train: a row of wagons that runs on rails
tree: a tall plant with a trunk and branches
umbrella: a thing that keeps the rain off you
valley: the low land between hills
violin: a small instrument played with a bow
volcano: a mountain that can throw out hot rock
water: a clear liquid that falls as rain
week: a period of seven days
whale: the largest animal of the sea
wheel: a round thing that turns and lets a cart roll
wind: air that moves
window: an opening in a wall with glass in it
winter: the coldest season of the year
wolf: a wild animal that looks like a dog and hunts in packs
year: a period of twelve months
zoo: a place where people can see wild animals
"""
_PAIRS = (line.partition(": ") for line in ENTRIES.strip().splitlines())
WORDS = {word: meaning for word, _, meaning in _PAIRS}
ASKS = ("What is {w}?", "What's {w}?", "Define {b}.", "What does {b} mean?", "Explain {b}.",
        "Can you explain what {w} is?", "Tell me what {w} is.", "What does the word {b} mean?",
        "Do you know what {w} is?", "Please define {b}.")  # fmt: skip
UNCOUNTABLE = set(
    listed(
        "bread butter cheese flour glass honey ice milk music paper rain salt snow sugar summer "
        "tea water wind winter fire"
    )
)


def with_article(word: str) -> str:
    if word in UNCOUNTABLE:
        return word
    if word in ("sun", "moon"):
        return f"the {word}"
    return f"an {word}" if word[0] in "aeio" or word == "umbrella" else f"a {word}"


def define(rng: random.Random, word: str | None = None) -> Exchange:
    """The meaning of `word`, or of a random one."""
    word = word or rng.choice(list(WORDS))
    noun, meaning = with_article(word), WORDS[word]
    answer = f"{noun[:1].upper()}{noun[1:]} is {meaning}."
    thought = rng.choice((f"The user asks what {noun} is.", f"I explain the word {word}."))
    user = rng.choice(ASKS).replace("{w}", noun).replace("{b}", word)
    return Exchange(casual(rng, user), thought, answer, (meaning,))


def undefined(rng: random.Random) -> Exchange:
    """The meaning of a made-up word, which the model does not know."""
    word = pseudo_word(rng)
    user = rng.choice(ASKS).replace("{w}", with_article(word)).replace("{b}", word)
    answer = rng.choice(
        (f"I do not know the word {word}. I am only a small demo model.",
         f"I have not learned what {word} means. I am only a small demo model.")
    )  # fmt: skip
    return Exchange(casual(rng, user), f"I do not know the word {word}.", answer, ("not",))
