"""What an export writes."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from earshot.config.fields import Checked
from earshot.config.programs import Window
from earshot.errors import ConfigError

FORMATS = ("safetensors", "torchscript", "torch_export", "onnx", "front_end", "from_audio")


@dataclass
class Export(Checked):
    """`front_end` is samples to features, `from_audio` samples to logits, both for ExecuTorch; the others are the network."""

    formats: list[str] = field(default_factory=lambda: list(FORMATS))

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ConfigError(
                f"Export.formats={self.formats}: {unknown[0] if unknown else 'none'} is no format; choose of {', '.join(FORMATS)}"
            )


@dataclass
class ExportModelStage(Checked):
    export: Export = field(default_factory=Export)
    window: Window = field(default_factory=Window)
    model_dir: str = MISSING
    tokenizer_model: str | None = None  # SentencePiece's tokenizer.model, to be put beside the weights: only a further training needs it
    golden: str | None = None  # golden.npz of the features step: speech that the formats are compared on; null: a made-up signal
    out: str = MISSING  # folder
