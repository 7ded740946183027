"""A variant as an MLflow model: audio files in, their words out. `mlflow.pyfunc.load_model` and MLflow's scoring server open it.

The model holds files, no code and no pickle: MLflow imports this module by its name, hence earshot is to be installed where it is loaded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earshot import recognizers
from earshot.config import Decode
from earshot.decoders import Decoder
from earshot.errors import DataError, EarshotError
from earshot.transcribe import read_any

if TYPE_CHECKING:
    import pandas

AUDIO, WORDS = "audio", "words"


class Transcriber:
    """A variant's program: an Ethos-U one is run as the integer graph that it was compiled from, bit for bit."""

    def __init__(self, folder: Path, decode: Decode, overlap_s: float) -> None:
        self._form = recognizers.form_of(folder.name, recognizers.load_variant(folder), overlap_s, folder)
        self._decoder = Decoder(self._form.pieces, decode)

    def predict(self, data: pandas.DataFrame, params: Mapping[str, Any] | None = None) -> pandas.DataFrame:
        """The column `words` for a column `audio`, each cell the bytes of a file that libsndfile reads (WAV, FLAC, Ogg), of any rate.

        Raises:
            MlflowException: a cell that is no audio, which a server answers with status 400 and the row's number.
        """
        import pandas
        from mlflow.exceptions import MlflowException

        words = []
        for row, content in enumerate(data[AUDIO]):
            try:
                if not isinstance(content, bytes | bytearray):
                    raise DataError(f"holds {type(content).__name__}, not the bytes of a file; in JSON they are given in base64")
                samples = read_any(io.BytesIO(content), "the file")
                words.append(self._form.recognize(self._form.front_end(samples), self._decoder)[0].text)
            except EarshotError as error:
                raise MlflowException.invalid_parameter_value(f"{AUDIO}, row {row}: {error}") from error
        return pandas.DataFrame({WORDS: words})


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Transcriber:
    """What MLflow calls; `model_config` has decode and overlap_s, as the model was logged or as its loader wants them."""
    config = dict(model_config or {})
    return Transcriber(Path(path), Decode(**config.get("decode", {})), config.get("overlap_s", 0.0))
