"""Grids of training runs: planned in a folder, run by any number of processes, put into tables."""
