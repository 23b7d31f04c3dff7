"""The process that holds a version: run as a file, with the version's own code, so these files import none of ours.

`main.py` reads frames (`wire.py`), puts requests together (`batcher.py`), and answers; `trial.py` is its self-test.
"""
