"""A tiny synthetic corpus in ASVspoof5 layout: separable, seeded, made in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from sparse_aasist.data.audio import SAMPLE_RATE_HZ
from sparse_aasist.data.protocol import BONAFIDE, SPLITS, SPOOF, Trial, write_protocol

# The last attack of eval is seen in training, the other is not.
ATTACKS = {"train": ("A01", "A02"), "dev": ("A09", "A10"), "eval": ("A17", "A01")}
SPEAKERS_PER_SPLIT = 3


def make_corpus(
    folder: str | Path, *, trials_per_split: int = 12, seconds: float = 0.5, seed: int = 0
) -> Path:
    """Write protocols and FLAC files of train, dev and eval; return the folder.

    Trials alternate between bona fide (noisy harmonics) and spoof (a pure tone) and go round
    the speakers and attacks of their split; every second trial is a little shorter or longer.

    Args:
        folder: created when it is absent.
        trials_per_split: at least 4, so that every split has both classes and both attacks.
        seconds: nominal length of an utterance.
        seed: of lengths, pitches and noise.
    """
    folder = Path(folder)
    rng = np.random.default_rng(seed)
    for split, (audio_folder, protocol) in SPLITS.items():
        (folder / audio_folder).mkdir(parents=True, exist_ok=True)
        trials = [_trial(split, index) for index in range(trials_per_split)]
        for trial in trials:
            waveform = _waveform(trial, seconds, rng)
            soundfile.write(folder / audio_folder / f"{trial.name}.flac", waveform, SAMPLE_RATE_HZ)
        write_protocol(folder / protocol, trials)
    return folder


def _trial(split: str, index: int) -> Trial:
    letter = split[0].upper()
    bonafide = index % 2 == 0
    attack = "bonafide" if bonafide else ATTACKS[split][(index // 2) % 2]
    return Trial(
        speaker=f"{letter}_{(index // 2) % SPEAKERS_PER_SPLIT:04d}",
        name=f"{letter}_{index:010d}",
        gender="F" if index % 4 < 2 else "M",
        codec="-",
        codec_quality="0" if split == "eval" else "-",
        codec_seed="-",
        attack_tag="-" if bonafide else "AC1",
        attack=attack,
        label=BONAFIDE if bonafide else SPOOF,
    )


def _waveform(trial: Trial, seconds: float, rng: np.random.Generator) -> np.ndarray:
    samples = int(SAMPLE_RATE_HZ * seconds * rng.choice([0.9, 1.0, 1.1]))
    phase = 2 * np.pi * rng.uniform(110, 220) * np.arange(samples) / SAMPLE_RATE_HZ
    if trial.label == SPOOF:
        return 0.2 * np.sin(5 * phase)
    harmonics = sum(np.sin(order * phase) / order for order in range(1, 15))
    return 0.1 * harmonics + 0.02 * rng.standard_normal(samples)
