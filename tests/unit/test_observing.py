"""Observing a value once finds the ranges that observing it wherever it goes would find."""

from __future__ import annotations

import torch
from tiny_recognizer import write_model
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from earshot.config import Calib, Quant
from earshot.model import checkpoint
from earshot.model.npu import to_npu
from earshot.quantize import observing, program, schemes

FRAMES = 200


def test_ranges_are_those_of_all_calls(tmp_path):
    recognizer = checkpoint.load(write_model(tmp_path / "model"))
    shape = 1, FRAMES, recognizer.front_end.n_mels
    exported = program.export(to_npu(recognizer.model, FRAMES, shape[2], sram_kib=2048, chunks=2), recognizer.model, shape)
    quantizer = schemes.quantizer(Quant(), Calib(observer="minmax"), "u85", exported.graph_module)
    given = [(torch.randn(shape, generator=torch.Generator().manual_seed(seed)),) for seed in range(3)]
    found = observing.observed(exported, quantizer, given)
    wanted = prepare_pt2e(exported.module(check_guards=False), quantizer)
    with torch.no_grad():
        for x in given:
            wanted(*x)
    calls = {network: network.graph.find_nodes(op="call_module") for network in (found, wanted)}
    assert len(calls[found]) == len(calls[wanted]) > 100
    for one, other in zip(*calls.values(), strict=True):
        numbers = (network.get_submodule(node.target).calculate_qparams() for network, node in ((found, one), (wanted, other)))
        for mine, theirs in zip(*numbers, strict=True):
            assert torch.equal(mine, theirs), one.name
