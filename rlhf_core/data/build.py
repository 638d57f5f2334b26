"""Rebuild the packaged text from the archive it comes from.

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python -m rlhf_core.data.build vaderSentiment-3.3.2.tar.gz

The archive is checked against a hash, and the files that come out are the same to the byte.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import html
import io
import json
import lzma
import tarfile
from pathlib import Path

SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SOURCE_LICENSE = "vaderSentiment-3.3.2/LICENSE.txt"

DATA_DIR = Path(__file__).parent
RATINGS_FILE = DATA_DIR / "movie_ratings.jsonl.xz"
OTHER_TEXTS_FILE = DATA_DIR / "other_texts.jsonl.xz"
LICENSE_FILE = DATA_DIR / "LICENSE.txt"

# file stem in the archive → prefix of its sentences in the pocket model's training text
OTHER_DOMAINS = {"amazonReviewSnippets": "Product:", "nytEditorialSnippets": "Editorial:", "tweets": "Tweet:"}


def read_table(archive: tarfile.TarFile, name: str) -> list[list[str]]:
    """Rows of one tab-separated file of the source, which mixes UTF-8 with and without BOM and Windows-1252."""
    raw = archive.extractfile(f"hutto_ICWSM_2014/{name}.txt").read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252")
    return [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()]


def clean(text: str) -> str:
    """One line of plain text: entities decoded, the source's doubled quotes as quotes, white space single."""
    return " ".join(html.unescape(text).replace("''", '"').split())


def movie_rows(archive: tarfile.TarFile) -> list[dict]:
    """Every movie-review sentence with every rating it got, in the source's order."""
    texts = read_table(archive, "movieReviewSnippets_GroundTruth")
    ratings = read_table(archive, "movieReviewSnippets_anonDataRatings")
    rows = []
    for (text_id, _, text), (ratings_id, _, _, votes) in zip(texts, ratings, strict=True):
        if text_id != ratings_id:
            raise ValueError(f"sentence {text_id} stands against the ratings of sentence {ratings_id}")
        rows.append({"id": int(text_id), "text": clean(text), "ratings": ast.literal_eval(votes)})
    return rows


def other_rows(archive: tarfile.TarFile) -> list[dict]:
    """Sentences of the other domains, for the pocket model's training only."""
    return [
        {"prefix": prefix, "text": clean(row[-1])}
        for stem, prefix in OTHER_DOMAINS.items()
        for row in read_table(archive, f"{stem}_GroundTruth")
    ]


def pack(rows: list[dict]) -> bytes:
    """JSON lines under xz, which carries no timestamp: equal rows give equal bytes."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return lzma.compress(lines.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME)


def unpack(path: Path) -> list[dict]:
    """Rows of a packaged file."""
    return [json.loads(line) for line in lzma.decompress(path.read_bytes()).decode("utf-8").splitlines()]


def build(sdist: Path, output: Path = DATA_DIR) -> None:
    """Write the packaged files and the source's licence into a folder.

    Raises:
        ValueError: the archive is not vaderSentiment 3.3.2's source distribution.
    """
    raw = sdist.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != SDIST_SHA256:
        raise ValueError(
            f"{sdist} is not the source distribution of vaderSentiment 3.3.2: its SHA-256 is {digest}, not {SDIST_SHA256}"
        )
    with tarfile.open(fileobj=io.BytesIO(raw)) as package:
        inner = package.extractfile(INNER_ARCHIVE).read()
        license_text = package.extractfile(SOURCE_LICENSE).read()
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        (output / RATINGS_FILE.name).write_bytes(pack(movie_rows(archive)))
        (output / OTHER_TEXTS_FILE.name).write_bytes(pack(other_rows(archive)))
    (output / LICENSE_FILE.name).write_bytes(license_text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdist", type=Path, help="vaderSentiment-3.3.2.tar.gz")
    build(parser.parse_args().sdist)
