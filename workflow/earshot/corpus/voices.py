"""Which voices of espeak-ng speak in which split."""

from __future__ import annotations

import random
import re

from earshot.config import Synth
from earshot.corpus import espeak
from earshot.errors import ConfigError

ACCENTS = ("en-us", "en", "en-gb-x-rp")
# Families of variants that whisper, croak, drag, roar, echo or clip, that have formants as nobody has, robots, and `fast`, which sounds as
# no variant at all.
UNUSED = {
    *("AnxiousAndy", "Demonic", "Jacky", "Marco", "RicishayMax", "Tweaky", "UniRobot"),
    *("anikaRobot", "croak", "fast", "ian", "kaukovalta", "robosoft", "whisper", "whisperf", "zac"),
}


def families() -> list[list[str]]:
    """Variants that sound alike stand together: `klatt`, `klatt2` ... are one family; `f1`, `f2`, `m1` ... one each."""
    grouped: dict[str, list[str]] = {}
    for name in espeak.variants():
        family = name if re.fullmatch(r"[fm]\d", name) else name.rstrip("0123456789")
        if family not in UNUSED:
            grouped.setdefault(family, []).append(name)
    return [grouped[key] for key in sorted(grouped)]


def by_split(cfg: Synth) -> dict[str, list[str]]:
    """Voice names of train, dev and test; no family of variants is in two splits.

    Raises:
        ConfigError: more voices are asked for than there are.
    """
    rng = random.Random(f"voices {cfg.seed}")
    single = [members for members in families() if len(members) == 1]
    rng.shuffle(single)
    held_out = cfg.dev_voices + cfg.test_voices
    # Dev and test take families of one, so that each of their voices is another person.
    if held_out >= len(single):
        raise ConfigError(
            f"corpus.dev_voices + corpus.test_voices = {held_out}: espeak-ng has {len(single)} distinct variants, ask for fewer than that"
        )
    test, dev = ([members[0] for members in part] for part in (single[: cfg.test_voices], single[cfg.test_voices : held_out]))
    train = [name for members in families() for name in members if name not in {*dev, *test}]
    rng.shuffle(train)
    most = len(train) * len(ACCENTS)
    if cfg.train_voices > most:
        raise ConfigError(
            f"corpus.train_voices={cfg.train_voices}: beside dev and test espeak-ng has {len(train)} variants in {len(ACCENTS)} accents;"
            f" ask for at most {most}"
        )

    def accented(variants: list[str], count: int) -> list[str]:
        # Accents turn with the variants, and shift by one each time the variants are used up, so that no pair comes twice.
        size = len(variants)
        return [f"{ACCENTS[(i % size + i // size) % len(ACCENTS)]}+{variants[i % size]}" for i in range(count)]

    return {"train": accented(train, cfg.train_voices), "dev": accented(dev, cfg.dev_voices), "test": accented(test, cfg.test_voices)}
