"""What a worker process does: look through recordings, make raw speech, finish clips.

Every function is a pure function of its arguments and of files, writes its results atomically and
skips what is there already: workers can be killed and started again in any order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparse_aasist.corpus import finish
from sparse_aasist.corpus.engines import ENGINES, Audio, Request
from sparse_aasist.corpus.recipe import Clip, NamedClip, stable_seed
from sparse_aasist.corpus.sources import (
    SPEAKERS,
    list_recordings,
    read_recording,
    recording_length_s,
)
from sparse_aasist.data.audio import SAMPLE_RATE_HZ, read_trial_audio
from sparse_aasist.errors import AudioError
from sparse_aasist.files import atomic_path, write_text

# Noisier recordings would be told apart by their noise alone.
MAX_PAUSE_LEVEL_DB = -23.0
RECORDING_BATCH = 40


@dataclass(frozen=True)
class Context:
    """Where a worker finds and leaves things."""

    work: Path
    speech_roots: dict[str, Path]
    engine_root: Path | None

    def raw_path(self, clip: Clip) -> Path:
        return self.work / "raw" / f"{hashlib.sha256(clip.key.encode()).hexdigest()[:24]}.flac"


@dataclass(frozen=True)
class Job:
    """Clips that one engine makes in one go; `name` seeds the engine and names the result."""

    name: str
    engine: str
    clips: tuple[Clip, ...]


def scan_speaker(context: Context, speaker: str, wanted: int) -> list[str]:
    """Return up to `wanted` recordings of a speaker that are long and quiet enough."""
    result = context.work / "scan" / f"{speaker}.json"
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    usable: list[str] = []
    for name in list_recordings(SPEAKERS[speaker], context.speech_roots):
        if len(usable) == wanted:
            break
        if recording_length_s(name, context.speech_roots) < finish.MIN_RAW_S:
            continue
        try:
            recording = read_recording(name, context.speech_roots)
            speech = finish.to_speech(recording, SAMPLE_RATE_HZ)
        except AudioError:
            continue
        long_enough = speech.size >= finish.MIN_RAW_S * SAMPLE_RATE_HZ
        if long_enough and finish.pause_level_db(recording) <= MAX_PAUSE_LEVEL_DB:
            usable.append(name)
    write_text(result, json.dumps(usable))
    return usable


def run_job(context: Context, job: Job) -> dict[str, int]:
    """Make the raw speech of a job's clips; return key -> samples for those that succeeded.

    Raises:
        Exception: whatever the engine raises; the caller leaves its clips out.
    """
    result = context.work / "jobs" / f"{hashlib.sha256(job.name.encode()).hexdigest()[:24]}.json"
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    lengths = {}
    for clip, audio in zip(job.clips, _make(context, job), strict=True):
        if audio is None:
            continue
        try:
            speech = finish.to_speech(*audio)
        except AudioError:
            continue
        if speech.size >= finish.MIN_RAW_S * SAMPLE_RATE_HZ:
            _write_flac(context.raw_path(clip), speech)
            lengths[clip.key] = speech.size
    write_text(result, json.dumps(lengths))
    return lengths


def finish_clips(context: Context, named: Sequence[NamedClip]) -> int:
    """Write the final files of some clips; return how many there are."""
    for item in named:
        if item.path.is_file():
            continue
        speech = read_trial_audio(context.raw_path(item.clip))
        rng = np.random.default_rng(stable_seed(f"finish/{item.clip.key}"))
        _write_flac(item.path, finish.finish_clip(speech, item.length_samples, rng))
    return len(named)


def _make(context: Context, job: Job) -> list[Audio | None]:
    sources = [
        read_recording(clip.source, context.speech_roots) if clip.source else None
        for clip in job.clips
    ]
    if not job.engine:
        return [(source, SAMPLE_RATE_HZ) for source in sources if source is not None]
    requests = []
    for clip, source in zip(job.clips, sources, strict=True):
        speech = finish.to_speech(source, SAMPLE_RATE_HZ) if source is not None else None
        requests.append(Request(clip.seed, clip.voice, clip.language, clip.text, speech))
    return ENGINES[job.engine](context.engine_root).speak(requests, stable_seed(job.name))


def _write_flac(path: Path, waveform: np.ndarray) -> None:
    import soundfile

    with atomic_path(path) as partial:
        soundfile.write(partial, waveform, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
