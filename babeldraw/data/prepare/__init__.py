"""Pictures and captions, from wherever they lie, to training shards: an Apache Beam pipeline.

`inputs` cut the data into pieces, each read by itself; `examples` turns one raw record into one of
a shard, or says why not; `work` does a piece; `beam` runs all pieces and finds duplicates.
"""
