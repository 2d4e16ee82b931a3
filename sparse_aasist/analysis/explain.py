"""Why a model scores a recording as it does: an exact sum over the active dimensions.

The classifier is linear, so score = sum_d h_d (w_bonafide - w_spoof)_d + bias is no approximation.
What the dimensions stand for comes from the analysis of the model on dev.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.analysis.dimension import Shift, Tie, block_of, largest_shift, ties_of
from sparse_aasist.analysis.neighbours import Neighbour, is_unlike, nearest_classes
from sparse_aasist.embeddings import Embeddings, check_finite
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.evaluation.calibration import Calibration, probability

if TYPE_CHECKING:
    from sparse_aasist.models import AASIST


@dataclass(frozen=True)
class ActiveDimension:
    """A dimension that is not zero, and its part in the decision.

    activation: its value h_d.
    contribution: what it adds to the LLR (to the score, where that is not calibrated).
    without: the LLR (or score) with it silenced; nothing moves up into its place.
    ties: classes of dev that it goes with beyond chance; None without an analysis.
    shift: the dev attack whose EER silencing it moves most; None if none, or without an analysis.
    """

    dimension: int
    block: str
    activation: float
    contribution: float
    without: float
    ties: tuple[Tie, ...] | None
    shift: Shift | None


@dataclass(frozen=True)
class Explanation:
    """The decision on one recording, taken apart.

    label: "bona fide" or "spoof".
    score: logit of bona fide less that of spoof, from the model itself.
    calibration: of the score on dev; None when there is none, and with it llr and probability.
    llr: natural-log likelihood ratio, positive speaks for bona fide.
    probability_bonafide: at the prior.
    threshold: of the LLR, or of the score read as if it were one: the Bayes decision at the prior
        with equal costs, -logit(prior).
    offset: the part of the LLR (or score) that is the same for every recording.
    dims: D. dimensions: the active ones, by falling size of their contribution.
    nearest: classes of training, the nearest first, and whether it is unlike all; None without an
        analysis of train.
    notes: what limits the reading.
    """

    label: str
    score: float
    calibration: Calibration | None
    llr: float | None
    prior_bonafide: float
    probability_bonafide: float | None
    threshold: float
    offset: float
    dims: int
    dimensions: tuple[ActiveDimension, ...]
    nearest: tuple[Neighbour, ...] | None
    unlike_training: bool | None
    notes: tuple[str, ...]

    @property
    def decided_on(self) -> float:
        """The LLR, or the score where that is not calibrated."""
        return self.score if self.llr is None else self.llr

    @property
    def sum(self) -> float:
        """Offset and contributions added up, which must be what was decided on."""
        return self.offset + math.fsum(entry.contribution for entry in self.dimensions)

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON, with the sum and how far it is from the model's own."""
        return {**asdict(self), "sum": self.sum, "sum_error": self.sum - self.decided_on}


def explain(
    model: AASIST,
    waveform: NDArray[np.float32],
    *,
    calibration: Calibration | None = None,
    analysis: Mapping[str, Any] | None = None,
    prior_bonafide: float = 0.5,
) -> Explanation:
    """Score one waveform and take the score apart.

    Args:
        model: in evaluation mode, on any device.
        waveform: float32 (samples,) at 16 kHz in [-1, 1]; all of it is heard, so cut or repeat it
            to the length that the model was selected on first (`read_recording`).
        calibration: fitted on dev; by default that of the analysis.
        analysis: of this model, from `read_analysis`; without it dimensions and training classes
            are not named.
        prior_bonafide: share of bona fide recordings where the detector is used, in (0, 1).

    Raises:
        SparseAasistError: the model is in training mode, the waveform does not suit it or its
            embedding is not finite, the analysis is of another width, or the prior is no
            probability.
    """
    import torch

    if model.training:
        raise SparseAasistError("the model is in training mode; call eval() on it first")
    weight, bias = model.out_layer.weight, model.out_layer.bias
    with torch.inference_mode():
        output = model(torch.from_numpy(np.ascontiguousarray(waveform))[None].to(weight.device))
    logits = output.logits[0].cpu().double()
    arrays = (tensor.detach().cpu().numpy() for tensor in (output.embedding, weight, bias))
    return explain_embedding(
        Embeddings(("waveform",), *arrays),
        float(logits[1] - logits[0]),
        calibration=calibration,
        analysis=analysis,
        prior_bonafide=prior_bonafide,
    )


def explain_embedding(
    embeddings: Embeddings,
    score: float,
    *,
    calibration: Calibration | None = None,
    analysis: Mapping[str, Any] | None = None,
    prior_bonafide: float = 0.5,
) -> Explanation:
    """Take the score of one embedding apart; see `explain`.

    Args:
        embeddings: one row, with the head.
        score: that the model gave it.
        calibration, analysis, prior_bonafide: as for `explain`.
    """
    check_finite(embeddings.embeddings, embeddings.names, "the model")
    h = embeddings.embeddings[0].astype(np.float64)
    if analysis is not None:
        _check_width(analysis, h.size)
        if calibration is None and "calibration" in analysis:
            calibration = Calibration.from_dict(analysis["calibration"])
    scale, shift = (calibration.scale, calibration.offset) if calibration else (1.0, 0.0)
    llr = scale * score + shift
    # Checks the prior, whether or not its result may be shown.
    chance = float(probability(llr, prior_bonafide))
    threshold = math.log((1.0 - prior_bonafide) / prior_bonafide)
    nearest = None
    if analysis is not None and analysis.get("train_attacks"):
        nearest = nearest_classes(h, analysis["train_attacks"])
    contributions = scale * h * embeddings.delta
    return Explanation(
        label="bona fide" if llr >= threshold else "spoof",
        score=score,
        calibration=calibration,
        llr=llr if calibration else None,
        prior_bonafide=prior_bonafide,
        probability_bonafide=chance if calibration else None,
        threshold=threshold,
        offset=scale * embeddings.bias + shift,
        dims=h.size,
        dimensions=_active(h, contributions, llr, analysis),
        nearest=nearest,
        unlike_training=nearest and is_unlike(nearest),
        notes=tuple(_notes(calibration, analysis, nearest)),
    )


def _active(
    h: NDArray[np.float64],
    contributions: NDArray[np.float64],
    llr: float,
    analysis: Mapping[str, Any] | None,
) -> tuple[ActiveDimension, ...]:
    active = np.flatnonzero(h)
    order = active[np.argsort(-np.abs(contributions[active]), kind="stable")]
    return tuple(
        ActiveDimension(
            dimension=dimension,
            block=block_of(dimension, h.size),
            activation=float(h[dimension]),
            contribution=float(contributions[dimension]),
            without=llr - float(contributions[dimension]),
            ties=None if analysis is None else ties_of(analysis, dimension),
            shift=None if analysis is None else largest_shift(analysis, dimension),
        )
        for dimension in order.tolist()
    )


def _notes(
    calibration: Calibration | None,
    analysis: Mapping[str, Any] | None,
    nearest: tuple[Neighbour, ...] | None,
) -> list[str]:
    notes = []
    if calibration is None:
        notes.append(
            "not calibrated: the score is compared with the threshold as if it were an LLR, and no "
            "probability is given; analyse the model on a dev set to calibrate it"
        )
    elif calibration.scale == 0.0:
        notes.append(
            "on dev the scores told bona fide from spoof no better than chance, so the LLR is "
            "always 0 and the decision that of the prior"
        )
    if analysis is None:
        notes.append("no analysis of this model: what its dimensions stand for is not known")
    elif nearest is None:
        notes.append("the analysis has no training classes, so none is named as the nearest")
    return notes


def _check_width(analysis: Mapping[str, Any], dims: int) -> None:
    analysed = len(analysis["intervention"]["silenced"])
    if analysed != dims:
        raise SparseAasistError(
            f"the analysis is of a model with {analysed} dimensions, this one has {dims}; analyse "
            "this model"
        )
