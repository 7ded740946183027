"""What windows cost a trained model: WER, and on an NPU cycles per second of speech, SRAM and latency, for several lengths.

    python tests/benchmarks/windows.py WORK --model results/train/conformer_xs-synth --corpus results/corpus/synth --lower 2s 5s 10s

A window is a file of conf/window, changed as in the names of variants: 2s+left_context_s=2 is 2s with a cache of two seconds. WORK keeps
everything: what is evaluated or lowered there is not done again. Utterances of the split are joined to at least --join-s seconds, since a
window that is longer than what is spoken costs no words. Cycles, SRAM and latency are Vela's estimates of one window; a second of new
speech is one of a window without its overlap, which the next window computes again. WORK then holds windows.csv and windows.svg.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import soundfile
from matplotlib.figure import Figure
from steps import composed, lowered, stage, write_table
from tqdm import tqdm

from earshot import windows
from earshot.config import SAMPLE_RATE_HZ, Window
from earshot.corpus.manifest import Item, read_audio, write_cuts
from earshot.evaluate import utterances
from earshot.features import FrontEnd
from earshot.files import read_json
from earshot.model import checkpoint
from earshot.model.subsampling import OutputGrid
from earshot.plot_style import COLOURS, STYLE, svg

PANELS = (("wer", 0.01, "word error rate, % (line: 95% interval)"), ("npu_cycles_per_s", 1e6, "cycles per second of new speech, millions"))


def words_of(name: str) -> list[str]:
    """`5s+overlap_s=1` as overrides: window=5s window.overlap_s=1."""
    choice, *changes = name.split("+")
    return [f"window={choice}", *(f"window.{change}" for change in changes)]


def joined(work: Path, corpus: Path, split: str, at_least_s: float) -> Path:
    """A corpus directory with utterances of a split joined, one behind the other, until each lasts at least `at_least_s`."""
    folder = work / f"corpus-{at_least_s:g}s"
    manifest = folder / f"{split}.cuts.jsonl.gz"
    if manifest.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with write_cuts(manifest) as writer:
        audio: list[np.ndarray] = []
        texts: list[str] = []
        for number, item in enumerate(utterances(corpus / manifest.name)):
            audio.append(read_audio(item.audio))
            texts.append(item.reference)
            samples = np.concatenate(audio)
            if len(samples) >= at_least_s * SAMPLE_RATE_HZ:
                path = (folder / f"{split}-{number}.flac").resolve()
                soundfile.write(path, samples, SAMPLE_RATE_HZ)
                writer.write(Item(path.stem, str(path), "joined", " ".join(texts), len(samples), ""))
                audio, texts = [], []
    return folder


def evaluated(args: argparse.Namespace, corpus: Path, name: str) -> dict[str, Any]:
    """The evaluation of the float model over windows, and over whole utterances."""
    out = args.work / "evaluations" / f"{name}.json"
    if not out.exists():
        words = "kind=float", *words_of(name), f"split={args.split}"
        stage("evaluate", *words, f"subject={args.model}", f"corpus_dir={corpus}", f"out={out}")
    return read_json(out)["accuracy"]


def new_speech_s(window: Window, front_end: FrontEnd, grid: OutputGrid) -> float:
    """Seconds from one window to the next."""
    layout = windows.layout(windows.frames_of(window, front_end), window.overlap_s, front_end, grid)
    return (layout.outputs - layout.overlap) * grid.factor * front_end.hop_length / SAMPLE_RATE_HZ


def row(name: str, window: Window, new_s: float, accuracy: dict[str, Any], npu: dict[str, Any]) -> dict[str, Any]:
    """A line of the table; `npu` is that of lower.json, empty for a window that is not lowered."""
    windowed = accuracy["float"]
    low, high = windowed.get("wer_ci95", (None, None))
    return {
        "window": name,
        "seconds": window.seconds,
        "overlap_s": window.overlap_s,
        "left_context_s": window.left_context_s,
        "new_speech_s": round(new_s, 3),
        "wer": windowed["wer"],
        "wer_ci95_low": low,
        "wer_ci95_high": high,
        "wer_whole": accuracy["float_full"]["wer"],
        "words": windowed["words"],
        "npu_cycles": npu.get("cycles"),
        "npu_cycles_per_s": round(npu["cycles"] / new_s) if npu else None,
        "npu_latency_ms": round(npu["latency_ms"], 3) if npu else None,
        "npu_sram_kib": npu.get("sram_kib"),
        "npu_flash_kib": npu.get("flash_kib"),
    }


def plot(table: list[dict[str, Any]]) -> str:
    """WER and cycles over the length of windows, a line for each length of cached left context, as SVG."""
    panels = [panel for panel in PANELS if any(one[panel[0]] is not None for one in table)]
    contexts = sorted({one["left_context_s"] for one in table})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.1 * len(panels), 3.4), layout="constrained")
        for axes, (key, unit, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for context, colour in zip(contexts, COLOURS, strict=False):
                of_context = sorted(
                    (one for one in table if one["left_context_s"] == context and one[key] is not None), key=lambda one: one["seconds"]
                )
                seconds = [one["seconds"] for one in of_context]
                name = f"cache of {context:g} s" if context else "no cache"
                axes.plot(seconds, [one[key] / unit for one in of_context], "o-", color=colour, markeredgecolor="white", label=name)
                for one in of_context if key == "wer" else ():
                    if one["wer_ci95_low"] is not None:
                        axes.plot([one["seconds"]] * 2, [one["wer_ci95_low"] / unit, one["wer_ci95_high"] / unit], color=colour, alpha=0.4)
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
            axes.grid(True)
            axes.set_axisbelow(True)
            axes.set_xlabel("window, s")
            axes.set_ylabel(label)
        figure.axes[0].legend()
        return svg(figure, "windows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for everything that is made")
    parser.add_argument("--model", type=Path, required=True, help="model directory of the train step")
    parser.add_argument("--corpus", type=Path, required=True, help="directory of the corpus step")
    parser.add_argument(
        "--windows", nargs="*", default=[f"{seconds}s" for seconds in (2, 3, 4, 5, 8, 10, 15, 20)], help="those whose WER is measured"
    )
    parser.add_argument("--lower", nargs="*", default=[], metavar="WINDOW", help="those that are lowered too; 'all': every one")
    parser.add_argument("--split", default="test")
    parser.add_argument("--join-s", type=float, default=20.0, help="0: utterances as they are")
    for group, choice in (("quant", "int8_pc"), ("calib", "minmax64"), ("target", "u85_256")):
        parser.add_argument(f"--{group}", default=choice, help=f"a file of conf/{group}")
    parser.add_argument("--calib-utterances", type=int, default=16, help="cycles do not depend on them")
    args = parser.parse_args()
    names = list(dict.fromkeys([*args.windows, *(name for name in args.lower if name != "all")]))
    recognizer = checkpoint.load(args.model)
    spoken = joined(args.work, args.corpus, args.split, args.join_s) if args.join_s else args.corpus
    table = []
    for name in tqdm(names, desc="windows", unit="window", disable=None):
        window = composed(*words_of(name)).window
        accuracy, npu = evaluated(args, spoken, name), {}
        if name in args.lower or "all" in args.lower:
            quantization = f"quant={args.quant}", f"calib={args.calib}", f"calib.utterances={args.calib_utterances}"
            found = lowered(args.work / "programs" / name, args.target, args.model, args.corpus, *quantization, *words_of(name))
            if found["status"] != "ok":
                raise SystemExit(f"{name}: {found['reason']}")
            npu = found["npu"]
        table.append(row(name, window, new_speech_s(window, recognizer.front_end, recognizer.model.grid), accuracy, npu))
        write_table(args.work, "windows", table, plot(table))  # after each: lowering takes long
    print(json.dumps({"windows": table, "csv": str(args.work / "windows.csv"), "plot": str(args.work / "windows.svg")}))


if __name__ == "__main__":
    main()
