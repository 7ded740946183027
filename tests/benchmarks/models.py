"""Models trained on one corpus with an equal budget, as many epochs of the same audio each: WER against cycles, SRAM and parameters.

    python tests/benchmarks/models.py WORK --models conformer_s npu_s npu_xs --epochs 4 --lowered npu_s=VARIANT/lower.json

WORK keeps everything: an interrupted run goes on after the last whole epoch, and what was trained or evaluated with the same settings on
the same data is taken as it is. Without --corpus, a synthetic corpus is made there. It then holds models.csv and models.svg. A lowering is
Vela's estimate of a window, and comes from the lower stage; models without one have no cycles in the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from steps import corpus_steps, stage, write_table

from earshot.files import read_json, sha256
from earshot.plot_style import COLOURS, STYLE, svg

PANELS = (("npu_cycles", 1e6, "cycles of a window, millions"), ("sram_kib", 1024, "SRAM, MiB"), ("parameters", 1e6, "parameters, millions"))


def evaluated(model_dir: Path, corpus: Path, window: str, split: str) -> dict[str, Any]:
    """The evaluation of a model, over windows and over whole utterances; done again where training, data or window are others."""
    out = model_dir / f"evaluation-{split}-{window}.json"
    # Of the training, not of the weights' file: its header is in another order whenever it is written.
    key = {"training": read_json(model_dir / "state" / "training.json")["fingerprint"], "data": sha256(corpus / f"{split}.cuts.jsonl.gz")}
    record = out.with_suffix(".key")
    if not (out.exists() and record.exists() and json.loads(record.read_text()) == key):
        stage("evaluate", "kind=float", f"window={window}", f"split={split}", f"subject={model_dir}", f"corpus_dir={corpus}", f"out={out}")
        record.write_text(json.dumps(key))
    return read_json(out)


def row(name: str, model_dir: Path, evaluation: dict[str, Any], lowered: dict[str, Any] | None) -> dict[str, Any]:
    """A line of the table; `lowered` is the lower.json of the model, if it was lowered."""
    training = read_json(model_dir / "metrics.json")
    windowed, full = evaluation["accuracy"]["float"], evaluation["accuracy"]["float_full"]
    low, high = windowed.get("wer_ci95", (None, None))
    npu = (lowered or {}).get("npu", {})
    return {
        "model": name,
        "parameters": training["parameters"],
        "epochs": training["epochs"],
        "audio_seen_h": round(training["epochs"] * training["train_hours"], 3),
        "training_s": round(training["training_s"], 1),
        "x_realtime": round(3600 * training["epochs"] * training["train_hours"] / training["training_s"], 1),
        "dev_wer": training["dev_wer"],
        "wer": windowed["wer"],
        "wer_ci95_low": low,
        "wer_ci95_high": high,
        "wer_full": full["wer"],
        "words": windowed["words"],
        "window_s": evaluation["window_s"],
        "npu_window_s": (lowered or {}).get("window_s"),
        "npu_cycles": npu.get("cycles"),
        "npu_latency_ms": npu.get("latency_ms"),
        "sram_kib": npu.get("sram_kib"),
        "flash_kib": npu.get("flash_kib"),
    }


def plot(table: list[dict[str, Any]]) -> str:
    """WER (with its 95% interval) against what a model costs, a panel for each cost that is known, as SVG."""
    with matplotlib.rc_context(STYLE):
        panels = [panel for panel in PANELS if any(one[panel[0]] for one in table)]
        figure = Figure(figsize=(2.9 * len(panels) + 0.6, 3.4), layout="constrained")
        for axes, (key, unit, label) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
            for at, one in enumerate(table):
                if not one[key]:
                    continue
                x, y, colour = one[key] / unit, 100 * one["wer"], COLOURS[at % len(COLOURS)]
                if one["wer_ci95_low"] is not None:
                    axes.plot([x, x], [100 * one["wer_ci95_low"], 100 * one["wer_ci95_high"]], color=colour, alpha=0.45, linewidth=1.2)
                axes.plot(x, y, "o", color=colour, markersize=7, markeredgecolor="white", label=one["model"])
                axes.annotate(one["model"], (x, y), (6, 4), textcoords="offset points", fontsize=8)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.set_xlim(left=0, right=1.35 * max(one[key] or 0 for one in table) / unit)
            axes.set_ylim(bottom=0)
            axes.grid(True)
            axes.set_axisbelow(True)
            axes.set_xlabel(label)
        figure.axes[0].set_ylabel("word error rate, % (line: 95% interval)")
        return svg(figure, "models")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for everything that is made")
    parser.add_argument(
        "--models", nargs="+", default=["npu_xs", "npu_s", "conformer_s"], help="files of conf/model, trained in this order"
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--train", default="quick", help="a file of conf/train")
    parser.add_argument("--set", nargs="*", default=["model.dropout=0.0"], metavar="KEY=VALUE", help="for the training of every model")
    parser.add_argument("--window", default="10s", help="a file of conf/window, for the evaluation")
    parser.add_argument("--split", default="test")
    for name in ("corpus", "features", "tokenizer"):
        parser.add_argument(f"--{name}", type=Path, help=f"directory of the {name} step; all three or none")
    parser.add_argument("--minutes", type=float, default=100.0, help="of the synthetic corpus")
    parser.add_argument("--vocab-size", type=int, default=192, help="for the synthetic corpus; outputs every 80 ms ask for long pieces")
    parser.add_argument("--lowered", nargs="*", default=[], metavar="MODEL=FILE", help="lower.json of a model's variant")
    parser.add_argument("--quick", action="store_true", help="two small models, one epoch of three minutes")
    args = parser.parse_args()
    given = [args.corpus, args.features, args.tokenizer]
    if any(given) and not all(given):
        parser.error("--corpus, --features and --tokenizer belong together: give all three or none")
    lowered = dict(entry.split("=", 1) for entry in args.lowered)
    if unknown := lowered.keys() - set(args.models):
        parser.error(f"--lowered: {', '.join(sorted(unknown))} not among --models")
    if args.quick:
        args.models, args.epochs, args.minutes, args.vocab_size, args.window = ["npu_xs", "conformer_xs"], 1, 3.0, 100, "5s"
    corpus, features, tokenizer = given if all(given) else corpus_steps(args.work, args.minutes, args.vocab_size)
    table = []
    for name in args.models:
        model_dir = args.work / "train" / name
        # A training that is complete does no step again: the stage goes on after its last whole epoch, of the same settings and digests.
        stage("train", f"model={name}", f"train={args.train}", f"train.epochs={args.epochs}", *args.set, "tracking=off",
              f"features_dir={features}", f"tokenizer_dir={tokenizer}", f"out={model_dir}")  # fmt: skip
        evaluation = evaluated(model_dir, corpus, args.window, args.split)
        table.append(row(name, model_dir, evaluation, read_json(lowered[name]) if name in lowered else None))
        write_table(args.work, "models", table, plot(table))  # after each: trainings take long
    print(json.dumps({"models": table, "csv": str(args.work / "models.csv"), "plot": str(args.work / "models.svg")}))


if __name__ == "__main__":
    main()
