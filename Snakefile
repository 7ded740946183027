# From speech to Ethos-U programs: what is to be built is decided by conf/ (see README, `--config experiment=...`), how by the rules below.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/tokenizer.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/quantize.smk"
include: "workflow/rules/lower.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/track.smk"


report: "workflow/report/workflow.rst"


localrules:
    all,


rule all:
    default_target: True
    input:
        "results/report/report.html",
        "results/report/tracked.json",
        "results/report/verdict.json",
