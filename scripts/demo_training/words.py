"""Word lists for the generated dialogues."""


def listed(text: str, separator: str | None = None) -> list[str]:
    """Split a list written as one string."""
    return text.split(separator)


NAMES = listed(
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olivia Paul Quinn Rosa "
    "Sam Tina Ursula Victor Wendy Xavier Yara Zoe Adam Bella Carl Diana Eric Fiona George Hannah "
    "Ivan Julia Kevin Laura Martin Nina Oscar Petra Rachel Simon Thomas Vera Walter Alice Bruno "
    "Celia Daniel Elena Frank Gina Hugo Irene Jonas Karin Lucas Maria Nathan Otto Paula Robert "
    "Sarah Tom Valerie William Amir Aisha Chen Mei Hiro Yuki Raj Priya Omar Leila Pedro Lucia Igor "
    "Olga Sven Astrid Kofi Amara Liam Nora Ethan Sophie Max Lena Peter Eva Mark Ruth Alex Jamie "
    "Robin Toni Chris Kim Dana Thorsten Matthias Stefan Andrea Monica Philip Edith Arthur Stella"
)
PETS = listed(
    "Rex Luna Bella Milo Coco Rocky Daisy Buddy Charlie Simba Nala Oreo Ginger Pepper Shadow Socks "
    "Whiskers Biscuit Cookie Pumpkin Peanut Ziggy Fluffy Snowy Patches Smokey Tiger Minka Bruno "
    "Hazel Maple Olive Pixel Waffle Mango Kiwi Pebbles Rusty Sunny Misty Archie Teddy Poppy Ruby"
)
ANIMALS = listed("dog cat rabbit parrot hamster horse turtle canary goldfish ferret pony snake")
CITIES = listed(
    "London Paris Berlin Madrid Rome Vienna Prague Lisbon Oslo Dublin Athens Warsaw Zurich Munich "
    "Hamburg Cologne Milan Naples Porto Seville Lyon Geneva Krakow Helsinki Stockholm Copenhagen "
    "Boston Chicago Denver Seattle Toronto Montreal Lima Quito Cairo Nairobi Mumbai Delhi Tokyo "
    "Osaka Kyoto Seoul Sydney Perth Auckland Dallas Austin Houston Bremen Leipzig Dresden Basel "
    "Ghent Bergen Glasgow Leeds York Bristol Oxford Cambridge Venice Turin Verona Malaga Valencia"
)
COLOURS = listed(
    "red blue green yellow orange purple pink brown black white grey turquoise violet silver gold "
    "crimson beige teal navy lilac amber olive"
)
JOBS = listed(
    "teacher,nurse,doctor,baker,carpenter,farmer,pilot,painter,writer,singer,cook,gardener,lawyer,"
    "plumber,electrician,engineer,designer,librarian,dentist,actor,photographer,tailor,mechanic,"
    "journalist,chemist,biologist,programmer,firefighter,waiter,barber,judge,sailor,florist,"
    "translator,architect,optician,butcher,student,postman,musician,dancer,potter,beekeeper",
    ",",
)
FOODS = listed(
    "pizza,pasta,sushi,soup,curry,salad,pancakes,lasagne,risotto,tacos,dumplings,noodles,stew,"
    "goulash,paella,falafel,burgers,omelette,ramen,chocolate,cheesecake,apple pie,fried rice,"
    "fish and chips,potato soup,lentil soup,roast chicken,spinach pie,waffles,porridge,kebab,chili",
    ",",
)
DRINKS = listed(
    "coffee,green tea,black tea,lemonade,orange juice,apple juice,hot chocolate,cola,water,milk,"
    "peppermint tea,tomato juice,ginger ale,iced tea,cocoa,grape juice",
    ",",
)
HOBBIES = listed(
    "chess,swimming,hiking,painting,reading,cycling,photography,knitting,gardening,fishing,dancing,"
    "singing,climbing,sailing,running,cooking,baking,skiing,surfing,pottery,yoga,tennis,football,"
    "archery,astronomy,birdwatching,juggling,drawing,rowing,volleyball,origami,bowling",
    ",",
)
INSTRUMENTS = listed(
    "piano,guitar,violin,cello,flute,drums,trumpet,harp,clarinet,saxophone,banjo,oboe", ","
)
MONTHS = listed(
    "January February March April May June July August September October November December"
)
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
LANGUAGES = listed(
    "French German Spanish Italian Polish Greek Dutch Danish Swedish Turkish Hindi Korean"
)

CATEGORIES: dict[str, list[str]] = {
    "fruits": listed("apple pear cherry plum peach grape mango banana orange lemon kiwi melon"),
    "vegetables": listed("carrot potato tomato onion cabbage spinach pea bean leek pumpkin"),
    "animals": listed("dog cat horse cow lion tiger elephant bear wolf fox rabbit mouse"),
    "birds": listed("sparrow eagle owl robin swan duck crow falcon parrot pigeon"),
    "colours": listed("red blue green yellow orange purple brown black white pink"),
    "countries": listed("France Germany Spain Italy Japan Brazil Canada India Egypt Kenya"),
    "cities": listed("London Paris Berlin Rome Madrid Tokyo Cairo Lima Sydney Boston"),
    "instruments": listed("piano guitar violin flute drum trumpet harp cello"),
    "sports": listed("football tennis swimming rowing hockey basketball golf cycling"),
    "planets": listed("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune"),
    "months": MONTHS,
    "days of the week": DAYS,
    "tools": listed("hammer saw drill screwdriver pliers wrench axe spade"),
    "drinks": listed("water milk tea coffee juice lemonade cocoa"),
    "trees": listed("oak pine birch maple beech willow ash elm"),
    "flowers": listed("rose tulip daisy lily violet sunflower orchid poppy"),
    "clothes": listed("shirt coat hat scarf sock shoe glove jacket skirt"),
    "pieces of furniture": listed("table chair bed sofa shelf desk wardrobe stool"),
    "languages": LANGUAGES,
    "insects": listed("ant bee wasp fly beetle butterfly moth cricket"),
}

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Spain": "Madrid", "Italy": "Rome", "Japan": "Tokyo",
    "Austria": "Vienna", "Portugal": "Lisbon", "Norway": "Oslo", "Sweden": "Stockholm",
    "Denmark": "Copenhagen", "Finland": "Helsinki", "Poland": "Warsaw", "Greece": "Athens",
    "Ireland": "Dublin", "Hungary": "Budapest", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Peru": "Lima", "Chile": "Santiago", "Canada": "Ottawa", "Russia": "Moscow", "China": "Beijing",
    "South Korea": "Seoul", "India": "New Delhi", "Cuba": "Havana", "Belgium": "Brussels",
    "the Netherlands": "Amsterdam", "Switzerland": "Bern", "the Czech Republic": "Prague",
    "Turkey": "Ankara", "England": "London", "Scotland": "Edinburgh", "Brazil": "Brasilia",
    "Australia": "Canberra", "the United States": "Washington, D.C.", "Iceland": "Reykjavik",
}  # fmt: skip

NOUNS = listed(
    "lamp table river garden bridge window letter basket wagon mirror candle ladder kettle barrel "
    "carpet hammer pillow bottle engine ticket blanket pencil bucket camera statue fountain tower "
    "market harbour orchard valley meadow forest village kitchen attic cellar library station "
    "church castle museum theatre farm mill boat train cart clock radio drum shelf door gate"
)
ADJECTIVES = listed(
    "old new small large quiet bright dark heavy light round narrow wide broken clean dusty warm "
    "cold empty full wooden iron copper golden silver green red blue white black yellow strange "
    "pretty simple famous ancient little tall short long soft hard"
)
PLACES = listed(
    "the harbour,the old mill,the market,the river,the station,the church,the library,the school,"
    "the park,the bridge,the castle,the museum,the farm,the forest,the lake,the town hall,"
    "the beach",
    ",",
)
