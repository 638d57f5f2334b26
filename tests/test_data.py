"""The packaged data against facts: content, parts, agreement of its raters, rebuilding."""

from __future__ import annotations

import doctest
import io
import os
import random
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from rlhf_core import supervised
from rlhf_core.data import build, ratings
from rlhf_core.preferences import rater_agreement

SDIST = "vaderSentiment-3.3.2.tar.gz"
DOWNLOAD_SECONDS = 30


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that the data come from."""
    if given := os.environ.get("RLHF_VADER_SDIST"):
        assert Path(given).is_file(), f"RLHF_VADER_SDIST names {given}, which is no file"
        return Path(given)
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--retries", "0", "--dest", str(folder), "vaderSentiment==3.3.2"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=DOWNLOAD_SECONDS)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"no source archive: RLHF_VADER_SDIST is not set and pip could not download it ({error})")
    return folder / SDIST


@pytest.fixture(scope="module")
def source(sdist: Path) -> dict[str, str]:
    """The movie files of the archive, by name."""
    with tarfile.open(sdist) as package:
        inner = package.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz").read()
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        names = ("movieReviewSnippets_GroundTruth", "movieReviewSnippets_anonDataRatings")
        raw = {name: archive.extractfile(f"hutto_ICWSM_2014/{name}.txt").read() for name in names}
    return {name: content.decode("utf-8-sig", errors="replace") for name, content in raw.items()}


def test_every_sentence_has_15_to_29_whole_ratings_from_minus_4_to_4():
    rows = ratings.rated_sentences()
    assert [row["id"] for row in rows] == list(range(1, 10_606))
    assert {len(row["ratings"]) for row in rows} == set(range(15, 30))
    values = Counter(rating for row in rows for rating in row["ratings"])
    assert set(values) == set(range(-4, 5)) and all(type(value) is int for value in values)
    assert sum(values.values()) == 198_810


def test_texts_are_clean_single_lines():
    other = build.unpack(build.OTHER_TEXTS_FILE)
    assert Counter(row["prefix"] for row in other) == {"Editorial:": 5190, "Tweet:": 4200, "Product:": 3708}
    for row in [*ratings.rated_sentences(), *other]:
        assert row["text"] and row["text"] == " ".join(row["text"].split())
        assert "\ufffd" not in row["text"] and "''" not in row["text"]


def test_known_sentence():
    row = ratings.rated_sentences()[1]
    assert row["text"].startswith('The gorgeously elaborate continuation of "The Lord of the Rings" trilogy is so huge')
    assert row["ratings"] == [4, 4, 2, 4, 3, 4, 4, 3, 4, 2, 4, 4, 4, 3, 4]
    assert row["mean_rating"] == pytest.approx(53 / 15)


def test_mean_ratings_are_the_sources_own(source: dict[str, str]):
    for name, text in source.items():
        lines = [line.split("\t") for line in text.splitlines() if line.strip()]
        assert len(lines) == 10_605
        for row, (number, mean, *_) in zip(ratings.rated_sentences(), lines, strict=True):
            assert row["id"] == int(number)
            assert row["mean_rating"] == pytest.approx(float(mean), abs=1e-8), f"sentence {number} in {name}"


def test_rebuilding_gives_the_same_bytes(sdist: Path, tmp_path: Path):
    build.build(sdist, tmp_path)
    for packaged in (build.RATINGS_FILE, build.OTHER_TEXTS_FILE, build.LICENSE_FILE):
        assert (tmp_path / packaged.name).read_bytes() == packaged.read_bytes(), packaged.name


def test_another_archive_is_refused_and_nothing_written(tmp_path: Path):
    other = tmp_path / SDIST
    with tarfile.open(other, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("vaderSentiment-3.3.2/LICENSE.txt"), io.BytesIO())
    output = tmp_path / "output"
    output.mkdir()
    with pytest.raises(ValueError, match="is not the source distribution of vaderSentiment 3.3.2"):
        build.build(other, output)
    assert not list(output.iterdir())


def test_licence_is_packaged():
    text = build.LICENSE_FILE.read_text(encoding="utf-8")
    assert "The MIT License" in text and "Copyright (c) 2016 C.J. Hutto" in text


def test_parts_are_disjoint_by_text_and_of_known_size():
    texts = {split: {row["text"] for row in ratings.sentences_of(split)} for split in ratings.SPLITS}
    assert {split: len(ratings.sentences_of(split)) for split in ratings.SPLITS} == {
        "reward": 4999,
        "judge": 4013,
        "test": 1593,
    }
    assert not texts["reward"] & texts["judge"] and not texts["test"] & (texts["reward"] | texts["judge"])
    assert len(set.union(*texts.values())) == 10_603  # two sentences occur twice


def test_part_depends_on_the_text_alone():
    rows = list(ratings.rated_sentences())
    some = random.Random(0).sample(rows, 500)
    assert ratings.split_names([row["text"] for row in some]) == [row["split"] for row in some]


def test_unknown_part_is_refused():
    with pytest.raises(ValueError, match="split must be one of reward, judge, test, got 'train'"):
        ratings.sentences_of("train")


def test_single_rater_agrees_with_the_others_on_0_887_of_random_pairs():
    rows = ratings.rated_sentences()
    pairs = ratings.random_pairs(len(rows), 20_000, seed=1)
    assert rater_agreement(ratings.rating_matrix(rows), pairs) == pytest.approx(0.887, abs=0.003)


def test_matrix_holds_every_rating_and_nothing_else():
    rows = ratings.rated_sentences()[:300]
    matrix = ratings.rating_matrix(rows)
    assert (~matrix.isnan()).sum(1).tolist() == [len(row["ratings"]) for row in rows]
    assert torch.allclose(matrix.nanmean(1), torch.tensor([row["mean_rating"] for row in rows]))


def test_data_set_of_all_ratings():
    data = ratings.load_ratings()
    assert data.column_names == ["id", "text", "ratings", "mean_rating", "split"]
    assert data[4] == ratings.rated_sentences()[4]


def test_random_pairs_are_of_two_different_items_and_cover_them():
    pairs = ratings.random_pairs(7, 2000, seed=3)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert len({tuple(pair) for pair in pairs.tolist()}) == 7 * 6


@pytest.mark.parametrize("split", ratings.SPLITS)
def test_rating_pairs_prefer_the_better_rated_sentence(split: str):
    means = {}
    for row in ratings.sentences_of(split):
        means.setdefault(" " + row["text"], set()).add(row["mean_rating"])
    pairs = ratings.rating_pairs(split, 300, seed=5, min_gap=0.5)
    assert 200 < len(pairs) < 300  # those within the gap are left out
    for pair in pairs:
        assert pair["prompt"] == "Review:"
        assert pair["chosen_rating"] in means[pair["chosen"]] and pair["rejected_rating"] in means[pair["rejected"]]
        assert pair["chosen_rating"] - pair["rejected_rating"] > 0.5


def test_rating_pairs_repeat_with_the_seed_and_change_with_it():
    first, again, other = (ratings.rating_pairs("judge", 50, seed=seed)["chosen"] for seed in (1, 1, 2))
    assert list(first) == list(again) != list(other)


def test_openings_begin_sentences_of_their_part():
    prompts = ratings.opening_prompts("test", num_words=4, num_prompts=100, seed=2)
    assert len(prompts) == len(set(prompts)) == 100
    texts = [row["text"].split() for row in ratings.sentences_of("test")]
    beginnings = {" ".join(words[:4]) for words in texts if len(words) >= 8}
    assert {prompt.removeprefix("Review: ") for prompt in prompts} <= beginnings
    assert prompts != ratings.opening_prompts("test", num_words=4, num_prompts=100, seed=3)


def test_every_figure_of_the_data_card_is_what_its_command_measures():
    card = build.DATA_DIR / "README.md"
    result = doctest.testfile(str(card), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted >= 25 and result.failed == 0


def test_broken_copies_are_of_the_best_and_rank_below_all_real_ones(monkeypatch):
    monkeypatch.setattr(supervised, "scramble", lambda text, vocabulary, generator: text + " again")
    texts, order = [" a b", " c d", " e f", " g h", " i j"], [3, 0, 4, 1, 2]  # the best first
    pairs = torch.tensor([(order[i], order[j]) for i in range(5) for j in range(i + 1, 5)])
    config = supervised.RewardConfig(broken_copies=0.4)
    found, ranked = supervised.with_broken_copies(texts, pairs, config, torch.Generator())
    assert found == [*texts, " g h again", " a b again"]
    assert torch.equal(ranked[: len(pairs)], pairs)
    below = {(real, broken) for real in range(5) for broken in (5, 6)}
    assert len(ranked) == len(pairs) + 10 and set(map(tuple, ranked[len(pairs) :].tolist())) == below
