"""Greedy: one part after the other is given a cheaper scheme, that first which saves most for the noise that it adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Saving = Callable[[str, str], float]  # of a part with a scheme, beside the base
LEAST_NOISE = 1e-12  # what adds none comes first, by what it saves


def path(noise: Mapping[str, Mapping[str, float]], saving: Saving, base: str) -> list[dict[str, str]]:
    """Assignments, each with one part changed more than the one before; the first has one, the base is not among them.

    Args:
        noise: scheme to part to the power of the noise that the logits have when this part alone is quantized so.
        saving: what the objective falls by; what saves nothing is left as it is.
        base: the scheme of all parts at the start.
    """
    current: dict[str, str] = {}
    found: list[dict[str, str]] = []
    steps = {(part, scheme) for scheme, parts in noise.items() if scheme != base for part in parts if part in noise[base]}
    while steps:
        worth = {step: _worth(step, current, noise, saving, base) for step in sorted(steps)}
        best = max(worth, key=lambda step: worth[step])
        if worth[best] <= 0:
            break
        current[best[0]] = best[1]
        found.append(dict(current))
        steps = {step for step in steps if step != best}
    return found


def _worth(step: tuple[str, str], current: Mapping[str, str], noise: Mapping[str, Mapping[str, float]], saving: Saving, base: str) -> float:
    part, scheme = step
    now = current.get(part, base)
    gain = saving(part, scheme) - (saving(part, now) if now != base else 0.0)
    return gain / max(noise[scheme][part] - noise[now][part], LEAST_NOISE)
