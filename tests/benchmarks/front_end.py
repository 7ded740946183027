"""The front end as a program: one program from audio to logits beside front end and network apart, and each beside features.py.

    python tests/benchmarks/front_end.py results/export/MODEL/WINDOW

What `snakemake export` left there is run. Milliseconds of a window on one thread, the fastest of runs that take turns; JSON last.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from executorch.runtime import Runtime

from earshot.export import golden
from earshot.files import read_json
from earshot.lower import xnnpack
from earshot.model import checkpoint
from earshot.quantize import program


def taking_turns(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """The fewest milliseconds of each call."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs + 3):  # three to warm up
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(1000 * (time.perf_counter() - started))
    return {name: round(min(of[3:]), 3) for name, of in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="an export with safetensors, torch_export, front_end and from_audio")
    parser.add_argument("--quick", action="store_true", help="10 runs in place of 100")
    args = parser.parse_args()
    report = read_json(args.export / "export.json")
    with tempfile.TemporaryDirectory() as temporary:
        network = Path(temporary, "network.pte")
        network.write_bytes(xnnpack.lower(program.read(args.export / "network.pt2")).pte)
        torch.set_num_threads(1)
        xnnpack.set_threads(1)
        paths = {"front_end": args.export / "front_end.pte", "network": network, "from_audio": args.export / "from_audio.pte"}
        loaded = {name: Runtime.get().load_program(path) for name, path in paths.items()}
        methods = {name: one.load_method("forward") for name, one in loaded.items()}
        front_end = checkpoint.load(args.export).front_end
        audio = golden.window(front_end, report["features"][1], None)
        features = front_end(audio[0])[None]
        times = taking_turns(
            {
                "features_py": lambda: front_end(audio[0]),
                "front_end": lambda: methods["front_end"].execute([audio]),
                "network": lambda: methods["network"].execute([features]),
                "front_end_then_network": lambda: methods["network"].execute([methods["front_end"].execute([audio])[0]]),
                "features_py_then_network": lambda: methods["network"].execute([front_end(audio[0])[None]]),
                "from_audio": lambda: methods["from_audio"].execute([audio]),
            },
            10 if args.quick else 100,
        )
    differences = {name: one["largest_difference"] for name, one in report["formats"].items()}
    print(json.dumps({"window_s": report["window_s"], "ms": times, "largest_difference": differences}))


if __name__ == "__main__":
    main()
