"""Make or find a corpus, check it, write its manifests."""

from __future__ import annotations

import shutil
from pathlib import Path

from earshot import files
from earshot.config import CorpusStage, Synth
from earshot.corpus import librispeech, synth
from earshot.corpus.prepare import prepare
from earshot.stages import stage


@stage("corpus")
def main(cfg: CorpusStage) -> None:
    out = Path(cfg.out)
    if isinstance(cfg.corpus, Synth):
        root, splits = out / "speech", {split: [split] for split in ("train", "dev", "test")}
        for left in out.glob(f".{root.name}-*"):  # by a run that was killed
            shutil.rmtree(left)
        with files.atomic_dir(root) as folder:
            synth.make(cfg.corpus, folder)
    else:
        root, splits = librispeech.locate(cfg.corpus)
    prepare(root, splits, cfg.corpus, cfg.corpus.jobs, out)


if __name__ == "__main__":
    main()
