"""Files that are dated in the future, by a clock that was wrong: whatever is made of them would be older, and so never up to date."""

from __future__ import annotations

import os
import time
from pathlib import Path


def bring_back(folder: str | Path) -> list[str]:
    """Date the files under a folder that are dated later than now as of now. Returns their paths."""
    now_ns = time.time_ns()
    later = []
    for root, _, names in os.walk(folder):
        for path in (os.path.join(root, name) for name in names):
            if os.lstat(path).st_mtime_ns > now_ns:
                os.utime(path, ns=(now_ns, now_ns), follow_symlinks=False)
                later.append(path)
    return later
