"""Numbers, dates and times in English and in French words, by the rules of grammar books."""

from datetime import date

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_UNITS = [
    "zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze", "treize",
    "quatorze", "quinze", "seize", "dix-sept", "dix-huit", "dix-neuf",
]  # fmt: skip
_DIZAINES = ["zéro", "dix", "vingt", "trente", "quarante", "cinquante", "soixante"]
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
DAYS = (
    ("Monday", "lundi"), ("Tuesday", "mardi"), ("Wednesday", "mercredi"), ("Thursday", "jeudi"),
    ("Friday", "vendredi"), ("Saturday", "samedi"), ("Sunday", "dimanche"),
)  # fmt: skip
MONTHS = (
    ("January", "janvier"), ("February", "février"), ("March", "mars"), ("April", "avril"), ("May", "mai"),
    ("June", "juin"), ("July", "juillet"), ("August", "août"), ("September", "septembre"), ("October", "octobre"),
    ("November", "novembre"), ("December", "décembre"),
)  # fmt: skip


def english(n: int) -> str:
    """A number from 0 to 99 in English words: `twenty-one`."""
    if n < 20:
        return _ONES[n]
    return _TENS[n // 10] + (f"-{_ONES[n % 10]}" if n % 10 else "")


def english_ordinal(n: int) -> str:
    """A rank from 1 to 99 in English words: `twenty-first`."""
    head, hyphen, last = english(n).rpartition("-")
    regular = f"{last.removesuffix('y')}ieth" if last.endswith("y") else f"{last}th"
    return head + hyphen + _ORDINALS.get(last, regular)


def english_year(year: int) -> str:
    """A year from 1100 to 2099 as it is read aloud: `nineteen oh five`, `two thousand and five`, `twenty ten`."""
    century, rest = divmod(year, 100)
    if century == 20 and rest < 10:
        return "two thousand" + (f" and {english(rest)}" if rest else "")
    if rest == 0:
        return f"{english(century)} hundred"
    return f"{english(century)} {'oh ' * (rest < 10)}{english(rest)}"


def french(n: int, rank: bool = False) -> str:
    """A number from 0 to 999,999 in French words, spelled as since 1990, with hyphens throughout.

    *Vingt* and *cent* take an s where they are multiplied and nothing follows (`quatre-vingts`, `deux-cents`;
    `quatre-vingt-un`, `deux-cent-un`), but not where the number stands for a rank, as a year does
    (`l'an mille-neuf-cent`), and not before *mille*.

    Args:
        n: the number.
        rank: it stands for a rank.
    """
    if n >= 1000:
        thousands, rest = divmod(n, 1000)
        head = "mille" if thousands == 1 else f"{french(thousands, rank=True)}-mille"
        return head + (f"-{french(rest, rank)}" if rest else "")
    if n >= 100:
        hundreds, rest = divmod(n, 100)
        head = "cent" if hundreds == 1 else f"{_UNITS[hundreds]}-cent"
        return f"{head}-{french(rest, rank)}" if rest else head + "s" * (hundreds > 1 and not rank)
    if n < 20:
        return _UNITS[n]
    if n < 70:
        tens, ones = divmod(n, 10)
        return _DIZAINES[tens] + ("" if not ones else "-et-un" if ones == 1 else f"-{_UNITS[ones]}")
    if n < 80:  # soixante-dix, soixante-et-onze, soixante-douze
        return "soixante-et-onze" if n == 71 else f"soixante-{_UNITS[n - 60]}"
    if n == 80:
        return "quatre-vingt" + "s" * (not rank)
    return f"quatre-vingt-{_UNITS[n - 80]}"  # quatre-vingt-un and quatre-vingt-onze have no et


def english_date(day: date, month_first: bool) -> str:
    """`Tuesday, March the third, nineteen eighty-one`, or `Tuesday, the third of March, nineteen eighty-one`."""
    weekday, month, number = DAYS[day.weekday()][0], MONTHS[day.month - 1][0], english_ordinal(day.day)
    middle = f"{month} the {number}" if month_first else f"the {number} of {month}"
    return f"{weekday}, {middle}, {english_year(day.year)}"


def french_date(day: date) -> str:
    """`mardi trois mars mille-neuf-cent-quatre-vingt-un`; the first of a month is `premier`."""
    number = "premier" if day.day == 1 else french(day.day)
    return f"{DAYS[day.weekday()][1]} {number} {MONTHS[day.month - 1][1]} {french(day.year, rank=True)}"


def english_time(hour: int, minute: int) -> str:
    """A time of the day to five minutes: `twenty to nine in the morning`, `half past noon`, `midnight`."""
    named = (hour + (minute > 30)) % 24
    if named in (0, 12):
        name, part = ("midnight" if named == 0 else "noon"), ""
    else:
        name, part = english(named % 12), " in the " + _part(hour, "morning", "afternoon", "evening")
    if minute == 0:
        return name + (part and f" o'clock{part}")
    if minute == 30:
        return f"half past {name}{part}"
    distance, way = (minute, "past") if minute < 30 else (60 - minute, "to")
    return f"{'a quarter' if distance == 15 else english(distance)} {way} {name}{part}"


def french_time(hour: int, minute: int) -> str:
    """The same in French: `neuf heures moins vingt du matin`, `midi et demi`, `minuit`."""
    named = (hour + (minute > 30)) % 24
    if named in (0, 12):
        name, part, half = ("minuit" if named == 0 else "midi"), "", "demi"  # both are masculine
    else:
        twelve = named % 12
        name = "une heure" if twelve == 1 else f"{french(twelve)} heures"
        part, half = " " + _part(hour, "du matin", "de l'après-midi", "du soir"), "demie"
    if minute == 0:
        return name + part
    if minute == 30:
        return f"{name} et {half}{part}"
    if minute < 30:
        return f"{name} {'et quart' if minute == 15 else french(minute)}{part}"
    return f"{name} moins {'le quart' if minute == 45 else french(60 - minute)}{part}"


def _part(hour: int, *names: str) -> str:
    """Morning to noon, afternoon to six, then evening."""
    return names[0 if hour < 12 else 1 if hour < 18 else 2]
