"""Random batches hold what data could hold."""

import numpy as np
import pytest

from babeldraw.train.experiment import parse
from babeldraw.train.random_batch import random_batch


@pytest.mark.parametrize(
    ("name", "source", "bounds"),
    [
        ("demo/text_to_image.py", "shapes", {"image": 256, "text": "vocab_size"}),
        ("demo/vim.py", "tokens", {"tokens": "codes", "label": "num_classes"}),
        ("demo/classifier.py", "shape_pairs", {"image": 256, "label": "num_classes"}),
    ],
)
def test_values_are_below_what_there_is_of_them(runlocal, name, source, bounds):
    config = runlocal(name)
    config.data.source = source
    if source == "tokens":
        config.data.path, config.evaluators.samples = "tokens", None
    experiment = parse(config)
    spec = experiment.make_objective().batch_spec()
    batch = random_batch(experiment, spec)
    assert set(batch) == set(spec) == set(bounds)
    for key, bound in bounds.items():
        if bound == "codes":
            (bound,) = experiment.generator.codes.vocab
        elif isinstance(bound, str):
            bound = getattr(experiment, bound)
        values = batch[key]
        assert values.shape == spec[key].shape and values.dtype == spec[key].dtype
        assert 0 <= values.min() <= values.max() < bound
        assert len(np.unique(values)) > 1
        assert key != "text" or values.min() > 0
