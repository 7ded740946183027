"""What grows with the number of variants, runs and utterances: the DAG of 500 variants, 1,000 runs in MLflow, manifests of 960 hours.

    dag        `snakemake -n` for 500 variants of which nothing is there, and `snakemake` where all is. The outputs of the latter are empty
               files of the right names, which `snakemake --touch` records as made: Snakemake looks at what it knows of them, not into them.
    mlflow     Figures of 1,000 variants of ten models, written as the workflow leaves them, are logged into SQLite, logged again (nothing
               has changed), listed by word error rate, and compared as one table of choices and figures.
    manifests  281,241 made-up utterances, as many as LibriSpeech has: what a training does with them before it reads audio, with the values
               of train=thousand_hours. `survey` parses each, counts its pieces and leaves out what cannot be learned; then the sampler
               gives the batches of an epoch, at three speeds.

Each is told in seconds of the clock and of the processor: where a machine does other work too, the latter are what it costs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

# What a part needs of earshot is imported there: some of it takes longer than another part.
ROOT = Path(__file__).parents[2]
CONF_DIR = ROOT / "conf"
# Two schemes, five calibrations, five windows, ten targets of two families.
SWEEP = (
    "quant=int8_pc,int8_pt calib=hist64,minmax64,average64,percentile64,speakers64 window=2s,3s,4s,5s,8s "
    "target=u85_128,u85_256,u85_512,u85_1024,u85_2048,u85_256_512k,u85_256_1m,u85_256_2m,u55_128,u55_256"
)
QUICK_SWEEP = "quant=int8_pc,int8_pt window=4s,5s target=u85_256,u85_512"
UTTERANCES, RUNS = 281_241, 1000
LETTERS, FREQUENCIES = "ETAOINSHRDLUCMWFGYPBVK", (127, 91, 82, 75, 70, 67, 63, 61, 60, 43, 40, 28, 28, 24, 24, 22, 20, 20, 19, 15, 10, 8)


@contextmanager
def timed(result: dict, name: str) -> Iterator[None]:
    """Puts the seconds of the block into `result`, those of processes that it waited for included."""

    def cpu_s() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in used)

    wall, cpu = time.perf_counter(), cpu_s()
    yield
    result[name] = {"wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(cpu_s() - cpu, 1)}


def snakemake(folder: Path, sweep: str, *words: str) -> str:
    """What Snakemake says, on both streams."""
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), "--cores", "1", "--config", f"sweep={sweep}", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout)
    return done.stdout


def dag(folder: Path, quick: bool) -> dict:
    sweep, result = QUICK_SWEEP if quick else SWEEP, {}
    with timed(result, "build"):
        said = snakemake(folder, sweep, "-n", "--quiet", "rules")
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE)}
    for line in snakemake(folder, sweep, "--summary", "--quiet").splitlines():
        if line.startswith("results/"):
            output = folder / line.split("\t")[0]
            (output.parent if output.suffix else output).mkdir(parents=True, exist_ok=True)
            if output.suffix:
                output.touch()
    with timed(result, "touch"):
        snakemake(folder, sweep, "--touch", "--quiet", "all")
    with timed(result, "no_op"):
        said = snakemake(folder, sweep)
    if "Nothing to be done" not in said:
        raise RuntimeError(said)
    return {"sweep": sweep, "variants": jobs["lower"], "jobs": jobs["total"], **result}


def mlflow(folder: Path, quick: bool) -> dict:
    import mlflow as library
    from variants_on_disk import write_model, write_variant

    from earshot import track
    from earshot.config import Tracking
    from earshot.mlflow_store import Store

    count, result, rng = (40 if quick else RUNS), {}, random.Random(0)
    models = [f"model{number}" for number in range(10)]
    for model in models:
        write_model(folder, epochs=40, model=model)
    for number in range(count):
        scheme, target = f"int8_pc-hist{number // 20}-5s", ("host", "u85_256")[number // 10 % 2]
        write_variant(folder, scheme, target, 0.09 + 0.03 * rng.random(), model=models[number % 10])
    tracking, paths = Tracking(uri=f"sqlite:///{folder}/mlflow.db", models=False), track.find_variants(folder)
    with timed(result, "log"):
        logged = track.log_results(tracking, "scale", folder, paths)
    with timed(result, "log_again"):
        again = track.log_results(tracking, "scale", folder, paths)
    if {run["action"] for run in again["variants"].values()} != {"unchanged"}:
        raise RuntimeError("runs were logged twice")
    store = Store(tracking.uri, "scale", tracking.timeout_s)
    with timed(result, "list"):
        page = store.client.search_runs(
            [store.experiment_id], "tags.`earshot.kind` = 'variant'", order_by=["metrics.wer ASC"], max_results=count
        )
    library.set_tracking_uri(tracking.uri)
    with timed(result, "compare"):
        table = library.search_runs([store.experiment_id], "tags.`earshot.kind` = 'variant'", max_results=count)
        table.groupby(["params.target", "tags.earshot.model"])[["metrics.wer", "metrics.pte_kib"]].mean()
    return {"runs": len(page), "models": len(logged["models"]), "compared": len(table), **result}


def utterances(count: int) -> Iterator:
    """Made-up ones, in the order of speakers and chapters, of 12.3 s on average; every thousandth has more words than fit its time."""
    from earshot.config import SAMPLE_RATE_HZ
    from earshot.corpus.manifest import Item

    rng = random.Random(0)
    words = ["".join(rng.choices(LETTERS, FREQUENCIES, k=rng.choice((1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 7, 9)))) for _ in range(20_000)]
    for number in range(count):
        speaker, chapter = number // 120, number // 30
        name = f"{speaker}-{chapter}-{number % 30:04d}"
        seconds = rng.triangular(2.5, 17.5, 16.9)
        said = int(2.7 * seconds * (20 if number % 1000 == 999 else 1)) or 1
        text = " ".join(words[int(len(words) * rng.random() ** 3)] for _ in range(said))
        path = f"/data/LibriSpeech/train/{speaker}/{chapter}/{name}.flac"
        yield Item(name, path, str(speaker), text, int(seconds * SAMPLE_RATE_HZ), f"{number:032x}")


def prepared(folder: Path, count: int) -> dict:
    """Write the manifest, and a tokenizer of its texts."""
    from earshot import tokenizer
    from earshot.config import Tokenizer
    from earshot.corpus.manifest import write_cuts

    result: dict = {}
    with timed(result, "write"), write_cuts(folder / "train.cuts.jsonl.gz") as writer:
        for item in utterances(count):
            writer.write(item)
    config = Tokenizer(**OmegaConf.load(CONF_DIR / "tokenizer" / "unigram128.yaml"))
    tokenizer.train((item.text for item in utterances(3000)), config, folder / "tokenizer.model")
    return result


def read(folder: Path) -> dict:
    """What a training does before it reads audio."""
    from earshot.config import Features, Model, Train
    from earshot.data import Utterances
    from earshot.features import FrontEnd
    from earshot.model import Conformer
    from earshot.tokenizer import Tokenizer
    from earshot.train import CtcTraining, Memory, survey

    front_end, pieces = FrontEnd(Features(stored=False), [0.0] * 80, [1.0] * 80), Tokenizer(folder / "tokenizer.model")
    config = Train(**OmegaConf.load(CONF_DIR / "train" / "thousand_hours.yaml"))
    model = Conformer(Model(**OmegaConf.load(CONF_DIR / "model" / "conformer_s.yaml")), front_end.n_mels, len(pieces.pieces))
    result, seen, given = {}, 0, 0
    with timed(result, "parse_and_filter"):
        speech = survey({"train": folder / "train.cuts.jsonl.gz"}, front_end, pieces, model, config)
    task = CtcTraining(model, config, speech, Utterances(front_end, pieces), Memory(folder / "memory.json", front_end), {})
    with timed(result, "bucket"):
        for cuts in task.train_dataloader().sampler:
            seen, given = seen + len(cuts), given + 1
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    hours = speech.train_s / 3600
    return {
        **{"utterances": seen, "left_out": len(speech.left_out), "hours": round(hours, 1), "batches": given},
        **{**result, "peak_rss_mib": int(peak[1]) // 1024},
    }


def manifests(folder: Path, quick: bool) -> dict:
    """Written and read by a process each, so that the memory of one is not counted for the other."""
    count, context = (5000 if quick else UTTERANCES), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as one, ProcessPoolExecutor(1, context) as other:
        written = one.submit(prepared, folder, count).result()
        return {**written, **other.submit(read, folder).result()}


PARTS: dict[str, Callable[[Path, bool], dict]] = {"dag": dag, "mlflow": mlflow, "manifests": manifests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="8 variants, 40 runs, 5000 utterances")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"{', '.join(unknown)}: no part; choose of {', '.join(PARTS)}")
    results = {}
    for name in args.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = PARTS[name](Path(folder), args.quick)
        print(f"{name}: {results[name]}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
