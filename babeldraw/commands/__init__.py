"""The commands, one file each: `define(values, argv)` its flags, `run(values)` the exit status."""
