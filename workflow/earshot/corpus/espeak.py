"""The espeak-ng speech synthesizer through ctypes; library and data come from the package espeakng-loader.

Function and parameter names are those of espeak-ng's speak_lib.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from earshot.errors import DataError

AUDIO_OUTPUT_SYNCHRONOUS = 2  # espeak_Synth returns when all audio went through the callback
CHARS_UTF8 = 1
DONT_EXIT = 1 << 15  # espeakINITIALIZE_DONT_EXIT: an error is returned
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
OK = 0
REMEDY = "install the locked requirements again (pip install espeakng-loader==0.2.4)"

_HEAD = struct.Struct("<II")  # of an answer: sample rate, size in bytes
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Utterance:
    """What to say, and how: `rate_wpm` words a minute; `pitch` and `pitch_range` 0 to 100, where 50 is the voice's own."""

    text: str
    voice: str  # an accent, or an accent with a variant: "en-us", "en-us+f3"
    rate_wpm: int
    pitch: int
    pitch_range: int
    seed: int  # of the synthesizer's own randomness (breath noise)


@cache
def _loader() -> tuple[Path, ctypes.CDLL]:
    try:
        import espeakng_loader

        return Path(espeakng_loader.get_data_path()), ctypes.CDLL(espeakng_loader.get_library_path())
    except (ImportError, RuntimeError, OSError) as error:
        raise DataError(f"corpus=synth needs espeak-ng: {error}; {REMEDY}") from error


def variants() -> list[str]:
    """Names of the voice variants, sorted.

    Raises:
        DataError: espeakng-loader, its library or its data is missing.
    """
    folder = _loader()[0] / "voices" / "!v"
    names = sorted(path.name for path in folder.glob("*") if path.is_file())
    if not names:
        raise DataError(f"{folder}: no voice variants of espeak-ng there; {REMEDY}")
    return names


def _initialized() -> tuple[ctypes.CDLL, int]:
    """The library, ready to speak, and its sample rate in Hz; changes the working directory."""
    data, library = _loader()
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    library.espeak_Synth.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
        *(ctypes.c_void_p, ctypes.c_void_p),
    ]
    os.chdir(data.parent)  # espeak-ng cuts paths of more than 160 bytes, so it is given a short one
    sample_rate_hz = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, b".", DONT_EXIT)
    if sample_rate_hz <= 0:
        raise DataError(f"{data}: espeak-ng cannot read its data; {REMEDY}")
    return library, sample_rate_hz


def _synthesize(library: ctypes.CDLL, utterance: Utterance) -> bytes:
    chunks = []

    def receive(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    _, _, variant = utterance.voice.partition("+")
    # espeak-ng takes an unknown variant without a word and speaks with the plain accent.
    if (variant and variant not in variants()) or library.espeak_SetVoiceByName(utterance.voice.encode()) != OK:
        raise DataError(f"espeak-ng has no voice {utterance.voice!r}; {REMEDY}")
    for parameter, value in ((RATE, utterance.rate_wpm), (PITCH, utterance.pitch), (RANGE, utterance.pitch_range)):
        library.espeak_SetParameter(parameter, value, 0)
    library.espeak_ng_SetRandSeed(utterance.seed)
    text = utterance.text.encode() + b"\0"
    if library.espeak_Synth(text, len(text), 0, 1, 0, CHARS_UTF8, None, None) != OK or not chunks:
        raise DataError(f"espeak-ng could not speak {utterance.text!r} with voice {utterance.voice!r}; {REMEDY}")
    return b"".join(chunks)


class Synthesizer:
    """Speaks utterances, each in a process of its own.

    espeak-ng keeps state from one utterance to the next that no call resets. So a small server process (this module, run as
    a script: small, since forking costs by the memory in use) loads the library once and forks a child per utterance from
    that fresh state: what is heard depends on the utterance alone.
    """

    def __init__(self) -> None:
        _loader()  # what is missing is told here, before a server starts
        self._server = subprocess.Popen([sys.executable, "-m", "earshot.corpus.espeak"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._server.stdin and self._server.stdout  # pipes, as was asked for
        self._ask, self._answer = self._server.stdin, self._server.stdout

    def speak(self, utterance: Utterance) -> tuple[bytes, int]:
        """Speech as 16-bit samples in the byte order of this machine, and the sample rate in Hz.

        Raises:
            DataError: espeak-ng has no such voice, or fails.
        """
        with contextlib.suppress(BrokenPipeError):
            self._ask.write(json.dumps(asdict(utterance)).encode() + b"\n")
            self._ask.flush()
        head = self._answer.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise DataError(f"espeak-ng ended while it spoke {utterance.text!r} with voice {utterance.voice!r}; {REMEDY}")
        sample_rate_hz, size = _HEAD.unpack(head)
        content = self._answer.read(size)
        if sample_rate_hz == 0:
            raise DataError(content.decode())
        return content, sample_rate_hz

    def close(self) -> None:
        """End the server."""
        self._ask.close()
        self._answer.close()
        self._server.wait()


def _answer(output: BinaryIO, content: bytes, sample_rate_hz: int) -> None:
    output.write(_HEAD.pack(sample_rate_hz, len(content)) + content)
    output.flush()


def _serve() -> None:
    """Answer each line of standard input, an Utterance in JSON, by head and samples on standard output; rate 0 heads an error's text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of standard input ends the server
    try:
        library, sample_rate_hz = _initialized()
    except DataError as error:
        _answer(sys.stdout.buffer, str(error).encode(), 0)
        return
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            try:
                content, rate = _synthesize(library, Utterance(**json.loads(line))), sample_rate_hz
            except DataError as error:
                content, rate = str(error).encode(), 0
            _answer(sys.stdout.buffer, content, rate)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            return


if __name__ == "__main__":
    _serve()
