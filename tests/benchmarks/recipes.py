"""What a recipe of training is worth: the same model on the same speech for the same time, by the word errors on the test split.

    python tests/benchmarks/recipes.py WORK --corpus results/corpus/synth --features results/features/synth/logmel80 \
        --tokenizer results/tokenizer/unigram128-synth
    python tests/benchmarks/recipes.py WORK ... --recipes ours adamw no_averaging
    python tests/benchmarks/recipes.py WORK ... --model npu_xs --train nine_hours_more --set train.checkpoint=MODEL_DIR --jobs 2

`ours` is a file of conf/train; it says how much time there is: the CPU seconds that its training takes, which hardly depend on what else
the machine does. `seed` is the recipe that Arm's example is trained with, at its batches, with as many epochs as fit into that time; its
schedule is made for them. Every other recipe is ours with one thing changed, for as many epochs as ours, or half as many where an epoch
costs twice as much. WORK keeps what was made; a training that is done is not done again, one that was interrupted goes on. With --jobs
trainings run side by side: give each its threads (OMP_NUM_THREADS=1). `waiting_for_data` is the part of a step's time that it takes.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from steps import composed, stage

from earshot.corpus.manifest import load_cuts
from earshot.files import read_json, write_json

SEED_UTTERANCES = 96  # in a batch
CHANGES = {
    "ours": [],
    "adamw": ["train.optimizer=adamw", "train.lr=2e-3"],
    "no_averaging": ["train.ema_decay=0"],
    "no_spec_augment": ["train.freq_masks=0", "train.time_masks=0"],
    "no_silence": ["train.silence_p=0"],
    "intermediate_ctc": ["train.intermediate_ctc=0.5"],
    "short_first": ["train.short_first_epochs=1"],
    "large_batches": ["train.batch_s=100"],
    "dropout": ["model.dropout=0.1"],
    "no_dropout": ["model.dropout=0"],
    "no_intermediate_ctc": ["train.intermediate_ctc=0"],
    "one_speed": ["train.speeds=[1.0]"],
    "consistency": ["train.consistency=0.2", "train.time_masks=8"],  # the paper's weight, and more masks than one view bears
    "stochastic_depth": ["model.stochastic_depth=0.1"],
}
COSTS = {"consistency": 2}  # an epoch, where it is another number of ours


class Trainings:
    """Trainings of one model on one corpus."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.ours = args, [f"train={args.train}", *args.set]
        self.epochs = composed(*self.ours).train.epochs
        durations = [cut.duration for cut in load_cuts(args.features / "train.cuts.jsonl.gz")]
        self.seed_batch_s = SEED_UTTERANCES * sum(durations) / len(durations)

    def train(self, name: str, *words: str) -> dict[str, float]:
        """CPU seconds, WER on the dev and on the test split, of a training with these settings."""
        out, args = self.args.work / name, self.args
        if not (out / "cost.json").exists():
            given = f"model={args.model}", f"features_dir={args.features}", f"tokenizer_dir={args.tokenizer}", "tracking=off"
            write_json(out / "cost.json", {"cpu_s": stage("train", *given, *words, f"out={out}")})
        found = out / "evaluation.json"
        if not found.exists():
            stage("evaluate", "kind=float", f"subject={out}", f"corpus_dir={args.corpus}", "evaluation.bootstrap=0", f"out={found}")
        metrics = read_json(out / "metrics.json")
        costs = {"epochs": metrics["epochs"], "cpu_s": read_json(out / "cost.json")["cpu_s"]}
        costs |= {"waiting_for_data": round(metrics["throughput"]["share"]["data"], 4)}
        return costs | {"dev_wer": round(metrics["dev_wer"], 4), "wer": round(read_json(found)["accuracy"]["float"]["wer"], 4)}

    def changed(self, recipe: str) -> dict[str, float]:
        """Ours with one thing changed."""
        return self.train(recipe, *self.ours, *CHANGES[recipe], f"train.epochs={max(1, self.epochs // COSTS.get(recipe, 1))}")

    def seed(self, cpu_s: float) -> dict[str, float]:
        """The seed's recipe for so many CPU seconds."""
        words = "train=long", f"train.batch_s={self.seed_batch_s:.0f}", "train.buckets=2", "train.ema_decay=0", "train.silence_p=0"
        one, two = (self.train(f"seed-{count}", *words, f"train.epochs={count}", "train.warmup_epochs=0")["cpu_s"] for count in (1, 2))
        epochs = max(1, int((cpu_s - one) / (two - one)) + 1)
        return self.train(f"seed-{epochs}", *words, f"train.epochs={epochs}", f"train.warmup_epochs={min(2, epochs // 4)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for everything that is made")
    for name in ("corpus", "features", "tokenizer"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"directory of the {name} step")
    parser.add_argument("--model", default="conformer_xs", help="a file of conf/model")
    parser.add_argument("--train", default="quick", help="a file of conf/train: our recipe")
    parser.add_argument("--recipes", nargs="+", default=["ours", "seed"], choices=[*CHANGES, "seed"])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="what ours, and so all but the seed's, is given besides")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    args = parser.parse_args()
    trainings = Trainings(args)
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {recipe: pool.submit(trainings.changed, recipe) for recipe in dict.fromkeys(["ours", *args.recipes]) if recipe != "seed"}
        ours = running["ours"].result()
        if "seed" in args.recipes:
            running["seed"] = pool.submit(trainings.seed, ours["cpu_s"])
        rows = {}
        for recipe, training in running.items():
            rows[recipe] = {**training.result(), "errors_relative_to_ours": round(training.result()["wer"] / ours["wer"] - 1, 3)}
            print(json.dumps({recipe: rows[recipe]}), file=sys.stderr, flush=True)
    print(json.dumps({"model": args.model, "train": args.train, "recipes": rows}))


if __name__ == "__main__":
    main()
