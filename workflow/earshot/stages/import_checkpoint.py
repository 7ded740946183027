"""A checkpoint that others trained, as a model directory: everything behind training works on it."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

from earshot.config import Features, ImportCheckpointStage
from earshot.errors import ArtifactError, ConfigError
from earshot.features import FrontEnd
from earshot.files import sha256, write_json
from earshot.model import Conformer, checkpoint, portable
from earshot.model.foreign import convert
from earshot.model.foreign.check import compare
from earshot.model.foreign.read import read_tensors
from earshot.model.foreign.vocabulary import in_capitals, outputs, read_vocabulary
from earshot.stages import stage
from earshot.tokenizer import write_pieces


def front_end(features: Features, statistics: str | None) -> FrontEnd:
    """The front end of `features`, normalised by the mean and std of a JSON file (stats.json, front_end.json), or not at all.

    Raises:
        ArtifactError: the file is absent, damaged, of another number of bins, or a front_end.json of another front end.
    """
    if statistics is None:
        return FrontEnd(features, [0.0] * features.n_mels, [1.0] * features.n_mels)
    try:
        content = json.loads(Path(statistics).read_text())
        mean, std = [float(x) for x in content["mean"]], [float(x) for x in content["std"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{statistics}: not a JSON file with mean and std, a number for each mel bin ({error!r})") from error
    if not len(mean) == len(std) == features.n_mels or min(std) <= 0:
        found = f"{len(mean)} means and {len(std)} deviations, the smallest {min(std, default=0):g}"
        raise ArtifactError(f"{statistics}: {found}; expected {features.n_mels} of each, and deviations above 0")
    own = dataclasses.asdict(features)
    theirs = {key: value for key, value in content.get("config", {}).items() if key not in portable.NEUTRAL_KEYS}
    differing = [f"{key}={value}" for key, value in theirs.items() if own.get(key) != value]
    if differing:
        raise ArtifactError(f"{statistics}: of a front end with {', '.join(differing)}; choose the same features")
    return FrontEnd(features, mean, std)


def report(out: Path, implementation: str, source: Path, tokenizer: Path, model: Conformer, difference: float | None) -> None:
    """Write metrics.json."""
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{source}: {implementation}, {parameters / 1e6:.2f}M parameters", flush=True)
    write_json(
        out / "metrics.json",
        {
            "implementation": implementation,
            "checkpoint_sha256": sha256(source),
            "tokenizer_sha256": sha256(tokenizer),
            "parameters": parameters,
            **({"difference_to_original": difference} if difference is not None else {}),
        },
    )


def given(file: str | None, key: str) -> Path:
    """
    Raises:
        ConfigError: it is not given.
    """
    if not file:
        raise ConfigError(f"{key}: no value given; add {key}=FILE")
    return Path(file)


@stage("import_checkpoint", group="imported")
def main(cfg: ImportCheckpointStage) -> None:
    options, out = cfg.imported, Path(cfg.out)
    source, tokenizer = given(options.checkpoint, "checkpoint"), given(options.tokenizer, "tokenizer")
    if portable.is_model_dir(source):
        model = portable.load(source, tokenizer, cfg.features).model
        difference = compare(model, Path(options.check)) if options.check else None
        portable.copy(source.parent, out)
        return report(out, "earshot", source, tokenizer, model, difference)
    pieces, made = read_vocabulary(tokenizer), front_end(cfg.features, options.statistics)
    implementation, config, model = convert(read_tensors(source), source, options, cfg.features.n_mels)
    pieces, order = outputs(pieces, model.output.out_features, options.blank, tokenizer)
    difference = compare(model, Path(options.check)) if options.check else None
    weights = model.state_dict()
    for name in ("output.weight", "output.bias"):
        weights[name] = weights[name][order]
    print(f"{source}: {implementation}: {config}", flush=True)
    if options.statistics is None:
        print("no statistics given: the network takes the features unnormalised (mean 0, std 1)", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        files = Path(temporary, "front_end.json"), Path(temporary, "tokenizer.pieces")
        made.save(files[0])
        write_pieces(files[1], in_capitals(pieces) if options.letter_case == "upper" else pieces)
        checkpoint.save(out, weights, {"model": dataclasses.asdict(config), "imported": dataclasses.asdict(options)}, *files)
    report(out, implementation, source, tokenizer, model, difference)


if __name__ == "__main__":
    main()
