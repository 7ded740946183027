"""Fetch a language model by name: `python -m earshot.stages.language_model name=librispeech_3gram out=lm.arpa.gz`."""

from __future__ import annotations

from pathlib import Path

from earshot.config import LanguageModelStage
from earshot.corpus import download
from earshot.errors import ConfigError
from earshot.language_model import KNOWN
from earshot.stages import stage

KEYS = download.Keys(mirror="decode.mirror", by_hand="fetch it yourself and set decode.lm=FILE", room="make room")


@stage("language_model")
def main(cfg: LanguageModelStage) -> None:
    if cfg.name not in KNOWN:
        raise ConfigError(f"name={cfg.name}: no language model of that name; there are {', '.join(KNOWN)}")
    path, checksum = KNOWN[cfg.name]
    download.fetch(f"{cfg.mirror.rstrip('/')}/{path}", Path(cfg.out), cfg.checksum or checksum, KEYS)


if __name__ == "__main__":
    main()
