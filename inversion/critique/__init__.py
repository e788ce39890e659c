"""Can a model recover from a wrong step that it is made to go on from, and does one direction carry that?

The recipe of "Decoding the Critique Mechanism in Large Reasoning Models" (arXiv 2603.16331): put one error into a chain
of thought, let the model go on, judge its thinking and its final answer apart, take the mean difference of the residual
stream between recovered and undisturbed answers, classify by it and steer with it. Added here: intervals over problems,
early stopping on problems of its own, controls of the steering, and what token entropy and logit-gradient strength do
at the error and where the model corrects it.
"""

from inversion.critique.cases import Case, read_cases
from inversion.critique.classifier import LayerProbe, auroc, fit_probes
from inversion.critique.experiment import Settings, study
from inversion.critique.judging import Verdict, judge, rates
from inversion.critique.places import correction, place_table
from inversion.critique.steering import steered
from inversion.critique.vectors import answer_means, critique_vectors

__all__ = [
    "Case",
    "LayerProbe",
    "Settings",
    "Verdict",
    "answer_means",
    "auroc",
    "correction",
    "critique_vectors",
    "fit_probes",
    "judge",
    "place_table",
    "rates",
    "read_cases",
    "steered",
    "study",
]
