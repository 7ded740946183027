"""What the rules share: the variants that the configuration asks for, and how a rule finds the values of its stage."""

import re
import sys
from functools import cache
from pathlib import Path
from shlex import quote

from earshot import resources
from earshot.errors import EarshotError
from earshot.hydra_words import hydra_value
from earshot.keeping import kept, kept_variants
from earshot.language_model import KNOWN as language_models
from earshot.naming import slug
from earshot.pipeline import FORM, NAMES, variants
from earshot.source_digest import source_digests
from snakemake.exceptions import WorkflowError

try:
    VARIANTS = kept_variants(config, lambda: variants(config))
except EarshotError as error:
    raise WorkflowError(str(error))

SOURCES = kept("source_digests", source_digests)  # by stages: a rule runs again where the source is another that its stage reaches

experiment_name = f"experiment_name={hydra_value(VARIANTS[0].config['experiment_name'])}"

# In the rules, `python` is the interpreter that runs Snakemake: it has the package, a shell's own need not. A param would do as well, but then a
# virtual environment that moved would train all models again. Thirty processes import the same libraries: they may keep what Python compiles, which
# in a new environment takes longer than the imports themselves, also where containers forbid it to keep their images small. The name of the experiment
# and where MLflow is are no params of a training: a model is not trained anew because another experiment uses it, or another server shows it.
prefix = (
    f"set -euo pipefail; unset PYTHONDONTWRITEBYTECODE; export PATH={quote(str(Path(sys.executable).parent))}:$PATH; "
    f"export EXPERIMENT_NAME={quote(experiment_name)}; TRACKING=({VARIANTS[0].arguments(['tracking'])}); "
)
shell.prefix(prefix.replace("{", "{{").replace("}", "}}"))  # which it formats, as a rule's command


wildcard_constraints:
    **({name: "[^/]+" for name in NAMES} | {"decoding": "(-[^/]+)?"}),


@cache
def by_names(*keys):
    """The variants that the configuration asks for, by some of their names: the first of those that share them."""
    return {tuple(v.names[key] for key in keys): v for v in reversed(VARIANTS)}


def owner(wildcards):
    """A variant with the names of the wildcards: all such variants agree in the values that the rule reads."""
    names = {key: value for key, value in wildcards.items() if key in NAMES}
    asked_for = by_names(*names).get(tuple(names.values()))
    return asked_for or next(v for v in proposed_so_far() if all(v.names[key] == value for key, value in names.items()))


def all_variants():
    """Those that the configuration asks for, then those that its searches have proposed so far."""
    yield from VARIANTS
    yield from proposed_so_far()


def arguments(*groups):
    """An input function: the words that give a stage these groups."""
    return lambda wildcards: owner(wildcards).arguments(groups)


def settings(*groups):
    """An input function: the values of these groups, so that a change of one runs the rule again."""
    return lambda wildcards: owner(wildcards).settings(groups)


def of_variant(pattern):
    """An input function: `pattern` with the names of the variant of the wildcards."""
    return lambda wildcards: pattern.format(**owner(wildcards).names)


def of_all_variants(pattern):
    """An input function: `pattern` for each variant, those of searches included, each path once."""
    asked_for = [pattern.format(**v.names) for v in VARIANTS]
    return lambda wildcards: list(dict.fromkeys([*asked_for, *(path for one in SEARCHES for path in trial_files(one, pattern))]))


def listed(name):
    """A params function: the files of a named input as a list of Hydra's."""
    return lambda wildcards, input: hydra_value(list(input[name]))


def choices(wildcards):
    """Group to choice as a mapping of Hydra's, for the figures of a variant."""
    variant = owner(wildcards)
    return hydra_value({group: variant.choices[group] for group in variant.groups})


def resolved(wildcards):
    """All values as a mapping of Hydra's: kept with the figures that they gave."""
    variant = owner(wildcards)
    return hydra_value(variant.settings([*variant.groups, FORM, *(["imported"] if variant.imported else [])]))


def language_model(variant):
    """The file of the language model that a variant is decoded with: one that is downloaded, or the user's own."""
    name = variant.config["decode"]["lm"]
    return f"results/language_model/{name}.arpa.gz" if name in language_models else name


def decoding_files(of=owner):
    """An input function: language model and lexicon that a variant is decoded with, or nothing."""

    def find(wildcards):
        variant = of(wildcards)
        decode = variant.config["decode"]
        lexicon = decode["lexicon"] or f"results/lexicon/{variant.tokenizer}/{slug(decode['lm'])}.txt"
        return [language_model(variant), lexicon] if decode["method"] == "lm" else []

    return find


def decoding_arguments(wildcards, input):
    """The words that give a stage these files."""
    return " ".join(quote(f"decode.{key}={path}") for key, path in zip(("lm", "lexicon"), input.decoding))


def decoded_with(lm):
    """A variant that is decoded with the language model of this name in paths."""
    return next(v for v in all_variants() if v.config["decode"]["method"] == "lm" and slug(v.config["decode"]["lm"]) == lm)


def corpus_name(wildcards):
    return owner(wildcards).corpus


def start_weights(wildcards):
    """The weights that a fine-tuning starts from, or nothing."""
    model_dir = owner(wildcards).config["train"]["checkpoint"]
    return str(Path(model_dir, "model.safetensors")) if model_dir else []


def models(imported):
    """A regular expression of the models that are imported, or of those that are trained."""
    return "|".join(sorted({re.escape(v.model) for v in VARIANTS if v.imported == imported})) or "(?!)"


def imported_files(wildcards):
    """What an import reads."""
    imported = owner(wildcards).config["imported"]
    return [imported[key] for key in ("checkpoint", "tokenizer", "statistics", "check") if imported[key]]


def import_arguments(wildcards):
    return owner(wildcards).import_arguments()


def golden_features(wildcards):
    """Speech with its features, or nothing for a model that was imported: its front end is not that of the features step."""
    variant = owner(wildcards)
    return [] if variant.imported else f"results/features/{variant.corpus}/{variant.features}/golden.npz"


def trained_tokenizer(wildcards):
    """SentencePiece's model of a model that was trained here, or nothing."""
    variant = owner(wildcards)
    return [] if variant.imported else f"results/tokenizer/{variant.tokenizer}/tokenizer.model"


def export_arguments(wildcards, input):
    """The words that say what an export writes, and of which files."""
    words = {"formats": owner(wildcards).config["export"]["formats"], "golden": input.golden, "tokenizer_model": input.tokenizer}
    return " ".join(quote(f"{key}={hydra_value(value)}") for key, value in words.items() if value)


def lowered_from(wildcards):
    """What a variant is compiled from: the quantized program on the host, its TOSA graph for an NPU."""
    family = owner(wildcards).family
    folder = Path("results/programs", wildcards.model, wildcards.scheme, family)
    return str(folder / ("quantized.pt2" if family == "host" else "graph.json"))


def integer_graph(wildcards):
    """The TOSA graph of a program for an NPU, or nothing for the host."""
    return [] if wildcards.family == "host" else f"results/programs/{wildcards.model}/{wildcards.scheme}/{wildcards.family}/graph.json"


def program_evaluation(wildcards):
    """The evaluation of a quantized program, or nothing: a float program says what the model says."""
    variant = owner(wildcards)
    return (
        f"results/programs/{variant.model}/{variant.scheme}/{variant.family}/evaluation{variant.decoding}.json"
        if variant.config["quant"]["quantize"]
        else []
    )


def host_evaluation(wildcards):
    """The evaluation of a host variant, or nothing: an NPU's integer graph is evaluated with its program, once for all targets."""
    variant = owner(wildcards)
    folder = f"results/variants/{variant.model}/{variant.scheme}/{variant.target}"
    return f"{folder}/evaluation{variant.decoding}.json" if variant.family == "host" else []


def host_variant(name):
    """An input function: this file of the host variant of a program, or nothing: an NPU's runs here as its integer graph."""

    def find(wildcards):
        variant = owner(wildcards)
        pattern = f"results/variants/{{model}}/{{scheme}}/{{target}}/{name}"
        return pattern.format(**variant.names) if variant.family == "host" else []

    return find


def parity_ladder(wildcards):
    """The parity ladder of the program of a variant, or nothing where it is switched off."""
    variant = owner(wildcards)
    folder = f"results/programs/{variant.model}/{variant.scheme}/{variant.family}"
    return f"{folder}/parity.json" if variant.config["parity"]["enabled"] else []


def published_program(wildcards):
    """The quantized program that quant.from_program names, or nothing."""
    return owner(wildcards).config["quant"]["from_program"] or []


def all_cores(otherwise):
    """The cores that Snakemake was given on this machine; on a cluster, where a job is given fewer than its machine has, `otherwise`."""
    return otherwise if workflow.remote_exec else workflow.resource_settings.cores or otherwise


def cores_of(step):
    """A threads function: those of the processes of a step, or all that are here where it alone uses them."""

    def count(wildcards):
        wanted = resources.threads(step, owner(wildcards).config)
        return all_cores(wanted) if step == "train" or (step == "quantize" and wanted > 1) else wanted

    return count


def with_sizes(input):
    """Input files with their megabytes, of which Snakemake is asked when the first is wanted."""
    yield from zip(map(str, input), input.size_files_mb)


def needs(step):
    """The resources of a step: memory and minutes grow with its input and with each attempt."""

    def asked(wildcards, input, attempt):
        return resources.request(step, owner(wildcards).config, with_sizes(input), attempt)

    return {
        "mem_mb": lambda wildcards, input, attempt: asked(wildcards, input, attempt).mem_mb,
        "runtime": lambda wildcards, input, attempt: asked(wildcards, input, attempt).minutes,
        "gpu": lambda wildcards: resources.gpus(step, owner(wildcards).config),
    }


def check_names():
    """
    Raises:
        WorkflowError: Slurm's plugin would make a folder whose name no file system takes, of all wildcards of a job; it tells nobody, and waits.
    """
    for job in workflow.dag.needrun_jobs():
        name = "_".join(job.wildcards)
        if len(name.encode()) > 255:
            raise WorkflowError(
                f"{name}: {job.rule.name} cannot be sent to Slurm, since names have at most 255 bytes; "
                "write what is overridden to files of your own under conf/ (docs/extending.md) and name these instead"
            )


onstart:
    if workflow.executor_plugin.name == "slurm":
        check_names()
