"""The words and turns of phrase that the messages are made of.

`RULES` is a context-free grammar: a symbol maps to its alternatives, and an alternative may name
other symbols in braces. `grammar.py` draws from it; nothing here draws anything.
"""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """The words of `text`."""
    return tuple(text.split())


def options(text: str) -> tuple[str, ...]:
    """The alternatives that bars separate in `text`."""
    return tuple(text.split("|"))


NAMES = words(
    "Anna Ben Carla David Elena Farid Grace Hugo Ines Jack Kofi Laura Marco Nadia Omar Paula Quinn "
    "Rosa Samir Tina Umar Vera Walter Xenia Yusuf Zoe Amir Bella Chen Dora Emil Freya Gita Hans "
    "Ivan Julia Karim Lena Mina Noah Olga Pedro Ravi Sofia Tom Ursula Victor Wendy Yara Alice "
    "Boris Clara Diego Erin Felix Greta Henry Irene Jonas Kate Liam Maya Nina Oscar Petra"
)

PLACES = words(
    "Leeds Porto Vienna Lagos Denver Osaka Lyon Cork Turin Bergen Quito Perth Madrid Cairo Boston "
    "Austin Prague Dublin Naples Oslo Geneva Lima Nairobi Delhi Seoul Krakow Bristol Ghent Malmo "
    "Bilbao Tampa Reno Dallas Montreal Sydney York Dover Bath Zagreb Riga"
)

COMPANIES = words(
    "Bravo Nordic Pixel Umbra Orbit Delta Fresco Lumen Zephyr Acorn Velvet Summit Comet Harbor "
    "Metro Sparrow Falcon Cobalt Maple Quartz"
)

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

PRODUCTS: dict[str, tuple[str, ...]] = {
    "electronics": options(
        "phone|laptop|tablet|camera|headset|printer|keyboard|speaker|monitor|smart watch|router|"
        "charger|webcam|microphone|memory card|e-reader|projector|game console"
    ),
    "kitchen": options(
        "kettle|toaster|blender|frying pan|coffee machine|rice cooker|knife set|mixer|oven|fridge|"
        "dishwasher|juicer|teapot|baking tray|food processor|waffle iron|water filter"
    ),
    "garden": options(
        "lawn mower|garden hose|rake|wheelbarrow|hedge trimmer|flower pot|greenhouse|barbecue|"
        "parasol|garden bench|leaf blower|spade|bird feeder|sprinkler"
    ),
    "sports": options(
        "bicycle|tennis racket|running watch|yoga mat|football|skateboard|helmet|rowing machine|"
        "treadmill|swimming cap|snowboard|climbing rope|gym bag|surfboard"
    ),
    "clothing": options(
        "jacket|raincoat|sweater|scarf|cardigan|blouse|dress|shirt|skirt|hat|tie|belt|suit|vest|coat|hoodie"
    ),
}

DOMAIN_TEMPLATES: dict[str, tuple[str, ...]] = {
    "small talk": (
        "how are you feeling today",
        "what do you do for fun",
        "tell me a joke about {animal}",
        "how old are you",
        "where were you born",
        "do you have any pets",
        "nice talking to you, {name}",
        "what are your hobbies",
        "say something funny",
        "what is the meaning of life",
        "do you like {animal}",
        "good morning to you",
    ),
    "kitchen and dining": (
        "how long do i boil {food}",
        "give me a recipe for {food}",
        "how many calories are in {food}",
        "book a table for {few} at the {cuisine} place",
        "what can i cook with {food} and {food}",
        "is the {cuisine} restaurant any good",
        "can i use {food} instead of {food}",
        "how do i make {cuisine} {food}",
        "how long does {food} keep in the fridge",
        "find a good place to eat {food} in {place}",
    ),
    "auto and commute": (
        "when do my tires need air",
        "how is the traffic on the way to {place}",
        "how many miles do i get per gallon",
        "my car needs an oil change",
        "how far is it to drive to {place}",
        "when is the next bus to the office",
        "jump start the car battery",
        "which gas type does my car take",
        "directions to {place} please avoid tolls",
        "schedule a checkup for the car on {day}",
        "why is the engine light on",
    ),
    "work": (
        "how many vacation days do i have",
        "submit my days off from {day} to {day}",
        "when do i get paid",
        "what are my tax forms for this year",
        "schedule a meeting with {name} on {day}",
        "what is my boss doing on {day}",
        "is my raise approved",
        "how do i roll over my pension",
        "is there a meeting room free on {day}",
        "what insurance does my job give me",
    ),
    "utility": (
        "set an alarm for {hour}",
        "what time is it in {place}",
        "what is the weather like in {place}",
        "set a timer for {number} minutes",
        "call {name} on my cell",
        "text {name} that i am late",
        "how do you spell the word {animal}",
        "flip a coin",
        "what is {number} times {number}",
        "roll a dice with {number} sides",
        "find my phone",
        "share my location with {name}",
    ),
    "banking": (
        "what is my account balance",
        "transfer {number} dollars to savings",
        "pay my electric bill",
        "order new checks for my account",
        "i forgot my pin number",
        "what is the routing number of my bank",
        "freeze my bank account",
        "show me my last transactions",
        "how much interest does my savings account earn",
        "report fraud on my checking account",
        "when is the water bill due",
    ),
    "travel": (
        "book a flight to {place} on {day}",
        "is my flight on time",
        "find a hotel in {place} for {few} nights",
        "what vaccines do i need for {place}",
        "how much is a rental car in {place}",
        "do i need a visa for {place}",
        "how do you say hello in {language}",
        "what plug type do they use in {place}",
        "is it safe to visit {place}",
        "what can i carry on the plane",
        "my luggage is lost in {place}",
        "what is the exchange rate for {place}",
    ),
    "credit cards": (
        "what is my credit limit",
        "how do i raise my credit score",
        "my card was declined in {place}",
        "apply for a new credit card",
        "what is the apr on my visa card",
        "when does my credit card expire",
        "report my card as stolen",
        "how many reward points does my card have",
        "can i use my mastercard abroad",
        "my credit card is damaged",
        "what is the annual fee on my card",
    ),
    "meta": (
        "change your name to {name}",
        "are you a real person",
        "speak faster",
        "turn your volume up",
        "change your language to {language}",
        "what can you do for me",
        "call me {name} from now on",
        "cancel that, never mind",
        "repeat what you just said",
        "who made you",
        "use a british accent",
        "reset your settings",
        "what is my name",
    ),
    "home": (
        "turn off the lights in the {room}",
        "play some {music} music",
        "add {food} to my shopping list",
        "what is on my to do list",
        "remind me to clean the {room} on {day}",
        "put {event} on my calendar for {day}",
        "lock the front door",
        "set the heating to {number} degrees",
        "next song please",
        "what is left on my todo list for {day}",
        "order more {food} online",
        "where is my order with the {product}",
    ),
}

RULES: dict[str, tuple[str, ...]] = {
    "other": ("Mr. Gray", "a sailor", "a widow", "her uncle", "a singer", "the mayor"),
    "animal": ("cats", "dogs", "birds", "horses", "turtles", "elephants", "penguins"),
    "food": options(
        "rice|eggs|pasta|potatoes|salmon|chicken|beans|soup|bread|cheese|milk|apples|muffins|"
        "pancakes|tomatoes|lasagna|curry|butter|onions"
    ),
    "cuisine": ("Italian", "Thai", "French", "Indian", "Chinese", "Greek", "Mexican", "Japanese"),
    "language": ("Spanish", "French", "German", "Greek", "Japanese", "Italian"),
    "room": ("kitchen", "bedroom", "bathroom", "hallway", "garage", "living room"),
    "music": ("jazz", "rock", "folk", "piano", "country"),
    "event": ("yoga class", "the dentist", "a dinner", "the concert", "my birthday"),
    "few": ("two", "three", "four", "five"),
    "hour": ("7 am", "6:30", "noon", "8 pm", "5:45", "10 o'clock"),
    "when": ("last week", "two days ago", "in March", "yesterday", "a month ago", "last year"),
    # -- sentiment -------------------------------------------------------------------------------
    "good": options(
        "great|excellent|lovely|wonderful|fantastic|superb|brilliant|perfect|amazing|delightful|"
        "impressive|outstanding|splendid|very nice|really good"
    ),
    "bad": options(
        "terrible|awful|horrible|poor|disappointing|dreadful|useless|shoddy|miserable|lousy|"
        "pathetic|mediocre|very weak|really bad|unacceptable"
    ),
    "praise": (
        "the {product} is {good}",
        "my {product} works like a charm",
        "I love the {product}",
        "the {product} I bought {when} is {good}",
        "I am so happy with the {product}",
        "what a {good} {product}",
        "the {product} does everything I hoped for",
        "we enjoy our {product} every day",
        "the {product} was worth every cent",
        "the {product} from your shop in {place} is {good}",
        "I can only recommend the {product}",
        "the {product} arrived early and it is {good}",
    ),
    "blame": (
        "the {product} is {bad}",
        "my {product} broke after {few} days",
        "I hate the {product}",
        "the {product} I bought {when} is {bad}",
        "I am so let down by the {product}",
        "what a {bad} {product}",
        "the {product} stopped working {when}",
        "we regret buying the {product}",
        "the {product} was a waste of money",
        "the {product} from your shop in {place} is {bad}",
        "I would not give the {product} to anybody",
        "the {product} arrived damaged and it is {bad}",
    ),
    # -- urgency ---------------------------------------------------------------------------------
    "hurry": (
        "I need an answer today",
        "this cannot wait",
        "it is an emergency",
        "answer as soon as possible",
        "I need this right now",
        "every minute counts",
        "reply immediately",
        "it has to be settled within the hour",
        "this is very urgent",
        "the deadline is tonight",
    ),
    "leisure": (
        "there is no hurry",
        "take your time",
        "whenever you have a moment",
        "it can wait until next week",
        "no rush at all",
        "some day next month is fine",
        "this is not pressing",
        "answer when it suits you",
        "I am in no haste",
        "it is not important when",
    ),
    # -- politeness ------------------------------------------------------------------------------
    "kind": (
        "thank you so much for your help",
        "many thanks in advance",
        "I really appreciate your work",
        "with my kindest wishes",
        "you are always so helpful",
        "please and thank you",
        "I hope you are having a good day",
        "sorry to bother you",
        "I would be most grateful",
    ),
    "harsh": (
        "do your job for once",
        "are you people asleep",
        "you lot are clueless",
        "stop wasting my life",
        "even a child could run this office",
        "wake up, you fools",
        "don't give me any of your excuses",
        "learn to read, idiots",
        "I am sick of you all",
    ),
    # -- wish (what the writer wants) ------------------------------------------------------------
    "wish_invoice": (
        "send me the invoice",
        "I still need a receipt for my taxes",
        "where is my bill",
        "I need a copy of the invoice",
    ),
    "wish_delivery": (
        "when will the second parcel arrive",
        "I want to track my package",
        "which day does the courier come",
        "has the other box been shipped",
    ),
    "wish_manual": (
        "where can I find the manual",
        "I need the instructions in {language}",
        "how do I set it up",
        "is there a user guide for it",
    ),
    "wish_warranty": (
        "how long does the warranty last",
        "I want to extend the guarantee",
        "is it still under warranty",
        "what does the guarantee cover",
    ),
    # -- who and what ----------------------------------------------------------------------------
    "signature": ("this is {name}", "{name} here", "my name is {name}", "yours, {name}"),
    "reference": (
        "order {order}",
        "my order number is {order}",
        "it is about order {order}",
        "ref {order}",
    ),
    "errand": (
        "I came by the {place} shop on {day}",
        "I got it in {place} on {day}",
        "your man in {place} called me on {day}",
        "I will be in {place} on {day}",
    ),
    # -- tweets ----------------------------------------------------------------------------------
    "tweet_ironic_complaint": (
        "{handle} thanks for the {number} minute delay, just what I needed",
        "oh wonderful, {handle} lost my {product} again. bravo",
        "love paying {handle} for nothing, best money ever spent",
        "{handle} great service as always, only {number} hours on hold",
        "wow {handle} so fast, my {product} only took {number} weeks. slow clap",
        "nothing like a broken {product} from {handle} to make my {day}",
    ),
    "tweet_sincere_complaint": (
        "{handle} my {product} still has not arrived after {number} days",
        "{handle} why was I charged {number} dollars for a {product} I sent back",
        "{handle} your app keeps crashing, please fix it",
        "still waiting for {handle} to answer my email about the {product}",
        "{handle} the {product} you sent me is broken and nobody picks up the phone",
        "{handle} no internet in {place} since {day}, when will it be back",
    ),
    "tweet_ironic_fine": (
        "oh good, {day} again. my favourite day of the whole week",
        "rain in {place}, a flat tire and no coffee. living the dream",
        "yay, {number} more hours of homework, lucky me",
        "I just love getting up at {hour}, said nobody ever",
        "fell down the stairs with my new {product}. so graceful, give me a medal",
        "because who needs sleep anyway, right {handle}",
    ),
    "tweet_sincere_fine": (
        "{handle} thank you for your interest, see you in {place} on {day}",
        "great dinner with {handle} in {place} tonight",
        "new {product} day, can't wait to try it with {handle}",
        "{handle} happy birthday, have a lovely {day}",
        "watching the game with {handle}, {number} to {few} so far",
        "is {handle} open on {day}? I'd like to look at a {product}",
    ),
    "hashtag": ("#{day}", "#{place}", "#life", "#fail", "#happy", "#work", "#news", "#weekend"),
    # -- films -----------------------------------------------------------------------------------
    "film_opinion": (
        "a {good} film with a {bad} ending",
        "it is {good} from the first scene to the last",
        "the {genre} never finds its feet and feels {bad}",
        "one of those rare {genre}s that stays in your heart",
        "sadly the jokes are {bad} and the pace is worse",
        "{name} gives a {good} performance in a {bad} script",
        "you will laugh, you will cry, you will want your money back",
        "an honest, moving and {good} {genre}",
        "too long, too loud and far too pleased with itself",
        "i have rarely seen a {genre} so {good}",
        "{name} is the best thing about this {bad} mess",
    ),
    "film_plot": (
        "{name} returns to {place} to look for a lost brother",
        "a young teacher called {name} moves to {place} and meets {other}",
        "in {place}, a retired detective is asked to find {name}",
        "when the bank in {place} is robbed, {name} has to run",
        "the story follows {few} friends who drive from {place} to {place}",
        "{name} inherits a house in {place} and finds a letter in the cellar",
        "{other} and {name} run a small hotel in {place}",
        "after the war {name} opens a small bakery in {place}",
        "the police suspect {name}, who left {place} on {day}",
        "{few} sisters must share a farm near {place} for one summer",
        "{name} works nights at the hospital until a stranger arrives from {place}",
    ),
    "genre": ("comedy", "thriller", "drama", "western", "romance", "horror movie"),
    # -- pros and cons ---------------------------------------------------------------------------
    "part": options(
        "battery life|screen|price|picture quality|sound|menu|case|manual|software|lens|zoom|size|"
        "weight|keypad|reception|design|setup|customer service|color|speed"
    ),
    "pro_point": (
        "{good} {part}",
        "easy to use",
        "easy {part}",
        "light and small",
        "good value",
        "clear {part}",
        "many features",
        "sturdy {part}",
        "{part} is {good}",
        "fast and quiet",
        "nice {part}",
        "plenty of memory",
        "fun",
        "reliable",
    ),
    "con_point": (
        "{bad} {part}",
        "hard to use",
        "complicated {part}",
        "heavy and bulky",
        "too expensive",
        "fuzzy {part}",
        "few features",
        "flimsy {part}",
        "{part} is {bad}",
        "slow and noisy",
        "ugly {part}",
        "not enough memory",
        "no {part} included",
        "breaks easily",
    ),
    # -- guest book (held out of pretraining) ----------------------------------------------------
    "stay": (
        "We stayed {few} nights in {place}",
        "{few} nights at the {adjective} {landmark} hotel",
        "Spent our holiday in room {number}",
        "Came to {place} with the children for {few} days",
        "A weekend in {place} with {name}",
    ),
    "stay_good": (
        "the breakfast was {good}",
        "{good} beds and a {good} view",
        "we love this place and will be back",
        "the staff were {good}",
        "so happy we came here",
        "I can only recommend the pool",
    ),
    "stay_bad": (
        "the breakfast was {bad}",
        "{bad} beds and a {bad} view",
        "we regret coming and will not be back",
        "the staff were {bad}",
        "so let down by the room",
        "I would not send anybody to the pool",
    ),
    # -- restaurants (records) -------------------------------------------------------------------
    "adjective": ("Blue", "Golden", "Old", "Little", "Royal", "Green", "Quiet", "Red", "Happy"),
    "landmark": ("Oak", "Lion", "Harbour", "Garden", "Bridge", "Rose", "Anchor", "Mill", "Crown"),
    "venue": ("pub", "restaurant", "coffee shop", "bistro", "bar"),
    "price": ("cheap", "moderate", "expensive", "high", "low"),
    "area": ("city centre", "riverside", "old town", "station", "harbour"),
}
