"""How much memory was taken."""

from __future__ import annotations

import resource


def peak_rss_mib() -> float:
    """The largest resident memory so far, in MiB, of this process or of one of its children that has ended, whichever is larger."""
    return round(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024, 1)
