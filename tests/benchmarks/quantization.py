"""What quantization costs and saves, in one run: words, cycles and memory of schemes; calibration; a sweep of 24 variants; a search.

    python tests/benchmarks/quantization.py WORK                      # all of it, after `snakemake --cores 2`, whose model it takes
    python tests/benchmarks/quantization.py WORK words calibration    # parts
    python tests/benchmarks/quantization.py WORK words --model MODEL --corpus CORPUS --test-minutes 0 --schemes int8_pc a8w4+calib.seed=1

    words        WER of the float model, the quantized program and the integer graph of each scheme, with what the NPU needs. Each WER
                 stands beside its difference from the float model's over the same utterances, with the 95% interval of a bootstrap.
                 --test-minutes speaks a larger test split than the corpus has, by the same voices, without sentences that training has
                 said (0: that of the corpus): on the demo's 128 utterances one word is 0.1%. And how much faster than real time PyTorch
                 runs a program.
    calibration  Seconds of the quantize step alone, of random weights and the size that a file of conf/model says: it takes as long as
                 for trained ones.
    sweep        24 variants of the demo (6 schemes x 4 calibrations), its model being there: wall time beside what the jobs took by
                 themselves.
    search       `experiment=search` on the demo's model: what it found within its budget, beside the uniform schemes and what else of
                 this model has been built, the sweep's variants for example.

WORK keeps what words and calibration made; a step whose outputs are there is not done again. The workflow of sweep and search runs where
the model is, results/ being its own, and makes what is not there.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lhotse import CutSet
from steps import composed, lowered, stage, untrained

from earshot import budget, metrics, recognizers, utterance_table
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.files import read_json
from earshot.search import trials
from earshot.search.proposals import SEARCHED

ROOT = Path(__file__).resolve().parents[2]
BOOTSTRAP = 2000
SCHEMES = ["int8_pc", "int8_pt", "a8w4", "a8w4+calib.weights=compensated", "a8w4_qat+calib.weights=compensated"]
SWEEP = "quant=int8_pc,int8_pt,a16w8,a8w4,mixed,int8_uint8_io calib=hist64,minmax64,percentile64,average64 target=u85_256"


def larger_test(work: Path, corpus: Path, minutes: float) -> Path:
    """A corpus directory like `corpus`, with a test split of so many minutes."""
    out, spoken = work / f"corpus-{minutes:g}", work / f"spoken-{minutes:g}"
    if not (out / "test.cuts.jsonl.gz").exists():
        stage("corpus", f"corpus.test_minutes={minutes}", "corpus.dev_minutes=0.1", "corpus.train_minutes=0.1", f"out={spoken}")
        said = "\n".join(cut.supervisions[0].text for cut in load_cuts(corpus / "train.cuts.jsonl.gz"))
        out.mkdir(parents=True, exist_ok=True)
        for split in ("train", "dev"):
            shutil.copyfile(corpus / f"{split}.cuts.jsonl.gz", out / f"{split}.cuts.jsonl.gz")
        new = [cut for cut in load_cuts(spoken / "test.cuts.jsonl.gz") if cut.supervisions[0].text not in said]
        CutSet.from_cuts(new).to_file(out / "test.cuts.jsonl.gz")
    return out


def evaluated(out: Path, kind: str, subject: Path, corpus: Path, window: str) -> dict[str, Any]:
    """The evaluation of a model or program on the test split; one that is done is left."""
    if not out.exists():
        settings = f"window={window}", "evaluation.bootstrap=0", "evaluation.reference_utterances=1"
        stage("evaluate", f"kind={kind}", *settings, f"subject={subject}", f"corpus_dir={corpus}", f"out={out}")
    return read_json(out)["accuracy"]


def of_scheme(args: argparse.Namespace, corpus: Path, scheme: str, float_rows: list[metrics.Row]) -> dict[str, Any]:
    """The figures of a scheme; `scheme` may hold further overrides of the quantize stage: a8w4+calib.observer=minmax."""
    name, *overrides = scheme.split("+")
    words = f"quant={name}", f"calib={args.calib}", f"window={args.window}", *overrides
    folder = args.work / "programs" / scheme
    found = lowered(folder, args.target, args.model, corpus, *words)
    if found["status"] != "ok":
        return {"scheme": scheme, "reason": found["reason"]}
    out = folder / f"evaluation-{corpus.name}.json"
    evaluated(out, "program", folder, corpus, args.window)
    float_wer = metrics.accuracy(float_rows, 0, 0)["wer"]
    line: dict[str, Any] = {"scheme": scheme}
    for form, column in (("quantized", None), ("integer_graph", "integer_graph")):
        rows = utterance_table.read(utterance_table.beside(out), column)
        difference = metrics.wer_difference(rows, float_rows, BOOTSTRAP, 0)
        wer = metrics.accuracy(rows, 0, 0)["wer"]
        line |= {f"wer_{form}": round(wer, 5), f"relative_{form}": round(wer / float_wer - 1, 4)}
        line |= {f"difference_{form}": [round(value, 5) for value in (difference["wer_difference"], *difference["wer_difference_ci95"])]}
    npu = found["npu"]
    return line | {"cycles": npu["cycles"], "sram_kib": npu["sram_kib"], "flash_kib": npu["flash_kib"], "pte_bytes": found["pte_bytes"]}


def program_speed(folder: Path, corpus: Path, overlap_s: float, count: int) -> float:
    """How many times faster than real time PyTorch runs the quantized program over the first `count` test utterances."""
    program, seconds = recognizers.load_program(folder), 0.0
    form = recognizers.form_of("quantized", program, overlap_s, folder)
    started = time.perf_counter()
    for _, cut in zip(range(count), load_cuts(corpus / "test.cuts.jsonl.gz"), strict=False):
        form.logits(form.front_end(read_audio(cut.recording.sources[0].source)))
        seconds += cut.duration
    return round(seconds / (time.perf_counter() - started), 1)


def calibration(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the quantize stage, export and all."""
    model_dir, out = args.work / args.untrained, args.work / f"calibrated-{args.untrained}"
    untrained(model_dir, args.untrained, args.model / "front_end.json", args.model / "tokenizer.pieces")
    words = "quant=int8_pc", f"calib={args.calib}", f"calib.utterances={args.calibration_utterances}", f"window={args.window}", "family=u85"
    stage("quantize", *words, f"model_dir={model_dir}", f"corpus_dir={args.corpus}", f"out={out}")
    return {"model": args.untrained, "utterances": args.calibration_utterances, "seconds": read_json(out / "quantize.json")["seconds"]}


def workflow(args: argparse.Namespace, *config: str) -> dict[str, Any]:
    """Run the workflow where the model is: its wall time, and what its jobs took by themselves."""
    results = args.model.resolve().parents[1]
    command = [sys.executable, "-m", "snakemake", "--cores", str(args.cores), "--snakefile", str(ROOT / "workflow" / "Snakefile")]
    started, before = time.time(), time.monotonic()
    done = subprocess.run([*command, "--keep-going", "--config", *config], cwd=results.parent, stdout=sys.stderr, check=False)
    wall, own, cpu, jobs = time.monotonic() - before, 0.0, 0.0, 0
    for path in (results / "benchmarks").rglob("*.tsv"):
        if path.stat().st_mtime > started:
            with path.open(newline="") as stream:
                for row in csv.DictReader(stream, delimiter="\t"):
                    own, cpu, jobs = own + float(row["s"]), cpu + float(row["cpu_time"]), jobs + 1
    # A variant that fails is a row, and the exit status says so.
    return {"jobs": jobs, "exit_status": done.returncode, "wall_s": round(wall, 1), "own_s": round(own, 1), "own_cpu_s": round(cpu, 1)}


def sweep(args: argparse.Namespace) -> dict[str, Any]:
    """Wall time of 24 variants, everything up to the model being there, and the time that their jobs took by themselves."""
    took = workflow(args, "experiment=demo", f"sweep={SWEEP}")
    return {"variants": 24, **took, "ratio": round(took["wall_s"] / (took["own_s"] / args.cores), 2)}


def search(args: argparse.Namespace) -> dict[str, Any]:
    """The winner of a search, and the best that others have within its budget."""
    results = args.model.resolve().parents[1]
    took = workflow(args, "experiment=search")
    found = read_json(max((results / "search" / args.model.name).rglob("result.json"), key=lambda path: path.stat().st_mtime))
    built = [trials.read(path) for path in (results / "variants" / args.model.name).rglob("metrics.json")]
    grid = [one for one in built if one.npu and one.status != "failed" and not one.scheme.startswith(SEARCHED)]
    fitting = [one for one in grid if not budget.exceeded(one.figures, found["budget"])]
    best = min(fitting, key=lambda one: one.figures[found["objective"]], default=None)
    told = {key: found[key] for key in ("objective", "budget", "winner", "best_uniform", "vela_compilations", "compared_in_pytorch")}
    return {**took, **told, "grid": len(grid), "best_of_grid": best and {"variant": best.variant, "figures": best.figures}}


def words(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of the schemes."""
    window = composed(f"window={args.window}", f"target={args.target}", f"calib={args.calib}").window  # an unknown choice is told at once
    corpus = larger_test(args.work, args.corpus, args.test_minutes) if args.test_minutes else args.corpus
    out = args.work / f"float-{corpus.name}.json"
    evaluated(out, "float", args.model, corpus, args.window)
    float_rows = utterance_table.read(utterance_table.beside(out))
    result: dict[str, Any] = {
        "utterances": len(float_rows),
        "wer_float": round(metrics.accuracy(float_rows, 0, 0)["wer"], 5),
        "schemes": [],
    }
    for scheme in args.schemes:
        line = of_scheme(args, corpus, scheme, float_rows)
        result["schemes"].append(line)
        print(json.dumps(line), file=sys.stderr, flush=True)
    return result | {"program_x_realtime": program_speed(args.work / "programs" / args.schemes[0], corpus, window.overlap_s, 100)}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "words": words,
    "calibration": calibration,
    "sweep": sweep,
    "search": search,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for everything that is made")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--model", type=Path, default="results/train/conformer_xs-synth", help="model directory of the train step")
    parser.add_argument("--corpus", type=Path, default="results/corpus/synth", help="directory of the corpus step")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, help="files of conf/quant, +KEY=VALUE")
    for group, choice in (("calib", "hist64"), ("window", "5s"), ("target", "u85_256")):
        parser.add_argument(f"--{group}", default=choice, help=f"a file of conf/{group}")
    parser.add_argument("--test-minutes", type=float, default=60, help="of a larger synthetic test split; 0: that of the corpus")
    parser.add_argument("--calibration-utterances", type=int, default=256)
    parser.add_argument("--untrained", metavar="NAME", default="conformer_s", help="for calibration: a file of conf/model")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="of sweep and search")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}")
    args.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"model": str(args.model)}
    for name in args.parts or PARTS:
        result[name] = PARTS[name](args)
        print(json.dumps({name: result[name]}), file=sys.stderr, flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
