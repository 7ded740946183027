"""CTC beam search by flashlight's decoders, through torchaudio (https://docs.pytorch.org/audio/stable/models.decoder.html).

Without a language model it is prefix beam search: the probabilities of all paths to the same pieces are added up (Graves and Jaitly, 2014;
Hannun et al., 2014, https://arxiv.org/abs/1408.2873). With one, the best path counts, as a sequence of words of a lexicon.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence

import torch
from torchaudio.models.decoder import CTCDecoder, ctc_decoder

from earshot import language_model, lexicon
from earshot.config import Decode
from earshot.decode import BLANK_ID, Found
from earshot.errors import ArtifactError, ConfigError
from earshot.tokenizer import BLANK

# A token that is never likely: the lexicon decoder wants one for silence between words, where ours has the blank.
SILENCE, NEVER = "<silence>", -1e9


def open_search(pieces: Sequence[str], config: Decode) -> Callable[[torch.Tensor], list[Found]]:
    """The search that `config` describes: from log-probabilities [T', V] to what the beam holds at the end, the best first."""
    if config.method == "beam":
        decoder = ctc_decoder(lexicon=None, tokens=list(pieces), sil_token=BLANK, log_add=True, **_options(config))
        return lambda log_probabilities: _found(decoder, log_probabilities, len(pieces))
    decoder = _with_lexicon(pieces, config)

    def search(log_probabilities: torch.Tensor) -> list[Found]:
        merged, lengths = merge_runs(log_probabilities)
        padded = torch.nn.functional.pad(merged, (0, 1), value=NEVER)
        return [_stretched(found, lengths) for found in _found(decoder, padded, len(pieces))]

    return search


def merge_runs(log_probabilities_tv: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Frames [T'', V] in which no piece is the most likely output twice in a row, and how many frames each stands for.

    The lexicon decoder ends a word with a single frame of its last piece, where networks often emit it in two or three, and the next word
    right after it. A run of frames with one most likely piece becomes one frame; an output has there what it has on its best way through
    the run, in consecutive frames with blanks around. All that is lost are ways to say two pieces within such a run.
    """
    rows, lengths, start = [], [], 0
    outputs, counts = torch.unique_consecutive(log_probabilities_tv.argmax(-1), return_counts=True)
    for best, count in zip(outputs.tolist(), counts.tolist(), strict=True):
        run = log_probabilities_tv[start : start + count]
        start += count
        if best == BLANK_ID or count == 1:
            rows.append(run)
            lengths += [1] * count
            continue
        blank = run[:, BLANK_ID : BLANK_ID + 1]
        gain = torch.full_like(run[0], -torch.inf)  # of saying an output up to here, over blanks
        most = gain
        for step in run - blank:
            gain = gain.clamp(min=0) + step
            most = torch.maximum(most, gain)
        rows.append((blank.sum() + most)[None])
        lengths.append(count)
    return torch.cat(rows), lengths


def _stretched(found: Found, lengths: Sequence[int]) -> Found:
    """What was found in merged frames, in the frames that they stand for."""
    path = [output for output, length in zip(found.path, lengths, strict=True) for _ in range(length)]
    ends = list(itertools.accumulate(lengths))
    assert found.completed is not None  # only runs of a search with a lexicon are merged
    return Found(found.score, path, [(ends[frame] - 1, word) for frame, word in found.completed])


def _options(config: Decode) -> dict:
    return {"beam_size": config.beam_size, "beam_threshold": config.beam_threshold, "blank_token": BLANK, "nbest": config.beam_size}


def _with_lexicon(pieces: Sequence[str], config: Decode) -> CTCDecoder:
    assert config.lm  # Decode checks it
    language_model.check(config.lm)
    if not config.lexicon:
        raise ConfigError(
            f"decode.lexicon: decode.lm={config.lm} needs the spelling of its words; make it by python -m earshot.stages.lexicon "
            f"lm={config.lm} tokenizer_model=FILE out=FILE, and add decode.lexicon=FILE"
        )
    lexicon.read(config.lexicon, pieces)
    try:
        decoder = ctc_decoder(
            lexicon=config.lexicon,
            tokens=[*pieces, SILENCE],
            lm=config.lm,
            lm_weight=config.lm_weight,
            word_score=config.word_score,
            sil_token=SILENCE,
            log_add=False,
            **_options(config),
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        remedy = "give an ARPA file (also .gz) or a binary that KenLM's build_binary made of one"
        raise ArtifactError(f"decode.lm={config.lm}: cannot be read as a language model ({reason}); {remedy}") from error
    _check_words(decoder, config)
    return decoder


def _check_words(decoder: CTCDecoder, config: Decode) -> None:
    """
    Raises:
        ConfigError: the language model knows no word of the lexicon.
    """
    lm, names = decoder.lm, decoder.word_dict
    states, unknown = (lm.start(False), lm.start(True)), names.get_index("<unk>")
    of_unknown = [lm.score(state, unknown)[1] for state in states]
    words = [i for i in range(names.index_size()) if i != unknown]
    missing = [i for i in words if [lm.score(state, i)[1] for state in states] == of_unknown]
    if len(missing) == len(words):
        some = f"none of the {len(words)} words of decode.lexicon={config.lexicon} ({names.get_entry(words[0])!r} ...)"
        remedy = "take a lexicon of this language model's words, in its capitals or small letters"
        raise ConfigError(f"decode.lm={config.lm}: knows {some}; {remedy}")
    if missing:
        shown = ", ".join(names.get_entry(i) for i in missing[:5])
        print(f"warning: {config.lm} does not know {len(missing)} of {len(words)} words of {config.lexicon}: {shown}", file=sys.stderr)


def _found(decoder: CTCDecoder, log_probabilities_tv: torch.Tensor, outputs: int) -> list[Found]:
    emissions = log_probabilities_tv.contiguous()
    results = decoder.decoder.decode(emissions.data_ptr(), *emissions.shape)  # torchaudio's own call of it leaves the path out
    found = []
    for result in results:
        path = [BLANK_ID if i >= outputs else i for i in result.tokens[1:-1]]  # before and after the frames stands a silence
        completed = [(frame, decoder.word_dict.get_entry(word)) for frame, word in enumerate(result.words[1:-1]) if word >= 0]
        found.append(Found(result.score, path, completed if outputs < emissions.shape[1] else None))
    return found
