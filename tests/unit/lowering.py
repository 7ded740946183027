"""Programs that are lowered in a second or two, and what tests of lowering share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_recognizer import PIECES, noise

from earshot.config import Calib, Quant
from earshot.errors import ArtifactError
from earshot.features import FrontEnd
from earshot.files import sha256
from earshot.quantize import program, schemes
from earshot.windows import fit_window

WINDOW = ("window=4s", "window.seconds=2", "window.overlap_s=0.5")


def features(front_end: FrontEnd) -> torch.Tensor:
    return fit_window(front_end(noise(1.7, 11)), front_end, 200)[0]


def sqnr_db(reference: torch.Tensor, other: torch.Tensor) -> float:
    return (10 * torch.log10(reference.square().sum() / (reference - other).square().sum().clamp_min(1e-12))).item()


class Small(torch.nn.Module):
    """A network with the shapes of the tiny Conformer, which is lowered in a second or two."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.hidden, self.out = torch.nn.LayerNorm(320), torch.nn.Linear(320, 16), torch.nn.Linear(16, len(PIECES))

    def forward(self, x_btf: torch.Tensor) -> torch.Tensor:
        x_btd = torch.nn.functional.silu(self.hidden(self.norm(x_btf[:, :196].reshape(1, 49, 320))))
        return self.out(torch.matmul(torch.softmax(torch.matmul(x_btd, x_btd.transpose(1, 2)), dim=-1), x_btd))


def write_small(programs: Path, out: Path, quant: Quant, family: str) -> Path:
    """A program directory of the small network."""
    x = torch.randn(1, 200, 80, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(Small().eval(), (x,), strict=True)
    converted = program.quantize(exported, schemes.quantizer(quant, Calib(), family, exported.graph_module), [(x,)])
    shutil.copytree(programs / "u85", out, ignore=shutil.ignore_patterns("graph.*", "golden_*", "program.json"))
    program.save(program.reexport(converted, (1, 200, 80)), out / program.PROGRAM)
    report = json.loads((out / "quantize.json").read_text())
    changed = {"family": family, "program_sha256": sha256(out / program.PROGRAM)}
    (out / "quantize.json").write_text(json.dumps({**report, **changed}))
    return out


def check_damaged(variant: Path, name: str, opened: Callable[[Path], object], tmp_path: Path) -> None:
    """A variant whose file `name` is damaged in one of several ways is refused by the name of the file."""
    for damage in (lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 64 + b[64:]):
        damaged = tmp_path / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(variant, damaged)
        (damaged / name).write_bytes(damage((variant / name).read_bytes()))
        with pytest.raises(ArtifactError, match=f"{name}: damaged"):
            opened(damaged)
