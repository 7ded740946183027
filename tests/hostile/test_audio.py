"""Audio files whose bytes or lengths are not what they should be: samples, or an error that names the file; never a crash or gigabytes."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from trying import tries

from earshot.corpus.audio import LONGEST_S, read_audio, read_checked
from earshot.errors import ConfigError, DataError
from earshot.train.perturb import excerpt
from earshot.transcribe import MOST_SAMPLES, read_any


def encoded(container: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, 0.1 * np.random.default_rng(0).standard_normal(2000), 16000, format=container, subtype="PCM_16")
    return stream.getvalue()


FLAC, WAV = encoded("FLAC"), encoded("WAV")


def as_path(path) -> np.ndarray:
    return read_any(str(path))


def as_bytes(path) -> np.ndarray:
    """As the served model is given it."""
    return read_any(io.BytesIO(path.read_bytes()), str(path))


def as_noise(path) -> np.ndarray:
    return excerpt(path, 3000, 0.5)


def claiming(data: bytes, samples: int) -> bytearray:
    """A FLAC whose header says another number of samples (RFC 9639, 8.2)."""
    forged = bytearray(data)
    forged[18:26] = (int.from_bytes(data[18:26], "big") >> 36 << 36 | samples).to_bytes(8, "big")
    return forged


def told(path, read=read_audio) -> str:
    with pytest.raises(DataError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message, message
    return message


@tries(80)
@given(
    whole=st.sampled_from([FLAC, WAV]),
    changes=st.lists(st.tuples(st.integers(0, 60) | st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    length=st.none() | st.integers(0, 4000),
)
def test_damaged_bytes_are_samples_or_an_error_that_names_the_file(tmp_path, whole, changes, length):
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path / "a.flac"
    path.write_bytes(data[:length])
    for read in (read_audio, read_checked, as_path, as_bytes, as_noise):
        try:
            read(path)
        except ConfigError:
            assert read is as_noise  # of another rate
        except DataError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


@tries(30)
@given(samples=st.integers(2001, 2**36 - 1) | st.just(0))
def test_a_flac_that_claims_more_than_it_holds_is_refused(tmp_path, samples):
    (tmp_path / "a.flac").write_bytes(claiming(FLAC, samples))
    for read in (read_audio, as_path, as_bytes):
        told(tmp_path / "a.flac", read)


@pytest.mark.parametrize(("rate", "taken"), [(8000, True), (44_100, True), (22_255, True), (15_999, False), (655_349, False)])
def test_a_rate_that_takes_gigabytes_to_convert_is_refused(tmp_path, rate, taken):
    soundfile.write(tmp_path / "a.wav", np.zeros(rate), rate)
    if taken:
        assert len(as_path(tmp_path / "a.wav")) == 16_000
    else:
        assert f"{rate} Hz cannot be converted" in told(tmp_path / "a.wav", as_path)


@tries(30)
@given(claimed=st.integers(0, 2**32 - 1))
def test_a_wav_that_claims_another_length_gives_no_more_than_it_holds(tmp_path, claimed):
    data = bytearray(WAV)
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", claimed)
    (tmp_path / "a.wav").write_bytes(data)
    try:
        assert 0 < len(read_audio(tmp_path / "a.wav")) <= 2000
        assert 0 < len(as_path(tmp_path / "a.wav")) <= 2000
    except DataError:
        assert claimed < 2


def test_hours_of_silence_in_few_bytes_are_refused_by_their_header(tmp_path):
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", 16000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(3):
            file.write(np.zeros(16000 * 60, "int16"))
    # Its frames say three minutes, its header hours: what it says counts before anything is decoded.
    data, hours = path.read_bytes(), 7 * 3600 * 16000
    path.write_bytes(claiming(data, hours))
    assert f"{hours} samples" in told(path) and f"at most {LONGEST_S} s" in told(path, read_checked)
    for read in (as_path, as_bytes):
        assert f"{hours} samples" in told(path, read) and f"at most {MOST_SAMPLES} " in told(path, read)
