"""Kill extractions with SIGKILL at random moments: no finished shard is lost, and nothing in one is encoded again.

    python benchmarks/features_after_kill.py --kills 10

A process encodes images slowly, in shards of eight batches of four, and notes each image that it encodes. It is killed
``--kills`` times at random moments and begun again; after each kill every shard whose key file exists is compared with
what it was before, and the notes with what was finished. The last one runs to its end and is compared with an
extraction that nobody killed.
"""

import argparse
import hashlib
import multiprocessing
import random
import time
from collections import Counter
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from chiasma.data.feature_store import Encoded, FeatureStore, content_hash

BATCH, SHARD = 4, 2


def main() -> None:
    """Print how much was lost, how much was encoded twice, and whether the end is the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chiasma.data.feature_store"])
    with TemporaryDirectory() as folder:
        root = Path(folder)
        files = pictures(root / "pictures", options.images)
        lost = again = kills = 0
        known: dict[str, str] = {}
        for _ in range(options.kills):
            finished = listed(root / "killed", files)
            noted = root / f"noted-{kills}"
            if run(context, root, files, noted, seconds=random.uniform(0.05, 0.8)):
                print(f"it ended after {kills} kills: more --images are needed for {options.kills}")
                break
            kills += 1
            again += len(finished & set(noted.read_text().split() if noted.exists() else ()))
            now = shards(root / "killed")
            lost += sum(now.get(name) != digest for name, digest in known.items())
            known = now
        finished = listed(root / "killed", files)
        last = root / "noted-last"
        assert run(context, root, files, last, seconds=None)
        again += len(finished & set(last.read_text().split() if last.exists() else ()))
        encoded = Counter(word for noted in root.glob("noted-*") for word in noted.read_text().split())
        alike = compared(root, files)
    repeated = sum(count - 1 for count in encoded.values())
    print(f"{kills} kills, {len(known)} shards finished before the last of them")
    print(f"finished shards lost or changed: {lost}; images of finished shards encoded again: {again}")
    print(f"images whose unfinished shard was lost, encoded again: {repeated} (at most {BATCH * SHARD} a kill)")
    print(f"identical with an extraction that nobody killed: {alike}")
    if lost or again or repeated > kills * BATCH * SHARD or not alike:
        raise SystemExit(1)


def pictures(folder: Path, count: int) -> list[Path]:
    """Write files that are all different."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.bin").write_bytes(number.to_bytes(4, "big"))
    return sorted(folder.iterdir())


def run(context: ForkServerContext, root: Path, files: list[Path], noted: Path, *, seconds: float | None) -> bool:
    """Extract in a process of its own, which is killed after so many seconds; return whether it ended by itself."""
    begun = context.Event()
    process = context.Process(target=extract, args=(root / "killed", files, noted, begun))
    process.start()
    begun.wait()
    if seconds is None:
        process.join()
        return process.exitcode == 0
    time.sleep(seconds)
    ended = process.exitcode == 0
    process.kill()
    process.join()
    return ended


def extract(folder: Path, files: list[Path], noted: Path, begun: object) -> None:
    """Encode, and note what is encoded."""
    store = opened(folder)
    begun.set()  # pyright: ignore[reportAttributeAccessIssue]

    def encode(contents: list[bytes]) -> Encoded:
        time.sleep(0.004)
        with open(noted, "a") as file:
            file.write("".join(f"{content_hash(content)} " for content in contents))
        return encoded(contents)

    store.extract(files, encode, prepare=Path.read_bytes, batch_size=BATCH, shard_batches=SHARD)


def encoded(contents: list[bytes]) -> Encoded:
    """Return tokens, masks and boxes that say what they were made of."""
    numbers = np.array([int.from_bytes(content, "big") for content in contents], np.float32)
    tokens = np.tile(numbers[:, None, None], (1, 3, 2))
    boxes = np.tile(numbers[:, None, None] / 1e4, (1, 3, 5))
    return Encoded(tokens, np.tile(numbers[:, None] % 2 == 0, (1, 3)), boxes)


def opened(folder: Path) -> FeatureStore:
    """Return the store, as it is on the disk."""
    return FeatureStore(folder, encoder="e", weights="w", preprocessing="p")


def listed(folder: Path, files: list[Path]) -> set[str]:
    """Return the hashes of what finished shards hold."""
    missing = set(opened(folder).missing(files))
    return {content_hash(file) for place, file in enumerate(files) if place not in missing}


def shards(folder: Path) -> dict[str, str]:
    """Return a hash of each file of each finished shard."""
    found: dict[str, str] = {}
    for keys in opened(folder).folder.glob("shard-*.json"):
        for file in keys.parent.glob(f"{keys.stem}*"):
            found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def compared(root: Path, files: list[Path]) -> bool:
    """Return whether the tokens are those of one undisturbed extraction."""
    whole = opened(root / "whole")
    whole.extract(files, encoded, prepare=Path.read_bytes)
    ids = [file.name for file in files]
    one, other = opened(root / "killed").features(files, ids), whole.features(files, ids)
    parts = [(one.tokens, other.tokens), (one.mask, other.mask), (one.boxes, other.boxes)]
    return all(a is not None and b is not None and np.array_equal(a, b) for a, b in parts)


if __name__ == "__main__":
    main()
