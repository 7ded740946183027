"""Manifests and summary of a corpus in LibriSpeech's layout."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from earshot import files
from earshot.config import Corpus
from earshot.corpus import scan
from earshot.corpus.manifest import Item, ManifestWriter, write_cuts
from earshot.errors import DataError

SHOWN = 5  # bad utterances named in the error; bad.json has all


class Tally:
    """What summary.json says of a split."""

    def __init__(self) -> None:
        self.samples, self.words, self.utterances = 0, 0, 0
        self.shortest_s, self.longest_s, self.seconds = float("inf"), 0.0, 0.0
        self.vocabulary: set[str] = set()
        self.speakers: set[str] = set()
        self._digest = hashlib.sha256()

    def add(self, item: Item) -> None:
        words = item.text.split()
        self.utterances += 1
        self.words += len(words)
        self.seconds += item.duration_s
        self.shortest_s, self.longest_s = min(self.shortest_s, item.duration_s), max(self.longest_s, item.duration_s)
        self.vocabulary.update(words)
        self.speakers.add(item.speaker)
        self._digest.update(f"{item.id}\t{item.text}\t{item.md5}\n".encode())

    def summary(self) -> dict:
        return {
            "hours": round(self.seconds / 3600, 4),
            "utterances": self.utterances,
            "speakers": len(self.speakers),
            "words": self.words,
            "distinct_words": len(self.vocabulary),
            "shortest_s": round(self.shortest_s, 3),
            "longest_s": round(self.longest_s, 3),
            "content_sha256": self._digest.hexdigest(),  # ids, texts and samples, wherever the files lie
        }


def prepare(root: Path, splits: dict[str, list[str]], cfg: Corpus, jobs: int, out: Path) -> None:
    """Check every utterance of the splits' subsets under `root`; write manifests, summary.json and bad.json to `out`.

    Raises:
        DataError: bad utterances where corpus.on_bad is fail, or a split without any usable one; no manifest is written then.
    """
    bad: list[dict[str, str]] = []
    tallies = {split: Tally() for split in splits}
    seen: dict[str, str] = {}
    # The manifests take their places together, after all splits have been found good.
    with contextlib.ExitStack() as stack:
        for split, subsets in splits.items():
            writer = stack.enter_context(write_cuts(out / f"{split}.cuts.jsonl.gz"))
            folders = [folder for subset in subsets for folder in scan.chapters(root, subset)]
            bad += _split(scan.scan(folders, cfg, jobs, f"checking {split}"), writer, tallies[split], seen)
        files.write_json(out / "bad.json", {"utterances": bad})
        _judge(root, splits, tallies, bad, cfg, out / "bad.json")
    warnings = _overlaps(tallies)
    for text in warnings:
        print(f"warning: {text}", file=sys.stderr)
    summary = {}
    for split, tally in tallies.items():
        summary[split] = {**tally.summary(), "manifest_sha256": files.sha256(out / f"{split}.cuts.jsonl.gz")}
    whole = hashlib.sha256("".join(part["content_sha256"] for part in summary.values()).encode()).hexdigest()
    files.write_json(out / "summary.json", {"splits": summary, "skipped": len(bad), "warnings": warnings, "content_sha256": whole})


def _split(found: Iterable[Item | scan.Bad], writer: ManifestWriter, tally: Tally, seen: dict[str, str]) -> list[dict[str, str]]:
    """Write the good ones, return the bad ones; `seen` has the folder of each id so far."""
    bad = []
    for item in found:
        if isinstance(item, Item) and item.id in seen:
            item = scan.Bad(item.id, item.path, f"duplicate id, {seen[item.id]} has it too; remove one of the two")
        if isinstance(item, Item):
            seen[item.id] = sys.intern(os.path.dirname(item.path))
            tally.add(item)
            writer.write(item)
        else:
            bad.append({"id": item.id, "path": item.path, "reason": item.reason})
    return bad


def _judge(
    root: Path, splits: dict[str, list[str]], tallies: dict[str, Tally], bad: list[dict[str, str]], cfg: Corpus, report: Path
) -> None:
    if bad and cfg.on_bad == "fail":
        shown = "".join(f"\n  {entry['path']}: {entry['reason']}" for entry in bad[:SHOWN])
        more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        count = "1 bad utterance" if len(bad) == 1 else f"{len(bad)} bad utterances"
        raise DataError(f"{root}: {count}, listed in {report}; repair the data, or leave them out with corpus.on_bad=skip{shown}{more}")
    for split, tally in tallies.items():
        if not tally.utterances:
            subsets = ", ".join(splits[split]) or "no subset"
            raise DataError(
                f"{root}: the {split} split ({subsets}) has no usable utterance; {len(bad)} bad ones are listed in {report}:"
                f" repair them, or choose other corpus.{split}_subsets"
            )


def _overlaps(tallies: dict[str, Tally]) -> list[str]:
    names = list(tallies)
    texts = []
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if common := sorted(tallies[one].speakers & tallies[other].speakers):
                named = ", ".join(common[:10])
                texts.append(f"{len(common)} speakers are in both {one} and {other} ({named}): error rates will look better than they are")
    return texts
