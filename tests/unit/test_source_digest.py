"""Which source a stage depends on: what it imports, directly or not, and nothing else."""

from __future__ import annotations

import shutil

from earshot import source_digest


def test_a_stage_depends_on_what_it_imports():
    train, tokenizer = set(source_digest.modules("train")), set(source_digest.modules("tokenizer"))
    assert {"earshot.model.attention", "earshot.features", "earshot.stages.train"} <= train
    assert not any(name.startswith("earshot.lower") for name in train)
    assert "earshot.model.attention" not in tokenizer


def test_an_edit_changes_the_digests_that_it_concerns(tmp_path, monkeypatch):
    package = tmp_path / "earshot"
    shutil.copytree(source_digest.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source_digest, "PACKAGE", package)

    def digests() -> dict[str, str]:
        for function in (source_digest.imports, source_digest.modules, source_digest.source_digest):
            function.cache_clear()
        return {stage: source_digest.source_digest(stage) for stage in ("train", "tokenizer", "quantize", "lower")}

    for file, line, concerned in (
        ("model/attention.py", "\nX = 1\n", {"train", "quantize"}),
        ("lower/device/front_end.c", "/* more */\n", {"lower"}),
    ):
        before = digests()
        with open(package / file, "a") as source:
            source.write(line)
        after = digests()
        assert {stage for stage in before if before[stage] != after[stage]} == concerned
    for function in (source_digest.imports, source_digest.modules, source_digest.source_digest):
        function.cache_clear()
