"""Where a result comes from: the commit, the versions of what computed it."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("earshot", "torch", "torchaudio", "lightning", "lhotse", "numpy", "sentencepiece")


def provenance() -> dict[str, str]:
    """The git commit of this package (with `+changes` where files differ from it; absent outside a checkout), and versions."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return found
    return {"commit": commit + ("+changes" if changes else ""), **found}
