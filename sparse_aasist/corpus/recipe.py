"""What goes where: speakers, attacks and voices of the three partitions.

Kinds are spread so that eval's unseen attacks (phase reconstruction, a neural synthesizer, a phase
vocoder) have no near relative in train; speakers, sentences and voices are disjoint. Every
partition has game dialogue, studio prompts and volunteers, so that eval brings no new kind of
recording.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparse_aasist.corpus.sources import SPEAKERS
from sparse_aasist.corpus.texts import partition_texts

BONAFIDE = "bonafide"
FULL_FACTOR = 3
# Shorter sentences (letters) are spoken together with the next one.
SHORT_TEXT = 44


@dataclass(frozen=True)
class Voice:
    """A synthetic voice: the engine's name for it, its gender and what languages it speaks."""

    name: str
    gender: str
    languages: tuple[str, ...] = ("en",)


@dataclass(frozen=True)
class Attack:
    """`count` spoof clips of one engine; no voices for engines that change a recording."""

    name: str
    engine: str
    count: int
    voices: tuple[Voice, ...] = ()


@dataclass(frozen=True)
class Partition:
    """One of train, dev and eval: bona fide count, its human speakers, its attacks."""

    name: str
    bonafide: int
    speakers: tuple[str, ...]
    attacks: tuple[Attack, ...]

    @property
    def recordings(self) -> int:
        """Recordings needed: bona fide clips and sources of copy synthesis and conversion."""
        return self.bonafide + sum(a.count for a in self.attacks if not a.voices)


@dataclass(frozen=True)
class Clip:
    """One planned clip: `source` is a recording, `text` a sentence; exactly one is given."""

    key: str
    partition: str
    attack: str
    engine: str
    speaker: str
    gender: str
    voice: str = ""
    language: str = ""
    text: str = ""
    source: str = ""

    @property
    def seed(self) -> int:
        """A seed that depends on nothing but the clip's own name."""
        return stable_seed(self.key)


@dataclass(frozen=True)
class NamedClip:
    """A clip that was made: its trial name, its final file and the length to cut it to."""

    name: str
    clip: Clip
    path: Path
    length_samples: int


_MANY = ("en", "cs", "en", "nl", "es", "fr", "it", "ru")


def _espeak(males: str, females: str) -> tuple[Voice, ...]:
    named = [(name, "M") for name in males.split()] + [(name, "F") for name in females.split()]
    return tuple(Voice(name, gender, _MANY) for name, gender in named)


_ESPEAK_TRAIN = _espeak("m1 m3 m5 m7 adam edward klatt2 klatt4", "f1 f3 f5 linda aunty")
_ESPEAK_DEV = _espeak("m2 david", "f2 belinda")
_ESPEAK_EVAL = _espeak("m4 m6 max klatt3", "f4 anika")
_DIPHONE_TRAIN = (
    Voice("kal_diphone", "M"),
    Voice("ked_diphone", "M"),
    Voice("lp_diphone", "F", ("it",)),
    Voice("czech_dita", "F", ("cs",)),
)
_DIPHONE_DEV = (Voice("czech_machac", "M", ("cs",)),)
_DIPHONE_EVAL = (Voice("pc_diphone", "M", ("it",)), Voice("czech_ph", "M", ("cs",)))
_FLITE_TRAIN = (Voice("awb", "M"), Voice("rms", "M"))
_FLITE_EVAL = (Voice("slt", "F"),)
# Czech has a sound this voice lacks.
_JOE = (Voice("joe", "M", ("en", "nl", "en", "es", "fr", "it", "ru")),)
_ONA = (Voice("upc_ca_ona_hts", "F", ("ca",)),)
_HEART = (Voice("heart", "F"),)

LEAN = (
    Partition(
        "train",
        400,
        ("fish_cs_v", "fish_nl_m", "allison", "topal", "stamps_es", "stamps_bg", "stamps_be"),
        (
            Attack("A01", "espeak", 80, _ESPEAK_TRAIN),
            Attack("A02", "festival", 80, _DIPHONE_TRAIN),
            Attack("A03", "world", 80),
            Attack("A04", "piper", 80, _JOE),
            Attack("A05", "flite", 80, _FLITE_TRAIN),
            Attack("A06", "lpc", 80),
        ),
    ),
    Partition(
        "dev",
        100,
        ("fish_nl_v", "wallack", "stamps_el", "stamps_ca"),
        (
            Attack("A01", "espeak", 14, _ESPEAK_DEV),
            Attack("A02", "festival", 12, _DIPHONE_DEV),
            Attack("A03", "world", 14),
            Attack("A06", "lpc", 10),
            Attack("A07", "hts", 25, _ONA),
            Attack("A08", "praat", 25),
        ),
    ),
    # A04 has one voice, which train uses: it has no seen-attack trials by an unseen speaker.
    Partition(
        "eval",
        160,
        ("fish_cs_m", "flora", "stamps_ro", "stamps_ru"),
        (
            Attack("A01", "espeak", 25, _ESPEAK_EVAL),
            Attack("A02", "festival", 25, _DIPHONE_EVAL),
            Attack("A03", "world", 25),
            Attack("A05", "flite", 25, _FLITE_EVAL),
            Attack("A06", "lpc", 25),
            Attack("A09", "griffin_lim", 50),
            Attack("A10", "hibari", 50, _HEART),
            Attack("A11", "rubberband", 50),
        ),
    ),
)


_STYLES = tuple(
    Voice(name, name[1].upper(), ("en", "it", "es", "fr"))
    for name in ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
)
_FULL_EVAL = (Attack("A12", "kokoro", 50, _STYLES), Attack("A13", "mlsa", 50))


def full_recipe() -> tuple[Partition, ...]:
    """Return `--full`: FULL_FACTOR times the clips, one more train speaker, the slow engines."""
    full = []
    for part in LEAN:
        more = _FULL_EVAL if part.name == "eval" else ()
        attacks = tuple(replace(a, count=FULL_FACTOR * a.count) for a in part.attacks + more)
        speakers = part.speakers + (("shmyrev",) if part.name == "train" else ())
        count = FULL_FACTOR * part.bonafide
        full.append(replace(part, bonafide=count, speakers=speakers, attacks=attacks))
    return tuple(full)


def plan_partition(
    part: Partition, recordings: Mapping[str, Sequence[str]], engines: frozenset[str]
) -> list[Clip]:
    """List the clips of a partition; every recording is used once, speakers take turns.

    Args:
        part: partition of the recipe.
        recordings: speaker -> usable recordings, in a fixed order.
        engines: names of the engines that can run here; attacks of others are left out.

    Returns:
        clips; fewer than the recipe asks for where recordings run out.
    """
    queue = _take_turns([[(s, r) for r in recordings.get(s, ())] for s in part.speakers])
    copies = [a for a in part.attacks if not a.voices and a.engine in engines]
    # Bona fide first in each round, sources in proportion, so that a shortage hits all alike.
    wanted = {BONAFIDE: part.bonafide, **{attack.name: attack.count for attack in copies}}
    engine_of = {BONAFIDE: "", **{attack.name: attack.engine for attack in copies}}
    clips = []
    for (speaker, recording), attack in zip(queue, _interleave(wanted), strict=False):
        gender = SPEAKERS[speaker].gender
        key = f"{part.name}/{attack}/{recording}"
        clips.append(
            Clip(key, part.name, attack, engine_of[attack], speaker, gender, source=recording)
        )
    for attack in part.attacks:
        if attack.voices and attack.engine in engines:
            clips += _spoken_clips(part, attack)
    return clips


def stable_seed(name: str) -> int:
    """Return a 63-bit seed from a hash of a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def _spoken_clips(part: Partition, attack: Attack) -> list[Clip]:
    texts = partition_texts(part.name)
    clips = []
    for index in range(attack.count):
        voice = attack.voices[index % len(attack.voices)]
        turn = index // len(attack.voices)
        language = voice.languages[turn % len(voice.languages)]
        # Each voice walks through the sentences in an order of its own.
        order = sorted(texts[language], key=lambda text: stable_seed(f"{voice.name}/{text}"))
        text = order[turn % len(order)]
        if len(text) < SHORT_TEXT:
            text = f"{text} {order[(turn + 1) % len(order)]}"
        key = f"{part.name}/{attack.name}/{voice.name}/{turn:04d}"
        speaker = f"{attack.engine}_{voice.name}"
        clips.append(
            Clip(
                key,
                part.name,
                attack.name,
                attack.engine,
                speaker,
                voice.gender,
                voice.name,
                language,
                text,
            )
        )
    return clips


def _take_turns(lists: Sequence[Sequence[tuple[str, str]]]) -> list[tuple[str, str]]:
    longest = max((len(entries) for entries in lists), default=0)
    return [entries[i] for i in range(longest) for entries in lists if i < len(entries)]


def _interleave(wanted: Mapping[str, int]) -> list[str]:
    slots = [
        ((index + 0.5) / count, order, name)
        for order, (name, count) in enumerate(wanted.items())
        for index in range(count)
    ]
    return [name for _, _, name in sorted(slots)]
