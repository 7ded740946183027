"""Errors that a user can act on: the message names the file or value and the remedy; stages print it without a traceback."""


class EarshotError(Exception):
    """Base of all errors meant for the user."""


class ConfigError(EarshotError):
    """A configuration key, type, value or combination that cannot be used: one line, whatever the value holds."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


class DataError(EarshotError):
    """Audio, transcripts, manifests or features that cannot be used."""


class ArtifactError(EarshotError):
    """A checkpoint, program or graph that is damaged or does not fit the rest."""


class StorageError(EarshotError):
    """A disk that is full, or a file or folder that may not be written."""


class TrainingError(EarshotError):
    """A training that cannot go on as it is."""


class LoweringError(EarshotError):
    """A program that the compiler of a target cannot take."""


class TrackingError(EarshotError):
    """An MLflow store that cannot be reached or used; what was to be logged still stands in the metrics.json files."""
