"""Attention's values without their mean: the same function, and values that have none any more."""

import pytest
import torch
from trained_model import N_MELS, trained

from earshot.model.npu import to_npu
from earshot.model.npu.attention import NpuSelfAttention
from earshot.model.streaming import Streaming, StreamingConformer
from earshot.quantize.centring import centre_values


def means_of_values(network, inputs) -> list[torch.Tensor]:
    """The mean of each channel of the values of each head, over all frames of `inputs`."""
    seen: dict[torch.nn.Module, list[torch.Tensor]] = {}
    values = [value for module in network.modules() if isinstance(module, NpuSelfAttention) for value in module.values]
    handles = [value.register_forward_hook(lambda value, _given, made: seen.setdefault(value, []).append(made)) for value in values]
    for of_window in inputs:
        network(*of_window)
    for handle in handles:
        handle.remove()
    return [torch.cat(made, dim=3).mean(3) for made in seen.values()]


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("streaming", [None, Streaming(20, 15, left=30)], ids=["window", "cache"])
@torch.no_grad()
def test_values_lose_their_mean_and_the_network_computes_what_it_did(streaming, heads):
    model = trained(heads=heads)
    network = to_npu(model, 83, N_MELS, 2048, streaming=streaming)
    shapes = [(1, 83, N_MELS), *([StreamingConformer(model, streaming).cache_shape] if streaming else [])]
    inputs = [tuple(1 + torch.randn(shape) for shape in shapes) for _ in range(4)]
    before, wanted = means_of_values(network, inputs), [network(*x) for x in inputs]
    centre_values(network, inputs)
    assert all(mean.abs().max() > 0.1 for mean in before), "there is something to subtract"
    assert all(mean.abs().max() < 1e-5 for mean in means_of_values(network, inputs))
    for x, y in zip(inputs, wanted, strict=True):
        torch.testing.assert_close(network(*x), y, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_model_as_it_was_trained_stays_as_it_is():
    model = trained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    centre_values(model, [(torch.randn(1, 83, N_MELS),)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
