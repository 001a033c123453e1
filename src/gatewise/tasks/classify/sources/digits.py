"""scikit-learn's digits: 1,797 handwritten digits of 8 × 8 pixels, read as sequences."""

from gatewise.errors import require
from gatewise.tasks.classify.sequences import Sequences


def read(order: str) -> Sequences:
    """The digits, with their numbers as labels.

    Args:
        order: `"rows"`, 8 steps of 8 pixels, or `"pixels"`, 64 steps of 1.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    require("sklearn", extra="classify")
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images if order == "rows" else digits.images.reshape(-1, 64, 1)
    return Sequences(images, digits.target)
