"""LibriSpeech (Panayotov et al., 2015) and Mini LibriSpeech: subsets that are there are used, the others are fetched.

https://www.openslr.org/12 and https://www.openslr.org/31
"""

from __future__ import annotations

from pathlib import Path

from torchaudio.datasets import librispeech as torchaudio_librispeech

from earshot.config import LibriSpeech
from earshot.corpus import download
from earshot.errors import ConfigError, DataError

RESOURCES = {subset: 12 for subset in torchaudio_librispeech._DATA_SUBSETS} | {"train-clean-5": 31, "dev-clean-2": 31}
CHECKSUMS = {
    **{Path(url).name.removesuffix(".tar.gz"): f"sha256:{digest}" for url, digest in torchaudio_librispeech._CHECKSUMS.items()},
    # https://www.openslr.org/resources/31/md5sum.txt
    "train-clean-5": "md5:5df7d4e78065366204ca6845bb08f490",
    "dev-clean-2": "md5:6d7ab67ac6a1d2c993d050e16d61080d",
}


def locate(cfg: LibriSpeech) -> tuple[Path, dict[str, list[str]]]:
    """The folder that holds all subsets, and the subsets of train, dev and test; what is missing is fetched first.

    Raises:
        ConfigError: a subset name that is none, or stands in two splits.
        DataError: a subset is missing and cannot be fetched.
    """
    root = Path(cfg.root)
    splits = {"train": cfg.train_subsets, "dev": cfg.dev_subsets, "test": cfg.test_subsets}
    first: dict[str, str] = {}
    for split, subsets in splits.items():
        for subset in subsets:
            if subset in first:
                raise ConfigError(
                    f"corpus.{split}_subsets: {subset} stands in corpus.{first[subset]}_subsets already; name each subset once"
                )
            first[subset] = split
    missing = [subset for subset in first if not (root / subset).is_dir()]
    unknown = [subset for subset in missing if subset not in RESOURCES]
    if unknown:
        there = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")) if root.is_dir() else []
        raise DataError(
            f"{root / unknown[0]}: no such folder, and LibriSpeech has no subset {unknown[0]!r} to download;"
            f" there are {', '.join(there) or 'no folders'} in {root}, and LibriSpeech has {', '.join(RESOURCES)}"
        )
    if missing and not cfg.download:
        raise DataError(
            f"{root / missing[0]}: no such folder ({len(missing)} missing: {', '.join(missing)});"
            " set corpus.root to the folder that holds them, or fetch them with corpus.download=true"
        )
    for subset in missing:
        _bring(subset, root, cfg)
    return root, splits


def _bring(subset: str, root: Path, cfg: LibriSpeech) -> None:
    archive = root / f"{subset}.tar.gz"
    checksum = cfg.checksums.get(subset, CHECKSUMS[subset])
    download.fetch(f"{cfg.mirror.rstrip('/')}/{RESOURCES[subset]}/{archive.name}", archive, checksum)
    download.unpack(archive, f"LibriSpeech/{subset}", root / subset)
    archive.unlink()
