"""Measure the accuracy, and on the host the speed, of a model, a quantized program or a variant on a split of a corpus."""

from __future__ import annotations

from earshot.config import EvaluateStage
from earshot.evaluate import evaluate
from earshot.stages import stage


@stage("evaluate")
def main(cfg: EvaluateStage) -> None:
    evaluate(cfg)


if __name__ == "__main__":
    main()
