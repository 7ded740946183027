"""Training of the Conformer with CTC: the step (`ctc`), what it hears (`perturb`, `augment`), what is kept (`checkpoints`, `callbacks`)."""

from earshot.train.ctc import CtcTraining
from earshot.train.fitting import Fitted, fit
from earshot.train.memory import Memory
from earshot.train.survey import Speech, survey

__all__ = ["CtcTraining", "Fitted", "Memory", "Speech", "fit", "survey"]
