"""Where the tests find real speech; those that need it are skipped where there is none."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("EARSHOT_SPEECH", Path(__file__).resolve().parents[3] / "shared" / "speech" / "LibriSpeech"))
needs_speech = pytest.mark.skipif(not ROOT.is_dir(), reason="no real speech: neither EARSHOT_SPEECH nor ../shared/speech/LibriSpeech")
