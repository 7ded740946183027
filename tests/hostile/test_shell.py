"""Names that a shell would act on go through a rule as they are; servers that anyone is told to start listen on loopback only."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import soundfile
from omegaconf import OmegaConf

from earshot.config import CONF_DIR
from earshot.corpus.manifest import load_cuts
from earshot.hydra_words import hydra_value

ROOT = Path(__file__).parents[2]
NAME = "a b'c\"d;touch pwned;$(touch pwned)`touch pwned`&\n|>pwned {x},=é"


def test_nothing_in_a_name_is_executed(tmp_path):
    # A line break cannot be written in a value of --config, which is YAML: the folder that results go to has one.
    here, root = tmp_path / NAME, tmp_path / NAME.replace("\n", "")
    here.mkdir()
    for subset in ("one", "two", "three"):
        folder = root / subset / "1" / "7"
        folder.mkdir(parents=True)
        name = f"1-7-{subset}"
        soundfile.write(folder / f"{name}.flac", 0.1 * np.random.default_rng(0).standard_normal(8000), 16000, subtype="PCM_16")
        (folder / "1-7.trans.txt").write_text(f"{name} GO HOME\n")
    # Snakemake takes off the quotes that a value begins and ends with: these words begin and end with none.
    words = ["corpus.jobs=1", "corpus.train_subsets=[one]", "corpus.dev_subsets=[two]", "corpus.test_subsets=[three]"]
    words += [f"experiment_name={hydra_value(root.name)}", f"corpus.root={hydra_value(str(root))}", "evaluation.seed=0"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile"), "--directory", str(here)),
            *("--cores", "1", "--until", "corpus", "--config", "corpus=librispeech", "sweep=quant=int8_pc"),
            f"overrides={shlex.join(words)}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    (manifest,) = here.glob("results/corpus/*/train.cuts.jsonl.gz")
    (cut,) = load_cuts(manifest)
    assert cut.recording.sources[0].source == str(root / "one/1/7/1-7-one.flac")
    assert not list(tmp_path.rglob("pwned"))


def test_servers_listen_on_loopback():
    for path in (CONF_DIR / "tracking").glob("*.yaml"):
        uri = OmegaConf.to_container(OmegaConf.load(path), resolve=False).get("uri", "")
        default = re.sub(r"\$\{oc\.env:\w+,(.*)\}", r"\1", uri)
        assert urlsplit(default).hostname in (None, "127.0.0.1"), f"{path}: {uri}"
    told = [path for folder in ("docs", "conf", "workflow", "tests") for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS]
    for path in [ROOT / "README.md", *told]:
        text = path.read_text()
        hosts = re.findall(r"--host[ =\",]+([\w.:]+)", text) + re.findall(r"(?<!\d)(?:0\.){3}0(?!\d)", text)
        assert set(hosts) <= {"127.0.0.1", "localhost"}, f"{path}: {hosts}"


TEXTS = {".md", ".yaml", ".py", ".sh", ".smk"}
