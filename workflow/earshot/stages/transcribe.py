"""Print the words of audio files: `python -m earshot.stages.transcribe program=.../model.pte audio=a.flac,b.wav`."""

from __future__ import annotations

import sys

from earshot.config import TranscribeStage
from earshot.stages import stage
from earshot.transcribe import transcribe


@stage("transcribe")
def main(cfg: TranscribeStage) -> None:
    if not transcribe(cfg):
        sys.exit(1)


if __name__ == "__main__":
    main()
