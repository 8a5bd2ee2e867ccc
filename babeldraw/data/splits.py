"""Which records of an ordered set are for training and which are held out: one in twenty."""

from babeldraw.errors import UserError

SPLITS = ("train", "test", "all")
# One record in this many is held out for evaluation.
TEST_EVERY = 20


def check_split(split: str, what: str) -> None:
    """Raises UserError unless `split` is 'train', 'test' or 'all'; `what` names the data."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is not of {what}; use 'train', 'test', 'all'")


def split_length(total: int, split: str) -> int:
    """How many of `total` records belong to a split."""
    tests = -(-total // TEST_EVERY)
    return {"all": total, "test": tests, "train": total - tests}[split]


def split_position(index: int, split: str) -> int:
    """Index within a split, from 0, to the position among all records."""
    if split == "all":
        return index
    if split == "test":
        return index * TEST_EVERY
    return index + index // (TEST_EVERY - 1) + 1
