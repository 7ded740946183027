"""From configuration to variants: every experiment composes, names are readable and unique, and mistakes are told before any work."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from earshot import config
from earshot.composing import option
from earshot.errors import ConfigError
from earshot.hydra_words import hydra_value
from earshot.pipeline import GROUPS, SEARCH_GROUPS, Variant, proposed, variants
from earshot.search.proposals import mixture

EXPERIMENTS = sorted(path.stem for path in (config.CONF_DIR / "experiment").glob("*.yaml"))


@functools.cache
def of_experiment(name: str) -> list[Variant]:
    files = {"checkpoint": "model.pt", "tokenizer": "tokenizer.model"} if name == "seed_checkpoint" else {}
    return variants({"experiment": name, **files})


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_gives_variants(experiment):
    found = of_experiment(experiment)
    assert len(found) >= 1
    assert len({v.id for v in found}) == len(found)


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_has_values_that_its_group_takes(group):
    found = [path.stem for path in (config.CONF_DIR / group).glob("*.yaml")]
    for name in set(found) - {"lm"}:  # which says nothing without a file: see the mistakes below
        assert dataclasses.is_dataclass(option(group, name))
    assert found


def test_every_scheme_can_be_built_for_a_target():
    names = sorted(path.stem for path in (config.CONF_DIR / "quant").glob("*.yaml"))
    targets = {name: "host" if option("quant", name).families == ["host"] else "u85_256" for name in names}
    for target in ("host", "u85_256"):
        some = [name for name in names if targets[name] == target]
        assert [v.choices["quant"] for v in variants({"sweep": f"quant={','.join(some)} target={target}"})] == some


def test_a_training_that_starts_from_another_model_is_named_by_it():
    (variant,) = variants({"train": "from_checkpoint", "overrides": "train.checkpoint=results/train/other", "sweep": "quant=int8_pc"})
    assert variant.model.startswith("conformer_xs-synth-from_checkpoint+checkpoint=")


def test_the_demo_is_eight_variants_on_two_targets():
    ids = [v.id for v in of_experiment("demo")]
    assert "conformer_xs-synth/int8_pc-hist64-5s/u85_256" in ids
    assert {id.split("/")[1].split("-")[0] for id in ids} == {"fp32", "fp16", "dynamic_int8", "int8_pc", "int8_pt", "a16w8"}
    assert len(ids) == 8
    assert {id.split("/")[2] for id in ids} == {"u85_256", "host"}


def test_a_sweep_is_in_hydra_s_grammar():
    ids = [v.id for v in variants({"sweep": "quant=int8_pc,int8_pt target=glob(u55_*)"})]
    assert len(ids) == 4
    assert all("u55_" in id for id in ids)


def test_a_sweep_may_be_of_several_texts():
    host, npu = "quant=fp32,fp16 target=host", "quant=int8_pc target=u85_256"
    assert variants({"sweep": [host, npu]}) == [*variants({"sweep": host}), *variants({"sweep": npu})]


def test_the_points_of_a_large_sweep_are_what_each_is_by_itself():
    """They are put together of groups that were composed once; by itself, a point is composed as a whole."""
    settings = {"overrides": "calib.seed=7 train.epochs=3"}
    sweep = "quant=int8_pc quant.per_channel=true,false calib=hist64,minmax64 calib.utterances=8,16 target=u85_256,u55_256"
    found = variants({**settings, "sweep": sweep})
    assert len(found) == 16
    for variant in (found[0], found[6], found[15]):
        assert variants({**settings, "sweep": " ".join(variant.overrides[2:])}) == [variant]
    assert found[15].scheme == "int8_pc+per_channel=False-minmax64+seed=7+utterances=16-5s" and found[15].target == "u55_256"


def test_a_value_that_is_taken_from_another_group_follows_each_point():
    found = variants({"overrides": "quant.scheme=${target.name}", "sweep": "target=u85_256,u55_256 calib.utterances=8,16"})
    assert [v.config["quant"]["scheme"] for v in found] == ["u85_256", "u85_256", "u55_256", "u55_256"]


def test_an_override_is_in_the_name_of_what_it_changes():
    (variant,) = variants({"overrides": "train.epochs=3 calib.seed=7", "sweep": "quant=int8_pc"})
    assert variant.id == "conformer_xs-synth-quick+epochs=3/int8_pc-hist64+seed=7-5s/u85_256"
    assert variant.corpus == "synth"


def test_the_npu_form_is_of_the_program_and_not_of_the_model():
    npu, plain = variants({"sweep": "quant=int8_pc model.npu_form=true,false"})
    assert npu.model == plain.model and plain.scheme == f"{npu.scheme}+npu_form=False"
    assert plain.arguments(["form"]) == "form.npu_form=false" and npu.arguments(["form"]) == ""
    assert npu.settings(["model"]) == plain.settings(["model"]) and npu.settings(["form"]) != plain.settings(["form"])
    for without in (
        "quant=int8_pc target=host",
        "quant=a16w8 target=u85_256",
    ):  # no NPU form there: one variant, not built again for another
        (npu,) = variants({"sweep": f"{without} model.npu_form=true,false"})
        (plain,) = variants({"sweep": f"{without} model.npu_form=false"})
        assert npu == plain


def test_a_list_in_a_name_is_readable():
    for channels, name in (("[32,32,32]", "32_32_32"), ("[]", "empty")):
        (variant,) = variants({"overrides": f"model.subsampling_channels={channels}", "sweep": "quant=int8_pc"})
        assert variant.model == f"conformer_xs+subsampling_channels={name}-synth"
        assert f"model.subsampling_channels={channels}" in shlex.split(variant.arguments(["model"]))


def test_decodings_are_swept_and_have_names_of_their_own():
    sweep = "quant=int8_pc decode=greedy,beam,lm decode.blank_penalty=0.0,1.5"
    found = variants({"sweep": sweep, "overrides": "decode.lm=/data/my.arpa"})
    assert found[0].decoding == "" and len({v.id for v in found}) == 6, "greedy decoding reads no language model"
    assert {(v.model, v.scheme, v.target) for v in found} == {("conformer_xs-synth", "int8_pc-hist64-5s", "u85_256")}
    plain, beam = variants({"sweep": "quant=int8_pc decode=greedy,beam decode.mirror=http://here"})
    assert (plain.id, beam.id) == (plain.id, f"{plain.id}-beam") and plain.decoding == ""


def test_how_many_processes_work_is_in_no_name():
    assert variants({"overrides": "corpus.jobs=7", "sweep": "quant=int8_pc"})[0].corpus == "synth"


def test_a_float_program_is_not_named_by_its_calibration():
    assert [v.id for v in variants({"target": "host", "sweep": "quant=fp32 calib=hist64,minmax64"})] == ["conformer_xs-synth/fp32-5s/host"]


def test_the_words_for_a_stage_give_it_the_same_values():
    root = '/data/it\'s = a "tree", [really]\\'
    (variant,) = variants(
        {
            "experiment": "local_speech",
            "overrides": [f"corpus.root={hydra_value(root)}", "corpus.train_subsets=[a,b]"],
            "sweep": "quant=int8_pc",
        }
    )
    words = shlex.split(variant.arguments(["corpus"]))
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF_DIR)):
        corpus = config.typed(compose("corpus", overrides=[*words, "out=x"])).corpus
    assert corpus.root == root
    assert corpus.train_subsets == ["a", "b"]


def test_a_path_in_a_name_stays_one_component():
    (variant,) = variants({"experiment": "local_speech", "overrides": "corpus.root=../some/where", "sweep": "quant=int8_pc"})
    assert "/" not in variant.corpus
    assert "where" in variant.corpus


def test_another_root_by_the_environment_is_seen(monkeypatch):
    before = variants({"experiment": "local_speech"})[0].settings(["corpus"])
    monkeypatch.setenv("EARSHOT_SPEECH", "/elsewhere")
    assert variants({"experiment": "local_speech"})[0].settings(["corpus"]) != before


IMPORT = {"experiment": "seed_checkpoint", "checkpoint": "/data/it's my best=model, 1.pt", "tokenizer": "my tokenizer.model"}


def test_an_imported_model_is_named_by_its_file_and_by_how_it_is_imported():
    def model(**changes):
        return variants({**IMPORT, "sweep": "quant=int8_pc", **changes})[0].model

    name = model()
    assert name.startswith("imported-it_s_my_best_model_1~") and name.endswith("-local_speech-logmel80_arm")
    for change in ({"checkpoint": "/other/it's my best=model, 1.pt"}, {"tokenizer": "other.model"}, {"overrides": "imported.blank=-1"}):
        assert model(**change) != name


def test_the_import_gets_the_words_of_the_command_line():
    (variant,) = variants({**IMPORT, "sweep": "quant=int8_pc", "overrides": "imported.heads=4"})
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF_DIR)):
        words = shlex.split(f"{variant.arguments(['features'])} {variant.import_arguments()}")
        cfg = config.typed(compose("import_checkpoint", overrides=[*words, "out=x"]))
    files = cfg.imported.checkpoint, cfg.imported.tokenizer
    assert files == (IMPORT["checkpoint"], IMPORT["tokenizer"])
    assert (cfg.imported.blank, cfg.imported.heads) == (0, 4)
    assert cfg.features.floor_by == "sum"


def test_what_only_training_reads_is_no_value_of_an_imported_model():
    (variant,) = variants({**IMPORT, "sweep": "quant=int8_pc"})
    assert not {"model", "train", "tokenizer"} & set(variant.groups)
    (trained,) = variants({"sweep": "quant=int8_pc"})
    assert set(trained.groups) == set(GROUPS) - SEARCH_GROUPS and not trained.imported


def test_a_budget_is_in_no_name_and_a_search_is_beside_its_variant():
    (plain,) = variants({"sweep": "quant=int8_pc"})
    (limited,) = variants({"sweep": "quant=int8_pc", "budget": "mcu_512k"})
    assert limited.id == plain.id and limited.config["budget"]["flash_kib"] == 1024 and "budget" in limited.groups
    greedy, joint = variants({"sweep": "quant=int8_pc search=greedy,joint", "budget": "mcu_512k"})
    assert greedy.id == joint.id == plain.id and greedy.searches and not plain.searches
    assert (greedy.search, joint.search) == ("greedy-mcu_512k-hist64-5s", "joint-mcu_512k-hist64-5s")
    assert greedy.sensitivity == joint.sensitivity, "both start from one table"


def test_what_a_search_proposes_is_a_variant_that_its_stages_understand():
    (variant,) = variants({"experiment": "search"})
    values = {name: asdict(option("quant", name)) for name in ("int8_pc", "a8w4")}
    made = mixture({"output": "a8w4"}, values, "minmax64", ["output", "subsampling"], ["output", "subsampling"])
    (trial,) = proposed(variant, [made])
    assert trial.id == f"conformer_xs-synth/{made.scheme}-minmax64-5s/u85_256" and trial.search == "none"
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF_DIR)):
        words = shlex.split(trial.arguments(["quant", "calib"]))
        cfg = config.typed(compose("quantize", overrides=[*words, "model_dir=x", "corpus_dir=x", "out=x"]))
    assert [(part.modules, part.weight_bits) for part in cfg.quant.parts] == [("output", 4)] and cfg.calib.observer == "minmax"
    (uniform,) = proposed(variant, [mixture({}, values, "hist64", ["output"], ["output"])])
    assert uniform.id == variant.id, "a uniform scheme is the variant of that name, built once"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sweep": "quant=a8w4", "search": "greedy"}, "set quant=int8_pc"),
        ({"sweep": "quant=int8_pc target=host", "search": "greedy"}, "a8w4 is not one .* family host"),
        ({"sweep": "quant=int8_pc", "search": "greedy", "overrides": "search.schemes=[int8_pc,nope]"}, "nope"),
        ({"sweep": "quant=int8_pc", "search": "greedy", "overrides": "search.schemes=[int8_pc,int8_pt]"}, "add it to sensitivity.schemes"),
        ({"sweep": "quant=int8_pc", "search": "greedy", "overrides": "search.schemes=[int8_pc,a16w8]"}, "set model.npu_form=false"),
        ({"sweep": "quant=int8_pc", "search": "greedy", "window": "2s_cached"}, "set window.left_context_s to 0"),
        ({"sweep": "quant=int8_pc budget=none,mcu_512k"}, "budget cannot be swept"),
        ({"budget": "mcu_512k", "overrides": "budget.flash_kib=0"}, "greater than 0"),
        ({"experiment": "seed_checkpoint"}, "add checkpoint=FILE tokenizer=FILE"),
        ({"checkpoint": "model.pt"}, "add tokenizer=FILE"),
        ({**IMPORT, "overrides": "imported.blank=-2"}, "at least -1"),
        ({"modle": "conformer_s"}, "unknown key"),
        ({"model": "conformer_xl"}, "conformer_s"),
        ({"experiment": "nope"}, "local_speech"),
        ({"overrides": "train.epoch=3"}, r"did you mean train.epochs\?"),
        ({"overrides": "calib.xyz=3"}, "keys are calib.observer, .*calib.utterances"),
        ({"overrides": "train.epochs=many"}, "many"),
        ({"overrides": "train.epochs=0"}, "at least 1"),
        ({"overrides": "export.formats=[onnx,tflite]"}, "tflite is no format; choose of safetensors"),
        ({"overrides": "corpus.on_bad=ignore"}, "fail, skip"),
        ({"overrides": "window.overlap_s=4"}, "overlap_s"),
        ({"window": "2s_cached", "sweep": "quant=int8_pc target=host"}, "left_context_s=2: .* of the NPU form"),
        ({"window": "2s_cached", "sweep": "quant=a16w8 target=u85_256"}, "left_context_s=2: .* of the NPU form"),
        ({"overrides": "model.subsampling_channels=[32,0]"}, "at least 1"),
        ({"overrides": "model.subsampling_channels=32"}, "subsampling_channels"),
        ({"sweep": "quant=a16w8 target=host"}, "u85_256"),
        ({"sweep": "quant=a16w8 target=u55_128"}, "cannot be lowered to target=u55_128; targets that can take it: u85_1024, .*u85_512$"),
        ({"sweep": "target=u99_1"}, "u85_256"),
        ({"sweep": "calib=hist64,minmax64 calib.utterance=8,16"}, "calib.utterance"),
        ({"sweep": "calib=hist64,minmax64 calib.utterances=0,8"}, "at least 1"),
        ({"sweep": "evaluation.bootstrap=0,1"}, "evaluation cannot be swept"),
        ({"decode": "lm"}, "add decode.lm=FILE, or choose decode=beam"),
        ({"decode": "beam", "overrides": "decode.beam_size=0"}, "beam_size=0: must be at least 1"),
        ({"overrides": "decode.nbest=2"}, "greedy finds one; choose decode=beam"),
        ({"decode": "beam", "overrides": "decode.nbest=60"}, "raise decode.beam_size"),
        ({"decode": "librispeech_3gram", "overrides": "decode.lm_checksum=crc:1"}, "not sha256:HEX or md5:HEX"),
        ({**IMPORT, "decode": "librispeech_3gram"}, "decode.lexicon=FILE"),
        ({"sweep": "quant=int8_pc,"}, "quant"),
        ({"sweep": ["quant=int8_pc", "quant=int9"]}, "int9"),
        ({"sweep": 8}, "--config sweep=8: neither a text of KEY=VALUE words nor a list"),
        ({"sweep": {"quant": "int8_pc"}}, "--config sweep={'quant': 'int8_pc'}: neither"),
        ({"overrides": False}, "--config overrides=False: neither"),
        ({"overrides": "tracking.uri=https://me:secret@host:1"}, "give https://host without .* MLFLOW_TRACKING_TOKEN"),
    ],
)
def test_a_mistake_is_one_clear_line(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        variants(settings)
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_no_yaml_of_a_group_is_left_out():
    """An option lies where Hydra finds it: a file in a folder that is no group would be dead."""
    folders = {path.name for path in Path(config.CONF_DIR).iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "experiment"}


def test_names_hold_nothing_that_separates_wildcards():
    (variant,) = variants({"overrides": "quant.families=[u85,u55] corpus.noise_snr_db=null", "sweep": "quant=int8_pc"})
    assert "," not in variant.id and " " not in variant.id
