"""A command-and-control language: what one says to a home, a robot, a timer, a music player or a telephone."""

from __future__ import annotations

import random
import re
from collections import Counter

DIGITS = ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"]
TEENS = ["TEN", "ELEVEN", "TWELVE", "THIRTEEN", "FOURTEEN", "FIFTEEN", "SIXTEEN", "SEVENTEEN", "EIGHTEEN", "NINETEEN"]
TENS = ["TWENTY", "THIRTY", "FORTY", "FIFTY", "SIXTY", "SEVENTY", "EIGHTY", "NINETY"]

# A name in braces stands for one of the phrases of SLOTS; number, large, time and digits are drawn.
SLOTS = {
    "room": "KITCHEN|BEDROOM|BATHROOM|GARAGE|OFFICE|GARDEN",
    "device": "LIGHTS|LAMP|HEATER|FAN|RADIO|OVEN|CAMERA|ALARM|TELEVISION",
    "opening": "BLINDS|CURTAINS|WINDOW|DOOR|GATE",
    "colour": "RED|GREEN|BLUE|YELLOW|WHITE",
    "object": "BOX|CUP|BOTTLE|BALL|BOOK",
    "surface": "TABLE|SHELF|FLOOR",
    "side": "LEFT|RIGHT",
    "way": "FORWARD|BACKWARD",
    "length": "METERS|STEPS",
    "unit": "SECONDS|MINUTES|HOURS",
    "clock": "TIMER|STOPWATCH",
    "music": "JAZZ|ROCK|DANCE MUSIC|THE NEWS",
    "item": "MILK|BREAD|BUTTER|CHEESE|APPLES",
    "person": "MOTHER|FATHER|MY SISTER|MY BROTHER|THE DOCTOR",
    "day": "MONDAY|TUESDAY|WEDNESDAY|THURSDAY|FRIDAY|SATURDAY|SUNDAY",
    "when": "TODAY|TOMORROW|TONIGHT",
    "part": "MORNING|AFTERNOON|EVENING",
    "city": "LONDON|PARIS|BERLIN|CHICAGO",
}
SENTENCES = """
TURN ON THE {room} {device}
TURN OFF THE {room} {device}
SWITCH THE {device} OFF IN THE {room}
SWITCH ON THE {device} AT {time} IN THE {part}
DIM THE {room} LIGHTS TO {number} PERCENT
MAKE THE {room} LIGHTS {colour}
OPEN THE {room} {opening}
CLOSE THE {opening} IN THE {room}
IS THE {room} {opening} STILL OPEN
SET THE {room} TEMPERATURE TO {number} DEGREES
ROBOT GO {way} {number} {length}
ROBOT TURN {side} BY {number} DEGREES
PICK UP THE {colour} {object}
PICK UP THE {object} FROM THE {surface}
PUT THE {colour} {object} ON THE {surface}
BRING THE {object} TO THE {room}
CLEAN THE {room} EVERY {day} {part}
SET A TIMER FOR {number} {unit}
ADD {number} {unit} TO THE {clock}
CANCEL THE {number} MINUTE TIMER
START THE {clock} IN {number} SECONDS
WAKE ME UP AT {time} ON {day}
PLAY {music} IN THE {room}
PLAY {music} FOR {number} MINUTES
PAUSE THE MUSIC FOR {number} {unit}
SET THE VOLUME TO {number}
TURN THE VOLUME DOWN TO {number} IN THE {room}
SWITCH TO CHANNEL {large}
CALL {person} ON {day} {part}
DIAL {digits}
ENTER CODE {digits}
ADD {number} PACKS OF {item} TO THE SHOPPING LIST
REMOVE {item} AND {item} FROM THE SHOPPING LIST
WHAT IS THE WEATHER IN {city} ON {day}
WILL IT RAIN IN {city} {when}
WHAT IS {large} PLUS {number}
""".strip().splitlines()
_CHOICES = {name: phrases.split("|") for name, phrases in SLOTS.items()}


class Speaker:
    """Draws commands; what it said less often is more likely to come next, so that no word stays rare."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._said: Counter[str] = Counter()

    def command(self) -> str:
        """One command in capitals."""
        return re.sub(r"\{(\w+)\}", lambda match: self._fill(match[1]), self._pick(SENTENCES))

    def _fill(self, slot: str) -> str:
        if slot == "number":
            return self._below_100()
        if slot == "large":
            return f"{self._pick(DIGITS[1:])} HUNDRED {self._below_100()}"
        if slot == "time":
            return self._pick([*DIGITS[1:], *TEENS[:3]]) + self._pick(["", " FIFTEEN", " THIRTY", " FORTY FIVE"])
        if slot == "digits":
            return " ".join(self._pick(DIGITS) for _ in range(self._rng.randrange(3, 7)))
        return self._pick(_CHOICES[slot])

    def _below_100(self) -> str:
        # As many up to nineteen as from twenty on: each teen is a word of its own.
        return (
            self._pick([*DIGITS[1:], *TEENS])
            if self._rng.random() < 0.5
            else self._pick(TENS) + self._pick(["", *(f" {one}" for one in DIGITS[1:])])
        )

    def _pick(self, phrases: list[str]) -> str:
        chosen = min(self._rng.sample(phrases, min(3, len(phrases))), key=self._said.__getitem__)
        self._said[chosen] += 1
        return chosen


def vocabulary() -> set[str]:
    """Every word that a command can hold."""
    phrases = [*DIGITS, *TEENS, *TENS, "HUNDRED", *(phrase for choices in _CHOICES.values() for phrase in choices)]
    return {word for phrase in [*phrases, *(re.sub(r"\{\w+\}", " ", s) for s in SENTENCES)] for word in phrase.split()}
