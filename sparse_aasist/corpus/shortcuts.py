"""Does something other than synthesis give the class away? A classifier on eight plain numbers.

Level, offset, silence at the ends, duration and bandwidth must not separate the classes: a
classifier trained on train must stay near chance on dev and eval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_aasist.corpus.finish import FRAME_SAMPLES
from sparse_aasist.data.audio import SAMPLE_RATE_HZ

FEATURES = (
    "rms_db",
    "dc_offset",
    "lead_silence_s",
    "trail_silence_s",
    "duration_s",
    "rolloff85_hz",
    "rolloff95_hz",
    "rolloff99_hz",
)
# Chance is 50 %. Fewer than 30 % is a shortcut whatever the size; with few trials the limit sinks
# to three standard errors below chance, so that luck is not taken for one.
MIN_EER = 0.30
STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class ShortcutResult:
    """EER (fraction) of one shortcut classifier on one partition, and the EER it must not pass."""

    classifier: str
    partition: str
    eer: float
    limit: float


def shortcut_features(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the FEATURES of one clip: waveform (samples,) at 16 kHz -> float64 (8,)."""
    frames = waveform.size // FRAME_SAMPLES
    framed = waveform[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES).astype(np.float64)
    level = 10 * np.log10(np.mean(np.square(framed), axis=1) + 1e-12)
    loud = np.flatnonzero(level > level.max() - 30)
    power = np.mean(np.square(np.abs(np.fft.rfft(framed * np.hanning(FRAME_SAMPLES), axis=1))), 0)
    share = np.cumsum(power) / max(power.sum(), 1e-12)
    bin_hz = SAMPLE_RATE_HZ / FRAME_SAMPLES
    rolloffs = [np.searchsorted(share, part) * bin_hz for part in (0.85, 0.95, 0.99)]
    frame_s = FRAME_SAMPLES / SAMPLE_RATE_HZ
    return np.array(
        [
            10 * np.log10(np.mean(np.square(framed)) + 1e-12),
            waveform.mean(dtype=np.float64),
            loud[0] * frame_s,
            (frames - 1 - loud[-1]) * frame_s,
            waveform.size / SAMPLE_RATE_HZ,
            *rolloffs,
        ]
    )


def check_shortcuts(
    features: Mapping[str, NDArray[np.float64]], labels: Mapping[str, Sequence[int]]
) -> list[ShortcutResult]:
    """Train shortcut classifiers on train and return their EER on dev and eval.

    Args:
        features: partition -> (trials, 8) from `shortcut_features`; "train" must be there.
        labels: partition -> 1 (bona fide) or 0 (spoof) per trial.
    """
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from sparse_aasist.evaluation.metrics import compute_metrics

    classifiers = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "gradient boosting": GradientBoostingClassifier(random_state=0),
    }
    results = []
    for name, classifier in classifiers.items():
        classifier.fit(features["train"], np.asarray(labels["train"]))
        for partition in features:
            if partition == "train":
                continue
            scores = classifier.predict_proba(features[partition])[:, 1]
            # Equal scores would be counted against the classifier: a constant one is at chance.
            constant = np.ptp(scores) == 0
            eer = 0.5 if constant else compute_metrics(scores, np.asarray(labels[partition])).eer
            results.append(ShortcutResult(name, partition, float(eer), _limit(labels[partition])))
    return results


def found_shortcuts(results: Sequence[ShortcutResult]) -> list[ShortcutResult]:
    """Return the results that are clearly better than chance."""
    return [result for result in results if result.eer < result.limit]


def _limit(labels: Sequence[int]) -> float:
    bonafide = int(np.sum(labels))
    spoof = len(labels) - bonafide
    # Both error rates are proportions near 1/2; the EER is their mean.
    standard_error = 0.25 * np.sqrt(1 / bonafide + 1 / spoof)
    return float(min(MIN_EER, 0.5 - STANDARD_ERRORS * standard_error))
