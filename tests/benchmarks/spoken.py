"""The speech that benchmarks of features and of loading read."""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import islice
from pathlib import Path

from lhotse.cut import Cut

from earshot.corpus.manifest import load_cuts

QUICK_UTTERANCES, QUICK_MINUTES = 40, 2


def arguments(description: str, utterances: int) -> argparse.Namespace:
    """The command line of such a benchmark; `utterances` is how many it reads unless told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=Path, help="a manifest of the corpus step; default: a synthetic corpus is made")
    parser.add_argument("--utterances", type=int, default=utterances)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_UTTERANCES} utterances, one repeat")
    return parser.parse_args()


def cuts(args: argparse.Namespace, folder: Path, minutes: float) -> list[Cut]:
    """The first utterances of the manifest that was given, or of a synthetic corpus of that many minutes, which is made in `folder`."""
    manifest = args.cuts
    if manifest is None:
        spoken = QUICK_MINUTES if args.quick else minutes
        subprocess.run([sys.executable, "-m", "earshot.stages.corpus", f"corpus.train_minutes={spoken}", f"out={folder}"], check=True)
        manifest = folder / "train.cuts.jsonl.gz"
    return list(islice(load_cuts(manifest), QUICK_UTTERANCES if args.quick else args.utterances))
