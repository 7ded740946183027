"""A trained model on the bench: its network with the precisions of some schemes, and the speech that mixtures are compared on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from torch import nn
from tqdm import tqdm

from earshot import windows
from earshot.config import Calib, NpuForm, Quant
from earshot.config.search import Compared
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.decoders import Decoder
from earshot.model import checkpoint
from earshot.model.npu import to_npu
from earshot.quantize import calibrate, observing, program, schemes, weights
from earshot.quantize.centring import centre_values
from earshot.quantize.mixing import FLOAT, MixedNetwork
from earshot.quantize.probe import Probe, Speech


class Laboratory:
    """What is compared, of the values that a stage is given.

    Raises:
        ArtifactError, DataError: a file is absent or damaged, or speech is missing, silent or in two splits.
    """

    def __init__(self, cfg: Compared) -> None:
        self._cfg = cfg
        self._recognizer = checkpoint.load(cfg.model_dir)
        self._front_end = self._recognizer.front_end
        self._frames = windows.frames_of(cfg.window, self._front_end)
        self.calibration = calibrate.choose(cfg.corpus_dir, cfg.calib)

    def npu_form(self, quant: Quant) -> bool:
        """Whether programs of a scheme are of the NPU form."""
        return self._cfg.form.npu_form and quant.takes_npu_form(self._cfg.family)

    def network(self, quants: Mapping[str, Quant], calib: Calib, name: str) -> MixedNetwork:
        """The network whose operators take the precisions of `quants`, all of one form; observed on the speech that `calib` chooses, and
        with the weights that each is quantized with.

        Floats are a precision of each network, and so need no observers: a scheme that is not quantized is left out.
        """
        quantized = {scheme: quant for scheme, quant in quants.items() if quant.quantize}
        written = self._written(next(iter(quantized.values())))
        shape = (1, self._frames, self._front_end.n_mels)
        exported = program.export(written, self._recognizer.model, shape)
        chosen = calibrate.choose(self._cfg.corpus_dir, calib)
        inputs = list(calibrate.inputs(chosen, self._front_end, self._frames))
        prepared = {}
        for scheme, quant in quantized.items():
            settled = copy.deepcopy(written)
            weights.settle(settled, quant, calib, inputs)
            own = copy.deepcopy(exported)  # its weights are part of what is observed
            program.update(own, settled)
            quantizer = schemes.quantizer(quant, calib, self._cfg.family, own.graph_module)
            bar = tqdm(inputs, desc=f"calibration {scheme}-{name}", unit="utterance", disable=None)
            prepared[scheme] = observing.observed(own, quantizer, bar)
        centre_values(written, inputs)  # as with all schemes: what one operator leaves out, another one adds
        return MixedNetwork(prepared, written.state_dict())

    def _written(self, quant: Quant) -> nn.Module:
        form: NpuForm = self._cfg.form
        if self.npu_form(quant):
            return to_npu(self._recognizer.model, self._frames, self._front_end.n_mels, form.npu_sram_kib, form.npu_chunks)
        return self._recognizer.model.for_window(self._frames)

    def probe(self, network: MixedNetwork, dev_utterances: int) -> Probe:
        """The speech of the comparison, with what the network says of it in floats; `dev_utterances` of it are for the WER."""
        cfg, front_end = self._cfg, self._front_end
        layout = windows.layout(self._frames, cfg.window.overlap_s, front_end, self._recognizer.model.grid)
        loss = [Speech(one.id, calibrate.speech(one, front_end), "") for one in self.calibration[: cfg.sensitivity.utterances]]
        dev = list(self._dev(dev_utterances))
        network.mix(lambda operator: FLOAT)
        return Probe(network, layout, front_end, Decoder(self._recognizer.pieces, cfg.decode), loss, dev)

    def _dev(self, count: int) -> Iterator[Speech]:
        """Utterances of the dev split, evenly over its manifest."""
        path = Path(self._cfg.corpus_dir) / "dev.cuts.jsonl.gz"
        total = sum(1 for _ in load_cuts(path))
        for cut in islice(load_cuts(path), 0, count * max(1, total // count), max(1, total // count)):
            yield Speech(cut.id, self._front_end(read_audio(cut.recording.sources[0].source)), cut.supervisions[0].text)
