"""From a configuration to variants: what is to be built, under which names, and with which words each stage is called.

Only Hydra is needed here, no torch: Snakemake imports this module whenever it reads the workflow.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from earshot import assembling, composing
from earshot.config import Imported, NpuForm, Pipeline, check_left_context, check_qat
from earshot.config.search import BUILDING
from earshot.errors import ConfigError
from earshot.hydra_words import hydra_value, readable
from earshot.naming import NEUTRAL_KEYS, imported_name, suffix
from earshot.search.checks import check_search
from earshot.search.proposals import MADE_UP, SEARCHED, Proposal

GROUPS = (
    "corpus",
    "features",
    "tokenizer",
    "model",
    "train",
    "quant",
    "calib",
    "window",
    "target",
    "decode",
    "evaluation",
    "parity",
    "tracking",
    *("budget", "sensitivity", "search"),
)
# Keys of the group `model` that say how a trained model is written down for an NPU: no part of a model's name but of its programs'. Stages
# take them as the group FORM.
FORM, FORM_KEYS = "form", tuple(f.name for f in dataclasses.fields(NpuForm))
# What only a training reads: it says nothing of a model that was imported.
TRAINING_GROUPS = {"tokenizer", "model", "train"}
# What a search is to do says nothing of a variant.
SEARCH_GROUPS = {"sensitivity", "search"}
# What the paths under results/ are made of: the wildcards of the rules.
NAMES = ("corpus", "features", "tokenizer", "model", "scheme", "window", "family", "target", "decoding", "sensitivity", "search")

# Files of a user's own that rules have as inputs, and what Snakemake takes for a wildcard in such a name.
INPUT_FILES = {
    "imported": ("checkpoint", "tokenizer", "statistics", "check"),
    "train": ("checkpoint",),
    "decode": ("lm", "lexicon"),
    "quant": ("from_program",),
}
WILDCARD = re.compile(r"\{\s*\w+\s*(,[^}]*)?\}")


@dataclass(frozen=True)
class Variant:
    """One point of the sweep: the names of what it is built from. Equal names mean the same thing."""

    corpus: str
    features: str
    tokenizer: str
    model: str
    scheme: str
    window: str
    family: str
    target: str
    decoding: str  # empty, or of another decoding than the default one `-` and its name: the ending of what is evaluated with it
    sensitivity: str
    search: str
    calibrated: bool
    choices: Mapping[str, str]
    config: Mapping[str, Any]
    differences: Mapping[str, Mapping[str, Any]]  # by group: what was overridden beyond the choice
    overrides: tuple[str, ...] = field(compare=False)  # the words that it is composed of

    @property
    def id(self) -> str:
        return f"{self.model}/{self.scheme}/{self.target}{self.decoding}"

    @property
    def imported(self) -> bool:
        """Whether the model is a checkpoint that others trained."""
        return self.config["imported"]["checkpoint"] is not None

    @property
    def groups(self) -> list[str]:
        """The groups that apply."""
        left_out = SEARCH_GROUPS | (TRAINING_GROUPS if self.imported else set())
        return [group for group in GROUPS if group not in left_out]

    @property
    def searches(self) -> bool:
        """Whether a better scheme is searched for."""
        return self.config["search"]["method"] in BUILDING

    @property
    def named_groups(self) -> list[str]:
        """The groups that decide what comes out: not every scheme is calibrated."""
        return [group for group in self.groups if group != "calib" or self.calibrated]

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """The components of the paths under results/, by wildcard."""
        return {name: getattr(self, name) for name in NAMES}

    def arguments(self, groups: Iterable[str]) -> str:
        """The words, quoted for the shell, that give a stage these groups of the configuration."""
        words = [f"{group}={self.choices[group]}" for group in groups if group in self.choices]
        words += [f"{group}.{key}={hydra_value(value)}" for group in groups for key, value in self.differences[group].items()]
        return shlex.join(words)

    def import_arguments(self) -> str:
        """The words, quoted for the shell, that give the import its checkpoint, and what the tensors do not say."""
        return shlex.join(f"imported.{key}={hydra_value(value)}" for key, value in self.config["imported"].items() if value is not None)

    def settings(self, groups: Iterable[str]) -> dict[str, Any]:
        """The resolved values of these groups that decide what comes out: when they change, what was built with them is built again."""
        return {group: {k: v for k, v in self.config[group].items() if k not in NEUTRAL_KEYS} for group in groups}


def variants(settings: Mapping[str, Any]) -> list[Variant]:
    """The variants that `snakemake --config` asks for, in the order of the sweep.

    `settings` may hold `experiment`, any group (`model=conformer_s`), `sweep` (text in Hydra's multirun grammar, or a list of such) and
    `overrides` (words such as `train.epochs=3`, for keys with dots, which Snakemake's own --config does not take). With `checkpoint`, a
    file that is imported instead of a training, `tokenizer` is its tokenizer's file.

    Raises:
        ConfigError: an unknown key, choice or type, a scheme that a target cannot take, or two points of one name.
    """
    base = base_overrides(settings)
    try:
        with composing.configuration():
            sweeps = _texts("sweep", settings.get("sweep")) or assembling.composed(base).values["sweep"]
            found = _variants(base, [point for text in sweeps or [""] for point in composing.points(text)])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(readable(error)) from error
    by_id: dict[str, Variant] = {}
    for variant in found:
        other = by_id.setdefault(variant.id, variant)
        differing = [group for group in variant.named_groups if other.config[group] != variant.config[group]]
        if differing:
            raise ConfigError(
                f"sweep: two points are both named {variant.id}; {', '.join(differing)} cannot be swept, run them one after the other"
            )
    return list({(variant.id, variant.search): variant for variant in reversed(found)}.values())[::-1]


def base_overrides(settings: Mapping[str, Any]) -> list[str]:
    """`--config` entries as Hydra overrides."""
    words = []
    for key, value in settings.items():
        if key == "checkpoint" or (key == "tokenizer" and "checkpoint" in settings):
            words.append(f"imported.{key}={hydra_value(str(value))}")
        elif key in (*GROUPS, "experiment"):
            words.append(f"{key}={value}")
        elif key == "overrides":
            words.extend(composing.words_of(key, value) if isinstance(value, str) else _texts(key, value))
        elif key != "sweep":
            known = ", ".join(("experiment", "sweep", "overrides", "checkpoint", *GROUPS))
            raise ConfigError(f"--config {key}={value}: unknown key; use one of {known} (dotted keys: --config overrides='train.epochs=3')")
    return words


def _texts(key: str, value: Any) -> list[str]:
    """The texts that a --config entry gives: one, several, or, where it is empty, none."""
    if value is None or value == "":
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"--config {key}={value}: neither a text of KEY=VALUE words nor a list of such texts")
    return texts


def _variants(first: Sequence[str], points: Sequence[Sequence[str]]) -> list[Variant]:
    """The variants of points that have their first words in common."""
    made = assembling.composed_points(first, points)
    return [_variant(point, (*first, *words)) for point, words in zip(made, points, strict=True)]


def _variant(point: assembling.Point, overrides: tuple[str, ...]) -> Variant:
    if absent := [group for group in GROUPS if group not in point.choices]:
        raise ConfigError(f"{absent[0]}: nothing is chosen; choose one of conf/{absent[0]}/, or leave the word out")
    choices, config = {group: point.choices[group] for group in GROUPS}, point.typed()
    _check_imported(config.imported)
    _check_lexicon(config)
    _check_file_names(config)
    if config.target.family not in config.quant.families:
        possible = ", ".join(composing.targets_of(config.quant.families))
        raise ConfigError(f"quant={choices['quant']} cannot be lowered to target={choices['target']}; targets that can take it: {possible}")
    check_left_context(config.window, config.model, config.quant, config.target.family)
    check_qat(config.window, config.model, config.quant, config.target.family)
    resolved, chosen = point.values, composing.options(choices)
    differences = {group: _difference(chosen[group], resolved[group]) for group in GROUPS}
    unread = differences["decode"].keys() - config.decode.reads
    resolved["decode"] = {**resolved["decode"], **{key: chosen["decode"][key] for key in unread}}
    differences["decode"] = {key: value for key, value in differences["decode"].items() if key not in unread}
    for of_groups in (resolved, differences):
        values, takes_form = of_groups["model"], config.quant.takes_npu_form(config.target.family)
        of_groups["model"] = {key: value for key, value in values.items() if key not in FORM_KEYS}
        of_groups[FORM] = {key: value for key, value in values.items() if key in FORM_KEYS and takes_form}
    names = {group: choices[group] + suffix(differences[group]) for group in GROUPS}
    if differences["quant"].get("scheme", "").startswith(SEARCHED):  # a digest of its parts
        further = {key: value for key, value in differences["quant"].items() if key not in MADE_UP}
        names["quant"] = config.quant.scheme + suffix(further)
    defaults = composing.default_choices(GROUPS)
    if config.imported.checkpoint is None:
        of_model = [names["model"], names["corpus"], *(names[g] for g in ("features", "tokenizer", "train") if names[g] != defaults[g])]
    else:
        of_model = ["imported", imported_name(resolved["imported"]), names["corpus"]]
        of_model += [names["features"]] if names["features"] != defaults["features"] else []
    model = "-".join(of_model)
    of_scheme = [names["quant"], *([names["calib"]] if config.quant.calibrated else []), names["window"]]
    searching = config.search.method != "none"
    if searching:
        check_search(config, choices["quant"], differences["quant"])
    decoding = "" if names["decode"] == defaults["decode"] else f"-{names['decode']}"
    of_tables = "-".join([names["calib"], names["window"]]) + suffix(differences[FORM]) + decoding
    return Variant(
        corpus=names["corpus"],
        features=names["features"],
        tokenizer=f"{names['tokenizer']}-{names['corpus']}",
        model=model,
        scheme="-".join(of_scheme) + suffix(differences[FORM]),
        window=names["window"],
        family=config.target.family,
        target=names["target"],
        decoding=decoding,
        sensitivity=f"{names['sensitivity']}-{of_tables}" if searching else "none",
        search=f"{names['search']}-{names['budget']}-{of_tables}" if searching else "none",
        calibrated=config.quant.calibrated,
        choices=choices,
        config={group: resolved[group] for group in (*GROUPS, FORM, "imported", "export", "experiment_name")},
        differences=differences,
        overrides=overrides,
    )


def proposed(variant: Variant, proposals: Iterable[Proposal]) -> list[Variant]:
    """What a search of `variant` has proposed, as variants of their own."""
    with composing.configuration():
        return _variants(variant.overrides, [_words(one) for one in proposals])


def _words(proposal: Proposal) -> list[str]:
    words = ["search=none", f"quant={proposal.quant}", f"calib={proposal.calib}"]
    if proposal.parts:
        values = {key: getattr(proposal, key) for key in MADE_UP}
        words += [f"quant.{key}={hydra_value(value)}" for key, value in values.items()]
    return words


def _check_imported(imported: Imported) -> None:
    """
    Raises:
        ConfigError: a checkpoint is to be imported (also where an experiment leaves it empty), and a file is not given.
    """
    absent = [f"{key}=FILE" for key in ("checkpoint", "tokenizer") if not getattr(imported, key)]
    if imported.checkpoint is not None and absent:
        raise ConfigError(f"a checkpoint is to be imported, but not all of its files are given; add {' '.join(absent)}")


def _check_lexicon(config: Pipeline) -> None:
    """
    Raises:
        ConfigError: a lexicon is to be made by the tokenizer of a model that others trained.
    """
    if config.decode.method == "lm" and not config.decode.lexicon and config.imported.checkpoint is not None:
        raise ConfigError("decode.lexicon: of an imported model none is made; give one in the model's pieces, decode.lexicon=FILE")


def _check_file_names(config: Pipeline) -> None:
    """
    Raises:
        ConfigError: Snakemake would read a part of a file's name as a wildcard; it knows no way to write that otherwise.
    """
    for group, keys in INPUT_FILES.items():
        for key in keys:
            path = getattr(getattr(config, group), key)
            if path and (wildcard := WILDCARD.search(path)):
                raise ConfigError(f"{group}.{key}={path}: Snakemake takes {wildcard[0]} for a wildcard; give the file under another name")


def _difference(chosen: Mapping[str, Any], actual: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in actual.items() if chosen.get(key) != value}
