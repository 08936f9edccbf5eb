"""Write ``digits.npz`` from scikit-learn's copy of the digits: ``python -m sample_checkpoints.build_digits``.

Run once; kept as the record of how the file was made. Only this needs scikit-learn, the package does not.
"""

from pathlib import Path

import numpy as np

N_TEST = 360


def split(labels: np.ndarray, n_test: int = N_TEST, seed: int = 0) -> np.ndarray:
    """Return a boolean mask [n], true for training: stratified, with exactly ``n_test`` test images.

    Each class gives its share of ``n_test`` rounded down; the images still missing come from the classes that
    rounding cost most (largest remainder).
    """
    counts = np.bincount(labels)
    share = counts * n_test / len(labels)
    take = np.floor(share).astype(int)
    most_cut = np.argsort(take - share, kind="stable")
    take[most_cut[: n_test - take.sum()]] += 1

    rng = np.random.default_rng(seed)
    train = np.ones(len(labels), dtype=bool)
    for digit, n in enumerate(take):
        train[rng.permutation(np.flatnonzero(labels == digit))[:n]] = False
    return train


def main() -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    np.savez_compressed(
        Path(__file__).with_name("digits.npz"),
        images=source.data.astype(np.uint8),
        labels=source.target.astype(np.uint8),
        train=split(source.target),
    )


if __name__ == "__main__":
    main()
