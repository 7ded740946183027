"""Names that a shell would act on go through a rule as they are; servers that anyone is told to start listen on loopback only."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from earshot.config import CONF_DIR
from earshot.corpus.manifest import load_cuts
from earshot.errors import ConfigError
from earshot.hydra_words import hydra_value
from earshot.pipeline import variants

ROOT = Path(__file__).parents[2]
NAME = "a b'c\"d;touch pwned;$(touch pwned)`touch pwned`&\n|>pwned {x},=é"
FILE_NAME = NAME.replace("\n", "").replace("{x}", "{}")  # a file that a rule reads may have no wildcard in its name


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


# In place of `python`: writes down how it was called, and leaves all files that Snakemake waits for. Rules read some of these, the rounds
# of a search: nothing is proposed.
RECORDER = """#!{python}
import json, os, sys
with open({calls!r}, "a") as stream:
    stream.write(json.dumps([*sys.argv[1:], os.environ["EXPERIMENT_NAME"]]) + "\\n")
for path in open({outputs!r}).read().splitlines():
    os.makedirs(os.path.dirname(path) if "." in os.path.basename(path) else path, exist_ok=True)
    if not os.path.exists(path):
        with open(path, "x") as stream:
            stream.write('{{"schema_version": 1, "proposals": []}}')
"""


@pytest.fixture
def recorded(tmp_path):
    """A function: the arguments of what a workflow calls, by stage; its commands are those of the rules."""
    # Snakemake's rules call the `python` beside the interpreter that Snakemake runs in: here another than that.
    bin_dir, calls, outputs = tmp_path / "environment" / "bin", tmp_path / "calls", tmp_path / "outputs"
    bin_dir.mkdir(parents=True)
    (bin_dir.parent / "pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
    (bin_dir.parent / "lib").symlink_to(Path(sys.prefix) / "lib")
    (bin_dir / "snakes").symlink_to(Path(sys.executable).resolve())
    (bin_dir / "python").write_text(RECORDER.format(python=sys.executable, calls=str(calls), outputs=str(outputs)))
    (bin_dir / "python").chmod(0o755)

    def record(
        words: list[str], sweep: list[str], targets: Sequence[str] = (), later: Sequence[str] = (), **choices: str
    ) -> dict[str, list[list[str]]]:
        """`later`: files of jobs that Snakemake does not know of before others have ended."""
        here = tmp_path / NAME
        here.mkdir()
        command = [
            bin_dir / "snakes",
            "-m",
            "snakemake",
            "--snakefile",
            ROOT / "workflow" / "Snakefile",
            "--directory",
            here,
            "--cores",
            "1",
            *targets,
        ]
        config = [
            "--config",
            f"overrides={shlex.join(words)}",
            f"sweep={shlex.join(sweep)}",
            *(f"{key}={value}" for key, value in choices.items()),
        ]
        listed = subprocess.run([*command, "--summary", *config], capture_output=True, text=True, timeout=600)
        assert listed.returncode == 0, listed.stderr
        outputs.write_text("\n".join([*(line.split("\t")[0] for line in listed.stdout.splitlines()[1:]), *later]))
        done = subprocess.run([*command, *config], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        stages: dict[str, list[list[str]]] = {}
        for _, stage, *given in map(json.loads, calls.read_text().splitlines()):
            stages.setdefault(stage.removeprefix("earshot.stages."), []).append(given)
        return stages

    return record


def holds(calls: list[list[str]], key: str, value: str) -> bool:
    return any(word in (f"{key}={value}", f"{key}={hydra_value(value)}") for given in calls for word in given)


def test_names_in_all_rules_reach_their_stages_as_they_are(recorded, tmp_path):
    root = tmp_path / FILE_NAME
    root.mkdir()
    files = {name: str(root / name) for name in ("model", "noise", "rooms", "a.arpa", "words.txt", "a.pt2")}
    (root / "model").mkdir()
    for name in ("model/model.safetensors", "a.arpa", "words.txt", "a.pt2"):
        (root / name).touch()
    words = [
        f"{key}={hydra_value(value)}"
        for key, value in (
            ("experiment_name", root.name),
            ("train.checkpoint", files["model"]),
            ("train.noise", files["noise"]),
            ("train.rooms", files["rooms"]),
            ("decode.lm", files["a.arpa"]),
            ("quant.from_program", files["a.pt2"]),
        )
    ]
    sweep = ["quant=int8_pc", f"decode.lexicon=null,{hydra_value(files['words.txt'])}", "target=host,u85_256"]
    stages = recorded(["evaluation.seed=0", "decode=lm", *words, "evaluation.jobs=1"], sweep)
    for key, name in (("train.checkpoint", "model"), ("train.noise", "noise"), ("train.rooms", "rooms")):
        assert holds(stages["train"], key, files[name])
    assert holds(stages["lexicon"], "lm", files["a.arpa"])
    assert holds(stages["evaluate"], "decode.lm", files["a.arpa"]) and holds(stages["evaluate"], "decode.lexicon", files["words.txt"])
    assert holds(stages["quantize"], "quant.from_program", files["a.pt2"])
    assert holds(stages["report"], "title", root.name) and holds(stages["track"], "experiment_name", root.name)
    assert holds(stages["train"], "experiment_name", root.name)
    assert not list(tmp_path.rglob("pwned"))


def test_names_of_an_import_reach_it_as_they_are(recorded, tmp_path):
    root = tmp_path / FILE_NAME
    root.mkdir()
    files = {"checkpoint": "a.pt", "tokenizer": "a.model", "statistics": "a.json", "check": "a.npz"}
    words = []
    for key, name in files.items():
        (root / name).touch()
        words.append(f"imported.{key}={hydra_value(str(root / name))}")
    (given,) = recorded(["evaluation.seed=0", *words, "imported.blank=0"], ["quant=int8_pc", "target=host"])["import_checkpoint"]
    for key, name in files.items():
        assert holds([given], f"imported.{key}", str(root / name))
    assert not list(tmp_path.rglob("pwned"))


def test_names_of_a_search_and_an_export_reach_them_as_they_are(recorded, tmp_path):
    mirror, lexicon = f"http://127.0.0.1:9/{FILE_NAME}", tmp_path / FILE_NAME
    lexicon.touch()
    files = [f"decode.mirror={hydra_value(mirror)}", f"decode.lexicon={hydra_value(str(lexicon))}"]
    words = ["decode=lm", "decode.lm=librispeech_3gram", *files, "search.rounds=1"]
    sweep, choices = ["quant=int8_pc", "target=u85_256"], {"search": "greedy", "budget": "mcu_512k"}
    (variant,) = variants({"overrides": words, "sweep": shlex.join(sweep), **choices})
    files = [f"results/search/{variant.model}/{variant.search}/{variant.target}/{name}" for name in OF_SEARCH]
    files += [f"results/sensitivity/{variant.model}/{variant.sensitivity}/{variant.family}/sensitivity.json"]
    files += [f"results/export/{variant.model}/{variant.window}/export.json"]
    stages = recorded(words, sweep, files, files, **choices)
    assert holds(stages["language_model"], "mirror", mirror)
    for stage in ("sensitivity", "search"):
        assert holds(stages[stage], "decode.lexicon", str(lexicon)), stage
    assert len(stages["propose"]) == 2 and stages["search_result"] and stages["export_model"]
    assert not list(tmp_path.rglob("pwned"))


OF_SEARCH = ("candidates.json", "round_0.json", "round_1.json", "result.json", "trials.csv")


@pytest.mark.parametrize("key", ["imported.check", "train.checkpoint", "decode.lexicon", "quant.from_program"])
def test_a_wildcard_in_the_name_of_a_file_is_told(key):
    with pytest.raises(ConfigError, match=r"a\{x\}/b.*Snakemake takes \{x\} for a wildcard; give the file under another name"):
        variants({"overrides": ["imported.tokenizer=t", "imported.checkpoint=c", f"{key}='a{{x}}/b'"]})


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
