"""Spell the words of a language model: `python -m earshot.stages.lexicon lm=lm.arpa.gz tokenizer_model=tokenizer.model out=lexicon.txt`."""

from __future__ import annotations

from earshot import language_model, lexicon
from earshot.config import LexiconStage
from earshot.stages import stage
from earshot.tokenizer import Tokenizer


@stage("lexicon")
def main(cfg: LexiconStage) -> None:
    spelled, left_out = lexicon.write(cfg.out, language_model.words(cfg.lm), Tokenizer(cfg.tokenizer_model))
    some = f", {len(left_out)} left out that the tokenizer cannot spell ({', '.join(left_out[:5])})" if left_out else ""
    print(f"{cfg.out}: {spelled} words{some}")


if __name__ == "__main__":
    main()
