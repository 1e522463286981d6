"""Images that are the same picture in another size, quality or file format."""

import numpy as np

from chiasma.data.decoding import Decoded

_ALIKE = 0.2
_BLOCK = 512
_BITS_SET = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)


def near_duplicates(decoded: Decoded, *, bits: int) -> list[tuple[int, int]]:
    """Return pairs of images whose perceptual hashes are close and whose colour thumbnails agree.

    The hash (Zauner 2010, pHash by imagehash) sees only coarse shapes in grey; drawings and small scenes collide by the
    thousand. So a pair counts only where the 16 x 16 thumbnails also differ by less than a fifth of their contrast.

    Args:
        decoded: Hashes and thumbnails of ``U`` images.
        bits: Most bits of 64 in which two hashes may differ.
    """
    members = np.flatnonzero(decoded.comparable)
    if len(members) < 2:
        return []
    hashes = decoded.hashes[members]
    thumbnails = decoded.thumbnails[members].reshape(len(members), -1).astype(np.float32)
    found: set[tuple[int, int]] = set()
    # Hashes within b bits agree in at least one of b + 1 bands.
    for band in np.array_split(np.arange(64), bits + 1):
        mask = np.bitwise_or.reduce(np.uint64(1) << band.astype(np.uint64))
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]])
        for bucket in np.split(order, starts[1:]):
            if len(bucket) > 1:
                found.update(_close_pairs(bucket, hashes, thumbnails, bits))
    return sorted((int(members[a]), int(members[b])) for a, b in found)


def _close_pairs(bucket: np.ndarray, hashes: np.ndarray, thumbnails: np.ndarray, bits: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    bucket = np.sort(bucket)
    for start in range(0, len(bucket), _BLOCK):
        some = bucket[start : start + _BLOCK]
        differing = hashes[some][:, None] ^ hashes[bucket][None, :]
        distance = _BITS_SET[differing.view(np.uint8).reshape(*differing.shape, 8)].sum(-1, dtype=np.uint8)
        rows, columns = np.nonzero(distance <= bits)
        first, second = some[rows], bucket[columns]
        ahead = first < second
        pairs += _looking_alike(first[ahead], second[ahead], thumbnails)
    return pairs


def _looking_alike(first: np.ndarray, second: np.ndarray, thumbnails: np.ndarray) -> list[tuple[int, int]]:
    alike: list[tuple[int, int]] = []
    for start in range(0, len(first), _BLOCK):
        a, b = first[start : start + _BLOCK], second[start : start + _BLOCK]
        left, right = thumbnails[a], thumbnails[b]
        difference = np.sqrt(np.mean((left - right) ** 2, axis=1))
        same = difference <= _ALIKE * np.maximum(left.std(1), right.std(1))
        alike += zip(a[same].tolist(), b[same].tolist(), strict=True)
    return alike
