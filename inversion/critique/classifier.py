"""A linear classifier of recovered against undisturbed answers, layer by layer."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import bootstrap, mannwhitneyu

from inversion.critique.judging import interval

EPOCHS, PATIENCE, RATE, DECAY = 500, 50, 1e-2, 1e-2


@dataclass(frozen=True)
class LayerProbe:
    """The classifier of one layer, as it did on problems that it was neither trained nor stopped on.

    layer: Layer number.
    auroc: Probability that a recovered answer gets a higher score than the undisturbed one of another problem, ties
        counted half.
    low, high: Its 95 % bootstrap interval over problems.
    paired: Share of problems whose recovered answer gets a higher score than its own undisturbed one.
    paired_low, paired_high: Its 95 % interval, Wilson's.
    validation_loss: Cross-entropy, in nats, at the epoch that was kept.
    epoch: That epoch.
    unrecovered: The same probability for answers that stayed wrong against undisturbed ones to the same problems; NaN
        where there are none. Where it is as high as ``auroc``, the classifier sees the error and not the recovery.
    length: Length of the critique vector over the mean length of what it is the difference of.
    """

    layer: int
    auroc: float
    low: float
    high: float
    paired: float
    paired_low: float
    paired_high: float
    validation_loss: float
    epoch: int
    unrecovered: float
    length: float


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the area under the ROC curve: the Mann-Whitney U over the number of pairs; NaN without either class."""
    if not len(positive) or not len(negative):
        return float("nan")
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def fit_probes(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    unrecovered: tuple[np.ndarray, np.ndarray],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> list[LayerProbe]:
    """Train one classifier for every layer.

    Args:
        train: Recovered and undisturbed answers of the same problems, (pairs, layers, d_model) each.
        validation: The same of other problems, which decide when to stop.
        test: The same of others again, which decide nothing.
        unrecovered: Answers to test problems that stayed wrong, and the undisturbed ones to the same problems.
        resamples: Resamples of the test problems, pairs together.
        seed: Seed of the resampling.
    """
    found = []
    for layer in range(train[0].shape[1]):
        weight, offset, loss, epoch = _fit(
            *(_labelled(*(part[:, layer] for part in pair)) for pair in (train, validation))
        )
        scores = [part[:, layer] @ weight + offset for part in test]
        wins = _across(*scores)
        low, high = _interval(wins, resamples, seed)
        own = int((scores[0] > scores[1]).sum())
        stayed = auroc(*(part[:, layer] @ weight + offset for part in unrecovered))
        recovered, undisturbed = train[0][:, layer], train[1][:, layer]
        length = np.linalg.norm(recovered.mean(0) - undisturbed.mean(0)) / np.linalg.norm(undisturbed, axis=1).mean()
        area, within = float(np.nanmean(wins)), interval(own, len(wins))
        found.append(LayerProbe(layer, area, low, high, own / len(wins), *within, loss, epoch, stayed, float(length)))
    return found


def _labelled(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([positive, negative]), np.repeat([1.0, 0.0], [len(positive), len(negative)])


def _fit(
    train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, float, float, int]:
    """Descend on standardised features and keep the epoch with the lowest validation loss; return weight and offset."""
    centre, spread = train[0].mean(0), train[0].std(0)
    spread = np.where(spread > 0, spread, 1.0)
    x, y, held, truth = (
        torch.from_numpy(array)
        for array in ((train[0] - centre) / spread, train[1], (validation[0] - centre) / spread, validation[1])
    )
    linear = torch.nn.Linear(x.shape[1], 1, dtype=torch.float64)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.AdamW(linear.parameters(), RATE, weight_decay=DECAY)
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    best, kept = (float("inf"), 0), (linear.weight[0].detach().clone(), linear.bias.item())
    for epoch in range(EPOCHS):
        with torch.no_grad():
            loss = loss_of(linear(held)[:, 0], truth).item()
        if loss < best[0]:
            best, kept = (loss, epoch), (linear.weight[0].detach().clone(), linear.bias.item())
        if epoch - best[1] > PATIENCE:
            break
        optimizer.zero_grad()
        with torch.enable_grad():
            loss_of(linear(x)[:, 0], y).backward()
        optimizer.step()
    weight = kept[0].numpy() / spread
    loss, epoch = best
    return weight, kept[1] - float(weight @ centre), loss, epoch


def _across(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Return which positive scores exceed which negative ones, (n, n), ties a half, and NaN on the diagonal.

    The diagonal holds the two answers to one problem, which are far more alike than answers to different ones. A
    resample has twice as many such pairs as the sample, so with them the bootstrap would be biased.
    """
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    np.fill_diagonal(wins, np.nan)
    return wins


def _interval(wins: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Resample problems, both answers of a problem together."""

    def statistic(chosen: np.ndarray, axis: int) -> np.ndarray:
        chosen = np.moveaxis(np.atleast_2d(chosen), axis, -1)  # (resamples, n)
        # A resample that holds one problem only has no pair of different ones, and says nothing.
        with np.errstate(invalid="ignore"):
            drawn = wins[chosen[..., :, None], chosen[..., None, :]]
            known = ~np.isnan(drawn)
            return np.where(known, drawn, 0).sum((-2, -1)) / known.sum((-2, -1))

    if len(wins) < 3:
        return float("nan"), float("nan")
    rng, options = np.random.default_rng(seed), {"n_resamples": resamples, "method": "percentile", "batch": 100}
    found = bootstrap((np.arange(len(wins)),), statistic, vectorized=True, rng=rng, **options).confidence_interval
    return float(found.low), float(found.high)
