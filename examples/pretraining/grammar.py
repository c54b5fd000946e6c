"""A seeded grammar of short everyday messages whose attributes are independent of each other.

A message states several things at once: what it is about, whether its writer is pleased, in a
hurry, polite, ironic, who signs it. Each is drawn on its own, so the text alone does not say which
of them is asked for; an instruction in front does, and so can a soft prompt.

`fullness`, from 0 to 1, is how much a message says: pretraining begins with the short ones.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from examples.pretraining.lexicon import (
    COMPANIES,
    DAYS,
    DOMAIN_TEMPLATES,
    NAMES,
    PLACES,
    PRODUCTS,
    RULES,
    words,
)

_SLOT = re.compile(r"\{(\w+)\}")
_ONSETS = words("b br c d dr f g gr h j k l m n p pr r s st t tr v w z")
_VOWELS = words("a e i o u ai ea oo")
_CODAS = words("n r s l m x ck nd rt st")
_ASKING = words("how what when where who which is are do does has can why")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeio]|un)")
_SIDES = {
    "sentiment": (("positive", "praise"), ("negative", "blame")),
    "urgency": (("urgent", "hurry"), ("routine", "leisure")),
    "politeness": (("polite", "kind"), ("rude", "harsh")),
    "wish": tuple((wish, "wish_" + wish) for wish in ("invoice", "delivery", "manual", "warranty")),
}
_SPANS = {"signature": ("name",), "reference": ("order",), "errand": ("place", "day")}
_TICKET_TOPICS = (*_SIDES, "sentiment", *_SPANS)


@dataclass(frozen=True)
class Message:
    """A text and what is true of it, by attribute (a class value, or a span of the text)."""

    kind: str
    text: str
    facts: Mapping[str, str] = field(default_factory=dict)


def invented_word(rng: random.Random) -> str:
    """A word that exists nowhere, so that copying it has to be copying and cannot be recall."""
    syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2)))]
    return ("".join(syllables) + rng.choice(_CODAS)).capitalize()


class Draft:
    """Expands symbols of the lexicon; a bound symbol always expands to its binding."""

    def __init__(self, rng: random.Random, **bound: str) -> None:
        self.rng = rng
        self.bound = dict(bound)

    def bind(self, symbol: str) -> str:
        """Fix `symbol` for the rest of this message and return what it stands for."""
        self.bound[symbol] = self.expand("{" + symbol + "}")
        return self.bound[symbol]

    def of(self, symbol: str) -> str:
        """One random expansion of `symbol`."""
        return self.expand("{" + symbol + "}")

    def expand(self, template: str) -> str:
        """Replace every slot of `template`, and the slots of what replaces it."""
        return _SLOT.sub(lambda match: self._fill(match.group(1)), template)

    def _fill(self, symbol: str) -> str:
        if symbol in self.bound:
            return self.bound[symbol]
        return self.expand(self._draw(symbol))

    def _draw(self, symbol: str) -> str:
        rng = self.rng
        if symbol == "name":
            return rng.choice(NAMES) if rng.random() < 0.8 else invented_word(rng)
        if symbol == "place":
            return rng.choice(PLACES) if rng.random() < 0.9 else invented_word(rng)
        if symbol == "day":
            return rng.choice(DAYS)
        if symbol == "product":
            return rng.choice(PRODUCTS[rng.choice(sorted(PRODUCTS))])
        if symbol == "number":
            return str(rng.randint(2, 99))
        if symbol == "order":
            return str(rng.randint(100, 999))
        if symbol == "handle":
            maker = rng.choice(COMPANIES) if rng.random() < 0.7 else invented_word(rng)
            return "@" + maker + rng.choice(("", "", "Help", "Air", "Shop", "Rail"))
        return rng.choice(RULES[symbol])


def _flip(rng: random.Random) -> bool:
    return rng.random() < 0.5


def _sentence_of(part: str, stop: str) -> str:
    mark = "?" if part.split()[0].lower() in _ASKING else stop
    return part[:1].upper() + part[1:] + ("" if part[-1] in ".!?" else mark)


def _join(rng: random.Random, parts: list[str]) -> str:
    """Write `parts` as sentences, with the loose punctuation and case that people use."""
    style = rng.random()
    if style < 0.2:
        return ", ".join(parts)
    stop = rng.choice((".", ".", ".", "!"))
    text = " ".join(_sentence_of(part, stop) for part in parts)
    return text.rstrip(".") if style > 0.85 else text


def _finish(kind: str, rng: random.Random, text: str, facts: dict[str, str]) -> Message:
    """Mend the articles, and lower-case a third of the messages, with the spans among the facts."""
    text = _ARTICLE.sub(r"\1n ", text)
    if rng.random() < 0.33:
        text = text.lower()
        facts = {key: value.lower() if value.lower() in text else value for key, value in facts.items()}
    return Message(kind, text, facts)


def ticket(rng: random.Random, fullness: float = 1.0) -> Message:
    """A note to a shop: sentiment, urgency, politeness, wish, section, and spans to extract."""
    section = rng.choice(sorted(PRODUCTS))
    draft = Draft(rng, product=rng.choice(PRODUCTS[section]))
    draft.bind("place")
    facts: dict[str, str] = {}
    parts: list[str] = []
    count = rng.randint(1, 1 + round(4 * fullness))
    for topic in dict.fromkeys(rng.sample(_TICKET_TOPICS, count)):
        if topic == "sentiment":
            facts |= {"product": draft.bound["product"], "section": section}
        if topic in _SIDES:
            facts[topic], symbol = rng.choice(_SIDES[topic])
            parts.append(draft.of(symbol))
        else:
            for span in _SPANS[topic]:
                facts[span] = draft.bind(span)
            parts.append(draft.of(topic))
    return _finish("ticket", rng, _join(rng, parts), facts)


def query(rng: random.Random, fullness: float = 1.0) -> Message:
    """A question or a command to an assistant: domain, urgency, politeness."""
    domain = rng.choice(sorted(DOMAIN_TEMPLATES))
    draft = Draft(rng)
    facts = {"domain": domain}
    parts = [draft.expand(rng.choice(DOMAIN_TEMPLATES[domain]))]
    if rng.random() < 0.3 * fullness:
        hurried = _flip(rng)
        facts["urgency"] = "urgent" if hurried else "routine"
        parts.append(draft.of("hurry" if hurried else "leisure"))
    if rng.random() < 0.3 * fullness:
        polite = _flip(rng)
        facts["politeness"] = "polite" if polite else "rude"
        parts.append(draft.of("kind" if polite else "harsh"))
    rng.shuffle(parts)
    text = _join(rng, parts)
    return _finish("query", rng, text if rng.random() < 0.5 else text.lower().rstrip("."), facts)


def tweet(rng: random.Random, fullness: float = 1.0) -> Message:
    """A short public post: irony, complaint, and the account it names."""
    draft = Draft(rng)
    handle = draft.bind("handle")
    ironic, complains = _flip(rng), _flip(rng)
    symbol = f"tweet_{'ironic' if ironic else 'sincere'}_{'complaint' if complains else 'fine'}"
    text = draft.of(symbol)
    facts = {
        "irony": "irony" if ironic else "non irony",
        "complaint": "complaint" if complains else "no complaint",
    }
    if rng.random() < 0.5 * fullness:
        text += rng.choice((" ", ". ", "! ", " 🙂 ", " 😡 ")) + draft.of("hashtag")
    if handle in text:
        facts["handle"] = handle
    return _finish("tweet", rng, text, facts)


def film(rng: random.Random, fullness: float = 1.0) -> Message:
    """A line about a film: an opinion of it or a piece of its plot."""
    draft = Draft(rng)
    name = draft.bind("name")
    opinion = _flip(rng)
    text = draft.of("film_opinion" if opinion else "film_plot")
    facts = {"subjectivity": "subjective" if opinion else "objective"}
    if name in text:
        facts["name"] = name
    if rng.random() < 0.5:
        text += rng.choice((" .", "."))
    return _finish("film", rng, text, facts)


def points(rng: random.Random, fullness: float = 1.0) -> Message:
    """A list of good or of bad points of a device, as reviewers write it."""
    draft = Draft(rng)
    good = _flip(rng)
    items = [
        draft.of("pro_point" if good else "con_point") for _ in range(rng.randint(1, 1 + round(3 * fullness)))
    ]
    text = rng.choice((", ", ", ", ". ")).join(items)
    facts = {"points": "pro" if good else "con", "first": items[0]}
    if _flip(rng):
        text, facts["first"] = text[0].upper() + text[1:], items[0][0].upper() + items[0][1:]
    return _finish("points", rng, text, facts)


def record(rng: random.Random, fullness: float = 1.0) -> Message:
    """Fields about a restaurant, and the sentence that says the same."""
    draft = Draft(rng)
    title = draft.expand("The {adjective} {landmark}") if _flip(rng) else invented_word(rng)
    values = {
        "name": title,
        "eatType": draft.of("venue"),
        "food": draft.of("cuisine"),
        "priceRange": draft.of("price"),
        "area": draft.of("area"),
    }
    share = 0.6 * fullness
    kept = {k: value for k, value in values.items() if k == "name" or rng.random() < share}
    shape = rng.choice(("{}[{}]", "{}[{}]", "{}: {}"))
    text = rng.choice((", ", ", ", " | ")).join(shape.format(*item) for item in kept.items())
    facts = {"sentence": _sentence(kept), "title": title}
    facts.update({key: kept[key] for key in ("food", "area") if key in kept})
    return Message("record", text, facts)


def _sentence(values: Mapping[str, str]) -> str:
    venue = values.get("eatType", "place")
    price = values["priceRange"] + " " if "priceRange" in values else ""
    article = "an" if (price + venue)[0] in "aeiou" else "a"
    food = f" serving {values['food']} food" if "food" in values else ""
    area = f" in the {values['area']}" if "area" in values else ""
    return f"{values['name']} is {article} {price}{venue}{food}{area}."


def guestbook(rng: random.Random, fullness: float = 1.0) -> Message:
    """An entry in a hotel's guest book: the kind of message that pretraining never shows."""
    draft = Draft(rng)
    pleased = _flip(rng)
    parts = [draft.of("stay")]
    symbol = "stay_good" if pleased else "stay_bad"
    parts += [draft.of(symbol) for _ in range(rng.choice((1, 2)))]
    facts = {"sentiment": "positive" if pleased else "negative"}
    if _flip(rng):
        parts.append(draft.of("signature"))
    rng.shuffle(parts)
    return _finish("guestbook", rng, _join(rng, parts), facts)


KINDS: dict[str, Callable[[random.Random, float], Message]] = {
    "ticket": ticket,
    "query": query,
    "tweet": tweet,
    "film": film,
    "points": points,
    "record": record,
    "guestbook": guestbook,
}
