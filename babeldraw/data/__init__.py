"""Bytes to batches: sources of records, captions as ids, pictures as arrays, and the pipeline.

Every source is random access and a batch is a function of (seed, step), so the whole state of the
pipeline is one integer and a run goes on exactly, on any number of hosts.
"""
