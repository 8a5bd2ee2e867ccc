"""Measures the input pipeline: pictures per second, stage by stage, beside bare JPEG decoding.

Over the same files, in the same run, in turns: records alone; JPEG files decoded alone; decoded and
cropped alone, as little as any pipeline must do; the whole pipeline, shuffled, captions encoded
where there is a vocabulary, in batches.

Example:
  babeldraw bench input --path=my_shards --image_size=256
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from babeldraw.commands.flags import required
from babeldraw.data.crops import CROPS, check_crop, crop_image, tensorflow
from babeldraw.data.pipeline import PREFETCHED_BATCHES, TrainBatches
from babeldraw.data.shards import ShardSource
from babeldraw.data.text import Vocabulary
from babeldraw.errors import UserError
from babeldraw.say import say

TEXT_LENGTH = 128
SETTLING_SECONDS = 1.0
# TensorFlow keeps more of them ready than it is asked to.
READ_AHEAD_BATCHES = 8
Stage = Callable[[int], Any]


def define(values: flags.FlagValues, argv: list[str]) -> None:
    del argv
    flags.DEFINE_string("path", None, "Shards of `babeldraw prepare`.", flag_values=values)
    flags.DEFINE_integer("image_size", 256, "Side of a crop, in pixels.", flag_values=values)
    flags.DEFINE_enum("crop", "random", CROPS, "How pictures are cut.", flag_values=values)
    flags.DEFINE_integer("batch_size", 64, "Pictures per batch.", flag_values=values)
    flags.DEFINE_integer("num", 2048, "Pictures per measurement.", flag_values=values)
    flags.DEFINE_integer("repeats", 5, "Measurements of each stage.", flag_values=values)
    flags.DEFINE_integer(
        "workers", 0, "Pictures at the same time; 0: one per core.", flag_values=values
    )
    flags.DEFINE_string("vocabulary", "", "Encodes captions by this file.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    path, size = required(values, "path"), (values.image_size, values.image_size)
    for name in ("image_size", "batch_size", "num", "repeats"):
        if values[name].value < 1:
            raise UserError(f"--{name} is {values[name].value}; at least 1 is needed")
    check_crop(values.crop, size)
    source = ShardSource(path, "all")
    workers = values.workers or len(os.sched_getaffinity(0))
    num = values.num // values.batch_size * values.batch_size
    if num > len(source):
        raise UserError(f"--num={values.num} is more than the {len(source)} pictures of {path}")
    batches = TrainBatches(
        source,
        batch_size=values.batch_size,
        image_size=size,
        seed=0,
        vocabulary=Vocabulary(values.vocabulary) if values.vocabulary else None,
        text_length=TEXT_LENGTH if values.vocabulary else 0,
        crop=values.crop,
        workers=workers,
    )
    stages = _stages(source, num, size, values.crop, workers, batches, values.batch_size)
    rates, seconds = _measure(stages, num // values.batch_size, values.batch_size, values.repeats)
    batches.close()
    share = [whole / bare for whole, bare in zip(rates["pipeline"], rates["bare"], strict=True)]
    report = {
        "images_per_second": {name: round(float(np.median(r)), 1) for name, r in rates.items()},
        "pipeline_over_bare": round(float(np.median(share)), 3),
        # Of all cores and threads: what else the machine does changes it little.
        "cpu_ms_per_picture": {
            name: round(1000 * spent / (num * values.repeats), 3) for name, spent in seconds.items()
        },
        "each": {name: [round(rate, 1) for rate in of] for name, of in rates.items()},
        "image_size": values.image_size,
        "crop": values.crop,
        "workers": workers,
        "pictures": num,
    }
    print(json.dumps(report, indent=2))
    return 0


def _stages(
    source: ShardSource,
    num: int,
    size: tuple[int, int],
    crop: str,
    workers: int,
    batches: TrainBatches,
    batch_size: int,
) -> dict[str, Stage]:
    """Each stage as a function that handles so many batches, of `num` pictures."""
    tf = tensorflow()
    # Places as the pipeline has them: here and there.
    places = np.random.default_rng(0).permutation(len(source))[:num]
    files = [source.jpeg(int(index)).jpeg for index in places]
    seeds = tf.data.Dataset.range(num).map(lambda i: tf.stack([tf.constant(0, tf.int64), i]))
    pictures = tf.data.Dataset.from_tensor_slices(files)

    def drain(dataset: Any) -> Stage:
        # Endless and read ahead, as the pipeline is.
        made = dataset.repeat().batch(batch_size).prefetch(PREFETCHED_BATCHES)
        made = made.as_numpy_iterator()
        return lambda count: [next(made) for _ in range(count)]

    def decode(data: Any) -> Any:
        return tf.reduce_max(tf.io.decode_jpeg(data, channels=3))

    def bare(data: Any, seed: Any) -> Any:
        # The least there is to do.
        return crop_image(tf.io.decode_jpeg(data, channels=3), size, crop, seed)

    decoded = pictures.map(decode, num_parallel_calls=workers)
    cropped = tf.data.Dataset.zip(pictures, seeds).map(bare, num_parallel_calls=workers)
    return {
        "records": lambda count: [source.jpeg(int(i)) for i in places[: count * batch_size]],
        "decode": drain(decoded),
        "bare": drain(cropped),
        "pipeline": lambda count: [next(batches) for _ in range(count)],
    }


def _measure(
    stages: dict[str, Stage], count: int, batch_size: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Pictures per second of each turn, and seconds of processors in all, by stage.

    The stages take turns, so that what else the machine does hits all.
    """
    rates: dict[str, list[float]] = {name: [] for name in stages}
    seconds = dict.fromkeys(stages, 0.0)
    for repeat in range(repeats):
        for name, stage in stages.items():
            # What another stage reads ahead is not to be paid by this one, nor what this one has
            # read ahead to be counted.
            time.sleep(SETTLING_SECONDS)
            stage(READ_AHEAD_BATCHES)
            began, spent = time.perf_counter(), time.process_time()
            stage(count)
            rates[name].append(count * batch_size / (time.perf_counter() - began))
            seconds[name] += time.process_time() - spent
        shown = ", ".join(f"{name} {of[-1]:.0f}/s" for name, of in rates.items())
        say(f"bench {repeat + 1}/{repeats}: {shown}")
    return rates, seconds
