"""Runs: loop, checkpoints, logs, report, evaluation, command line."""
