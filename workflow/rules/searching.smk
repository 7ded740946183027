"""What the rules of searches share: which searches there are, and the variants that they have proposed so far."""

from dataclasses import asdict
from functools import cache

from earshot.composing import option
from earshot.keeping import kept
from earshot.pipeline import proposed
from earshot.search import proposals

SEARCH_ROUND = "results/search/{model}/{search}/{target}/round_{{round}}.json"
METRICS = "results/variants/{model}/{scheme}/{target}/metrics{decoding}.json"

SEARCHES = [variant for variant in VARIANTS if variant.searches]
TABLES = [variant for variant in VARIANTS if variant.search != "none"]


wildcard_constraints:
    round=r"\d+",


def option_values(group, name):
    """The values of an option as its file has them."""
    return kept([group, name], lambda: asdict(option(group, name)))


def searched(wildcards):
    """The variant whose search, or whose sensitivity table, has the names of the wildcards."""
    return next(v for v in TABLES if all(v.names[key] == value for key, value in wildcards.items() if key in v.names))


def of_searched(pattern):
    """An input function: `pattern` with the names of the search of the wildcards."""
    return lambda wildcards: pattern.format(**searched(wildcards).names)


def search_arguments(*groups):
    return lambda wildcards: searched(wildcards).arguments(groups)


def search_settings(*groups):
    return lambda wildcards: searched(wildcards).settings(groups)


def rounds_of(variant):
    """Rounds of a search: that of the uniform schemes, and its own."""
    return variant.config["search"]["rounds"] + 1


@cache
def proposed_in(variant_index, path, changed):
    """The variants of a round; `changed` is when its file was written."""
    search, found = SEARCHES[variant_index], proposals.read(path)
    return kept_variants([search.overrides, [one.content() for one in found]], lambda: proposed(search, found))


def variants_of_round(index, number):
    path = Path(SEARCH_ROUND.format(**SEARCHES[index].names).format(round=number))
    return proposed_in(index, str(path), path.stat().st_mtime_ns) if path.is_file() else []


def proposed_so_far():
    """All variants that searches have proposed, as their files say."""
    return [v for i, search in enumerate(SEARCHES) for number in range(rounds_of(search)) for v in variants_of_round(i, number)]


def trial_files(search, pattern=METRICS, rounds=None):
    """`pattern` for each trial of the first rounds of a search, each path once. Snakemake looks again when a round has been proposed."""
    names, found = {key: search.names[key] for key in ("model", "search", "target")}, []
    for number in range(rounds_of(search) if rounds is None else rounds):
        checkpoints.propose.get(**names, round=number)
        found += [pattern.format(**v.names) for v in variants_of_round(SEARCHES.index(search), number)]
    return list(dict.fromkeys(found))


def round_files(wildcards):
    return [SEARCH_ROUND.format(**searched(wildcards).names).format(round=number) for number in range(rounds_of(searched(wildcards)))]


def search_candidates(wildcards):
    """The candidates, of all rounds but the first."""
    return [] if int(wildcards.round) == 0 else f"results/search/{wildcards.model}/{wildcards.search}/{wildcards.target}/candidates.json"


def search_schemes(wildcards):
    """The schemes that a search mixes, as a mapping of Hydra's."""
    return hydra_value({name: option_values("quant", name) for name in searched(wildcards).config["search"]["schemes"]})


def search_calibrations(wildcards):
    """The calibrations that a search tries, its own first, as a mapping of Hydra's."""
    variant = searched(wildcards)
    others = variant.config["search"]["calibrations"] if variant.config["search"]["method"] == "joint" else []
    own = {variant.choices["calib"]: variant.config["calib"]}
    return hydra_value(own | {name: option_values("calib", name) for name in others if name not in own})


def table_schemes(wildcards):
    """The schemes of a sensitivity table that the family can take and that have static ranges, as a mapping of Hydra's."""
    names = searched(wildcards).config["sensitivity"]["schemes"]
    return hydra_value({name: values for name in names if wildcards.family in (values := option_values("quant", name))["families"]})


def tables():
    """The sensitivity tables that are asked for."""
    pattern = "results/sensitivity/{model}/{sensitivity}/{family}/sensitivity.svg"
    return list(dict.fromkeys(pattern.format(**v.names) for v in TABLES))


def search_results():
    """The results of the searches that are asked for."""
    pattern = "results/search/{model}/{search}/{target}/result.json"
    return list(dict.fromkeys(pattern.format(**v.names) for v in SEARCHES))
