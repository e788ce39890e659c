"""What trains and compares: single training runs, comparisons of methods over seeds, and lineages from random weights.

Training needs the extra ``train``; :mod:`~inversion.experiments.survey`, which measures only, does not.
Data flows one way: a specification -> :mod:`~inversion.experiments.finetuning` ->
:mod:`~inversion.experiments.comparison` -> :mod:`~inversion.experiments.tables`. :mod:`~inversion.experiments.lineage`
trains a whole series of models from nothing. Importing this package loads neither torch nor TRL.
"""
