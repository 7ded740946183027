# ruff: noqa: E501 (the lines of the README are as long as its tables ask for)
"""The device bundle: what a firmware needs beside model.pte, and a README that says what it must do."""

from __future__ import annotations

import csv
from pathlib import Path

from earshot.config import SAMPLE_RATE_HZ, Target
from earshot.files import atomic
from earshot.lower import device, vela_report
from earshot.lower.float_tail import TAIL
from earshot.lower.tosa import IntegerGraph
from earshot.lower.tosa_with_cache import IntegerGraphWithCache, open_graph

MEMORY, README = "memory.csv", "README.md"
FILES = (README, MEMORY, *device.FILES)


def write(folder: Path, target: Target, npu: dict, window_s: float) -> None:
    """Add the memory table, the front end in C and README.md to a variant directory that holds the compiled files, its graph and the graph's golden vectors."""
    graph = open_graph(folder)
    with atomic(folder / MEMORY) as temporary, open(temporary, "w", newline="") as stream:
        table = vela_report.memory(folder / vela_report.SUMMARY)
        writer = csv.DictWriter(stream, ["memory", "kib", "holds"])
        writer.writeheader()
        writer.writerows(table)
    device.write(folder, graph.front_end, graph.boundary["input"])
    with atomic(folder / README) as temporary:
        temporary.write_text(readme(graph, target, npu, window_s, table))


def readme(graph: IntegerGraph, target: Target, npu: dict, window_s: float, memory: list[dict]) -> str:
    """What the firmware must do, with the numbers of this variant."""
    front, config = graph.front_end, graph.front_end.config
    source, sink = graph.boundary["input"], graph.boundary["output"]
    _, frames, bins = source["shape"]
    outputs, pieces = graph.grid.output_frames(frames), len(graph.pieces)
    output_ms = 1000 * graph.grid.factor * front.hop_length / SAMPLE_RATE_HZ
    valid_outputs = "n"
    for _ in range(graph.grid.stages):
        valid_outputs = f"({valid_outputs} - 1) / 2"
    logits = f"logit = (q - ({sink['zero_point']})) * {sink['scale']!r}. The scale is positive and common to all: greedy decoding can compare the integers as they are."
    if tail := graph.boundary.get("float_tail"):
        logits = tail_text(sink, tail, [1, outputs, pieces])
    with_cache, cache_kib = "", ""
    if isinstance(graph, IntegerGraphWithCache):
        with_cache, cache_kib = cache_text(graph, output_ms), f"; twice {4 * graph.first_cache.numel() / 1024:.1f} KiB for the cache"
    rows = "\n".join(f"| {row['memory']} | {row['kib']:.1f} | {row['holds']} |" for row in memory)
    return f"""# Speech recognition on {target.accelerator}

Made by earshot for `{target.accelerator}`, system configuration `{target.system_config}`, memory mode `{target.memory_mode}`. Vela's estimate for a
window of {window_s:g} s: {npu["cycles"]:,} cycles, {npu["latency_ms"]:.2f} ms at {npu["clock_hz"] / 1e6:g} MHz. An estimate is no measurement: measure on the device.

| file | content |
|---|---|
| `model.pte` | the program for the ExecuTorch runtime with the EthosUBackend delegate |
| `tokenizer.pieces` | the text of each output, one a line, line 0 is the blank; `▁` marks the start of a word |
| `front_end.json` | every constant of the front end: window, mel filters, mean and standard deviation |
| `front_end_constants.h`, `front_end_tables.h` | the same as C: lengths, window, mel filters, mean and standard deviation, scale and zero point of the input |
| `front_end.c`, `front_end.h`, `check_front_end.c` | steps 2 to 4 in portable C99, and a program that compares them with the golden vectors |
| `golden_audio`, `golden_features`, `golden_input`, `golden_output` | a signal, its features, the integers that go in, the integers that must come out; `.npy`, and `.bin` (little endian, row by row) |
| `memory.csv` | the memory that the program uses |
| `graph.tosa`, `vela_summary.csv`, `vela_per_layer.csv` | what was compiled, and what the compiler says of it |
| `cycles.svg`, `cycles_by_module.csv`, `cycles_by_operator.csv`, `cycles_by_layer.csv` | where the cycles go, beside what the MACs and the weights need at least |
| `sram.svg` | the SRAM in use while each layer runs, and where the peak comes from |

## What the firmware must do

1. **Audio.** {SAMPLE_RATE_HZ} Hz, mono, samples as numbers in -1 to 1 (16-bit: divide by 32768). No dither, no pre-emphasis, no removal of the mean.
2. **Front end.** Every {config.hop_length} samples, an FFT of {config.n_fft} samples; the Hann window of {config.win_length} samples lies in their middle, the rest is multiplied by 0.
   Squared magnitude, {config.n_mels} mel filters ({config.f_min_hz:g} to {config.f_max_hz:g} Hz), natural logarithm of {front.floored_energy} (`log_floor` {config.log_floor:g}), minus `mean`, divided by `std`, each of its bin:
   x[frame][bin]. No padding: the first frame begins with the first sample.
3. **Window.** {frames} frames. Shorter speech is padded at its end with the features of silence: (ln({config.log_floor:g}) - mean) / std of each bin.
4. **Quantize.** q = round(x / {source["scale"]!r}) + {source["zero_point"]}, clamped to {source["min"]} ... {source["max"]}, {source["dtype"]}; round half to even.
   The `quantize_per_tensor` kernel in `model.pte` does this where the runtime has the quantized kernels linked: then give it x as float32.
5. **Run.** Input [1, {frames}, {bins}] {source["dtype"]}, frame after frame, in each frame bin after bin, no transposition. Output {sink["shape"]} {sink["dtype"]}, an output every {output_ms:g} ms.
   Output k looks at the frames from {graph.grid.factor} k on; of padded speech of n frames only the first {valid_outputs} outputs count (integer division).
6. **Logits.** {logits}
7. **Decode.** Greedy CTC: of each output the index of the largest value; drop repetitions of the index before; drop index 0, the blank; join the pieces
   of `tokenizer.pieces`, each `▁` as a space.

Check steps 1 to 4 with `golden_audio`, `golden_features` (1e-3 is rounding) and `golden_input` (an integer may differ by one where the logarithm rounds
differently), step 5 with `golden_input` and `golden_output` (must be equal). For the C sources here, and for what you put in place of them:

    gcc -std=c99 -O2 check_front_end.c front_end.c -lm -o check_front_end
    ./check_front_end golden_audio.bin golden_features.bin golden_input.bin
{with_cache}
## Memory

| memory | KiB | holds |
|---|---|---|
{rows}

The runtime needs besides: `model.pte` itself ({"from flash" if npu["flash_kib"] else "from DRAM"}, it contains the weights counted above), its method allocator, and the float input and output
({4 * frames * bins / 1024:.1f} and {4 * outputs * pieces / 1024:.1f} KiB{cache_kib}) where quantization is left to the program.
"""


def tail_text(sink: dict, tail: dict, shape: list[int]) -> str:
    """What the CPU computes of the graph's integers where the last layers are left in floats."""
    return f"""The CPU computes them: x = (q - ({sink["zero_point"]})) * {sink["scale"]!r} in float32, and of it the last layers in floats, {shape}.
   `model.pte` does both, with ExecuTorch's portable kernels linked: {tail["macs"]:,} multiplications in floats for a window, {tail["weights_kib"]:.1f} KiB of weights.
   `{TAIL}` holds these layers for PyTorch."""


def cache_text(graph: IntegerGraphWithCache, output_ms: float) -> str:
    """What the firmware must do with the cache of left context."""
    source, sink, layout = graph.boundary["cache_input"], graph.boundary["cache_output"], graph.layout
    same = (source["scale"], source["zero_point"]) == (sink["scale"], sink["zero_point"])
    between = "its integers as they are" if same else f"(q - ({sink['zero_point']})) * {sink['scale']!r}, quantized as below"
    return f"""
## The cache

The program has a second input and a second output {source["shape"]} {source["dtype"]}: what its layers know of the {layout.left * output_ms / 1000:g} s before the window.
A window begins {layout.hop} outputs ({layout.hop * layout.grid.factor} frames) after the one before; of each the first {layout.hop} outputs count, of the last of an utterance all; the other
{layout.overlap} are its look-ahead, which the next window gives again.

- The first window of an utterance is given `golden_cache_input`, which is what silence leaves (`first_cache.npy` as floats).
- Every other is given the second output of the one before: {between}.
- Where the program quantizes: q = round(c / {source["scale"]!r}) + {source["zero_point"]}, clamped to {source["min"]} ... {source["max"]}; its second output is (q - ({sink["zero_point"]})) * {sink["scale"]!r}.
- `golden_cache_input` and `golden_cache_output` belong to `golden_input` and `golden_output`.
"""
