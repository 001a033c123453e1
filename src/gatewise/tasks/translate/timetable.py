"""The pairs that need no download: sentences of a timetable, in English and in French, made by rules."""

import random
from datetime import date, timedelta

from gatewise.tasks.translate.numbers import english_date, english_time, french_date, french_time

# (who, what they do), in English and in French.
_TRAFFIC = (("leaves", "part"), ("arrives", "arrive"))
_HOUSES = (("opens", "ouvre"), ("closes", "ferme"))
_EVENTS = (("begins", "commence"), ("ends", "finit"))
SUBJECTS = (
    ("the train", "le train", _TRAFFIC), ("the boat", "le bateau", _TRAFFIC), ("the bus", "le bus", _TRAFFIC),
    ("the museum", "le musée", _HOUSES), ("the library", "la bibliothèque", _HOUSES),
    ("the shop", "le magasin", _HOUSES), ("the concert", "le concert", _EVENTS), ("the film", "le film", _EVENTS),
    ("the party", "la fête", _EVENTS),
)  # fmt: skip
FIRST, LAST = date(1800, 1, 1), date(2099, 12, 31)


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Sentences that say when something happens, and their translations.

    The English puts subject, date and time in one of several orders, and the month before or after the day; the
    French is always the same. Half of the sentences have a date and a time, a quarter each only one of them.

    Args:
        count: how many; the English sentences are all different.
        seed: of the drawing: the same seed, the same pairs, and the first of more are those of fewer.
    """
    draw = random.Random(seed)
    made: dict[str, str] = {}
    while len(made) < count:
        source, target = _pair(draw)
        made.setdefault(source, target)
    return list(made.items())


def _pair(draw: random.Random) -> tuple[str, str]:
    who, qui, acts = draw.choice(SUBJECTS)
    does, fait = draw.choice(acts)
    day = FIRST + timedelta(days=draw.randrange((LAST - FIRST).days + 1))
    hour, minute = draw.randrange(24), 5 * draw.randrange(12)
    on, at = f"on {english_date(day, month_first=draw.random() < 0.5)}", f"at {english_time(hour, minute)}"
    le, à = f"le {french_date(day)}", f"à {french_time(hour, minute)}"
    act = f"{who} {does}"
    kind = draw.random()
    if kind < 0.25:
        source, target = draw.choice((f"{act} {on}", f"{on}, {act}")), f"{qui} {fait} {le}"
    elif kind < 0.5:
        source, target = draw.choice((f"{act} {at}", f"{at}, {act}")), f"{qui} {fait} {à}"
    else:
        orders = (
            f"{act} {on}, {at}", f"{act} {at} {on}", f"{on}, {act} {at}", f"{at} {on}, {act}", f"{on}, {at}, {act}",
        )  # fmt: skip
        source, target = draw.choice(orders), f"{qui} {fait} {le} {à}"
    return f"{source[0].upper()}{source[1:]}.", f"{target[0].upper()}{target[1:]}."
