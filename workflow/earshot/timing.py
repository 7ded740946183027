"""Speed and memory of a host program in the ExecuTorch runtime."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from earshot import windows
from earshot.config import SAMPLE_RATE_HZ, Window
from earshot.corpus.manifest import read_audio
from earshot.lower.xnnpack import HostProgram, set_threads
from earshot.memory import peak_rss_mib

WARM_UP_WINDOWS = 3


def host_times(variant_dir: str | Path, window: Window, files: Iterable[str]) -> dict:
    """Times of a host program over the utterances in some audio files, each with one thread and with all that this process may use.

    rtf_*: seconds of computing per second of speech, over all windows that the utterances need, padding to the window included; the encoder
    alone, or with the front end. latency_ms_*: one window through the encoder, one thread. utterance_ms_*: one utterance, front end
    included, one thread. peak_rss_mib: of the whole Python process with one thread.
    """
    audio = [read_audio(file) for file in files]
    threads = len(os.sched_getaffinity(0))
    before = torch.get_num_threads()
    try:
        single = _measure(variant_dir, window, audio, 1)
        rss = peak_rss_mib()
        every = _measure(variant_dir, window, audio, threads)
    finally:
        torch.set_num_threads(before)
    if not len(single.window_s):  # utterances too short for a single output
        return {}
    speech_s = sum(len(samples) for samples in audio) / SAMPLE_RATE_HZ
    latency_ms, utterance_ms = 1000 * single.window_s, 1000 * single.utterance_s
    return {
        "rtf_1_thread": single.window_s.sum() / speech_s,
        "rtf_all_threads": every.window_s.sum() / speech_s,
        "rtf_1_thread_with_front_end": single.utterance_s.sum() / speech_s,
        "latency_ms_p50": float(np.percentile(latency_ms, 50)),
        "latency_ms_p95": float(np.percentile(latency_ms, 95)),
        "utterance_ms_p50": float(np.percentile(utterance_ms, 50)),
        "utterance_ms_p95": float(np.percentile(utterance_ms, 95)),
        "threads": threads,
        "timed_utterances": len(audio),
        "peak_rss_mib": rss,
    }


class _Times:
    """Seconds of each window (encoder alone) and of each utterance (front end included)."""

    def __init__(self, window_s: list[float], utterance_s: list[float]) -> None:
        self.window_s, self.utterance_s = np.array(window_s), np.array(utterance_s)


def _measure(variant_dir: str | Path, window: Window, audio: list[np.ndarray], threads: int) -> _Times:
    set_threads(threads)
    torch.set_num_threads(threads)
    program = HostProgram(variant_dir)
    layout = windows.layout(program.window_frames, window.overlap_s, program.front_end, program.grid)
    silence = program.front_end.silence()
    program.front_end(audio[0])
    for _ in range(WARM_UP_WINDOWS):
        program(silence.expand(program.window_frames, -1).contiguous())
    window_s, utterance_s = [], []

    def timed(features: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        logits = program(features)
        window_s.append(time.perf_counter() - started)
        return logits

    for samples in audio:
        started = time.perf_counter()
        windows.run(timed, program.front_end(samples), layout, silence)
        utterance_s.append(time.perf_counter() - started)
    return _Times(window_s, utterance_s)
