"""Greedy decoding, beam search, and beam search with a language model on the demo's float model: words, and what they cost.

    python tests/benchmarks/decoding.py RESULTS WORK

RESULTS is what the demo leaves (run from the folder that it lies in: its manifests name the audio from there). The language model is a
bigram that is counted on the training transcripts; its weight, the score of a word and the blank penalty are chosen on the dev split, among
those below. Prints the dev WER of each choice, and as JSON of the test split: WER with its interval, the difference to greedy, seconds of
decoding per second of speech on one thread, and how well confidences tell right words from wrong ones (area under the ROC curve).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))
from counted_arpa import write_arpa

from earshot import lexicon, metrics, recognizers
from earshot.config import SAMPLE_RATE_HZ, Decode, Window
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.decoders import Decoder
from earshot.evaluate import utterances
from earshot.tokenizer import Tokenizer

WINDOW = Window(seconds=5.0, overlap_s=1.0)
BLANK_PENALTIES = (0.0, 0.5, 1.0)
WEIGHTS, WORD_SCORES = (0.25, 0.5, 1.0), (0.0, 1.0)


def split(results: Path, name: str, form: recognizers.Form) -> list:
    """Utterances of a split with their logits."""
    found = list(utterances(results / "corpus" / "synth" / f"{name}.cuts.jsonl.gz"))
    return [(one, form.logits(form.front_end(read_audio(one.audio)))) for one in found]


def decode(speech: list, decoder: Decoder, output_s: float) -> tuple[list, list]:
    """Rows, and each recognized word's confidence with whether it is right."""
    rows, sure = [], []
    for one, logits in speech:
        best = decoder(logits, output_s)[0]
        rows.append(metrics.compare(one.id, one.duration_s, one.reference, best.text))
        wrong = {edit.at for edit in metrics.edits(one.reference, best.text) if edit.recognized}
        sure += [(word.confidence, i not in wrong) for i, word in enumerate(best.words)]
    return rows, sure


def auc(sure: list) -> float:
    """Probability that a right word has a higher confidence than a wrong one."""
    right, wrong = (np.array([value for value, is_right in sure if is_right == wanted]) for wanted in (True, False))
    return float(np.mean((right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--quick", action="store_true", help="16 utterances of each split")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    form = recognizers.open_model(given.results / "train" / "conformer_xs-synth", WINDOW)[0]
    output_s = form.grid.factor * form.front_end.hop_length / SAMPLE_RATE_HZ
    texts = [cut.supervisions[0].text for cut in load_cuts(given.results / "corpus" / "synth" / "train.cuts.jsonl.gz")]
    lm = write_arpa(given.work / "lm.arpa", texts)
    words = sorted({word for text in texts for word in text.split()})
    lexicon.write(given.work / "lexicon.txt", words, Tokenizer(given.results / "tokenizer" / "unigram128-synth" / "tokenizer.model"))
    dev, test = (split(given.results, name, form)[: 16 if given.quick else None] for name in ("dev", "test"))
    with_lm = Decode(method="lm", lm=str(lm), lexicon=str(given.work / "lexicon.txt"))
    choices = {
        "greedy": [Decode(blank_penalty=penalty) for penalty in BLANK_PENALTIES],
        "beam": [Decode(method="beam", blank_penalty=penalty) for penalty in BLANK_PENALTIES],
        "lm": [replace(with_lm, lm_weight=weight, word_score=score) for weight in WEIGHTS for score in WORD_SCORES],
    }
    report = {"lm_words": len(words), "lm_sentences": len(texts), "test_s": round(sum(one.duration_s for one, _ in test), 1)}
    rows = {}
    for method, configs in choices.items():
        dev_wer = []
        for config in configs:
            dev_wer.append(metrics.accuracy(decode(dev, Decoder(form.pieces, config), output_s)[0], 0, 0)["wer"])
            keys = ("lm_weight", "word_score") if method == "lm" else ("blank_penalty",)
            print(f"dev {method} {' '.join(f'{key}={getattr(config, key)}' for key in keys)}: {100 * dev_wer[-1]:.2f}%", flush=True)
        best = configs[int(np.argmin(dev_wer))]
        for name, config in ({method: configs[0]} | ({} if best == configs[0] else {f"{method}, chosen on dev": best})).items():
            decoder = Decoder(form.pieces, config)
            begun = time.process_time()
            rows[name], sure = decode(test, decoder, output_s)
            report[name] = {
                **{key: getattr(config, key) for key in ("blank_penalty", "lm_weight", "word_score")},
                **{key: value for key, value in metrics.accuracy(rows[name], 1000, 0).items() if key != "confused"},
                **metrics.wer_difference(rows[name], rows["greedy"], 1000, 0),
                "rtf_decoding": (time.process_time() - begun) / report["test_s"],
                "confidence_auc": auc(sure),
            }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
