"""The recipe: nothing is shared between partitions, everything it names exists."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from sparse_aasist.corpus.engines import ENGINES
from sparse_aasist.corpus.recipe import BONAFIDE, LEAN, Partition, full_recipe, plan_partition
from sparse_aasist.corpus.sources import LICENCES, SPEAKERS
from sparse_aasist.corpus.texts import partition_texts

RECIPES = {"lean": LEAN, "full": full_recipe()}
EVERY_ENGINE = frozenset(ENGINES)


def recordings(part: Partition) -> dict[str, list[str]]:
    return {name: [f"pkg:{name}/{i}" for i in range(2000)] for name in part.speakers}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_speakers_voices_and_sentences_are_disjoint(recipe: tuple[Partition, ...]) -> None:
    plans = [plan_partition(part, recordings(part), EVERY_ENGINE) for part in recipe]
    for first, second in itertools.combinations(plans, 2):
        for field in ("speaker", "source", "text", "key"):
            shared = {getattr(c, field) for c in first} & {getattr(c, field) for c in second}
            assert shared - {""} == set(), field


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recording_is_used_once_and_counts_are_met(recipe: tuple[Partition, ...]) -> None:
    for part in recipe:
        clips = plan_partition(part, recordings(part), EVERY_ENGINE)
        sources = [clip.source for clip in clips if clip.source]
        assert len(sources) == len(set(sources)) == part.recordings
        keys = [clip.key for clip in clips]
        assert len(keys) == len(set(keys))
        counts = Counter(clip.attack for clip in clips)
        wanted = {attack.name: attack.count for attack in part.attacks}
        assert counts == {BONAFIDE: part.bonafide, **wanted}
        assert all(bool(clip.source) != bool(clip.text) for clip in clips)


def test_speakers_take_turns_and_a_shortage_is_filled_by_others() -> None:
    part = LEAN[0]
    available = recordings(part)
    available[part.speakers[0]] = available[part.speakers[0]][:5]
    clips = plan_partition(part, available, EVERY_ENGINE)
    counts = Counter(clip.speaker for clip in clips if clip.source)
    assert counts.pop(part.speakers[0]) == 5
    assert sum(counts.values()) == part.recordings - 5
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_shortage_of_recordings_hits_bonafide_and_copies_alike() -> None:
    part = LEAN[0]
    few = {name: names[:20] for name, names in recordings(part).items()}
    counts = Counter(c.attack for c in plan_partition(part, few, EVERY_ENGINE) if c.source)
    copied = sum(count for name, count in counts.items() if name != BONAFIDE)
    planned = part.recordings - part.bonafide
    assert counts[BONAFIDE] / copied == pytest.approx(part.bonafide / planned, rel=0.1)


def test_an_absent_engine_leaves_its_attack_out_only() -> None:
    part = LEAN[0]
    clips = plan_partition(part, recordings(part), EVERY_ENGINE - {"piper", "world"})
    assert {clip.attack for clip in clips} == {BONAFIDE, "A01", "A02", "A05", "A06"}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_eval_has_unseen_and_seen_attacks_with_one_engine_each(
    recipe: tuple[Partition, ...],
) -> None:
    attacks = {part.name: {a.name for a in part.attacks} for part in recipe}
    assert len(attacks["eval"] - attacks["train"] - attacks["dev"]) >= 3
    assert len(attacks["eval"] & attacks["train"]) >= 4
    pairs = {(a.name, a.engine) for part in recipe for a in part.attacks}
    assert len(pairs) == len({name for name, _ in pairs}) == len({engine for _, engine in pairs})
    assert len(pairs) >= 10
    assert all(engine in ENGINES for _, engine in pairs)


def test_speakers_have_packages_with_licences() -> None:
    used = {name for recipe in RECIPES.values() for part in recipe for name in part.speakers}
    assert used == set(SPEAKERS)
    packages = {package for speaker in SPEAKERS.values() for package in speaker.packages}
    assert packages == set(LICENCES)


def test_sentences_can_be_written_in_the_voices_encodings() -> None:
    encodings = {"it": "latin-1", "ca": "latin-1", "cs": "iso8859-2", "en": "ascii"}
    for partition in ("train", "dev", "eval"):
        for language, sentences in partition_texts(partition).items():
            assert len(sentences) == len(set(sentences))
            for sentence in sentences:
                sentence.encode(encodings.get(language, "utf-8"))
