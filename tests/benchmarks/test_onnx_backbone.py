"""What the benchmark of ONNX Runtime compares by; that its answers agree is seen where it runs."""

import numpy as np

from benchmarks import onnx_backbone


def test_overlap_is_the_share_of_the_ten_best():
    scores = np.tile(np.arange(20.0), (2, 1))
    other = scores.copy()
    other[1, :3] += 100  # three others are among the best of the second user
    items = np.concatenate([np.zeros((1, 20)), np.eye(20)])  # so that a user's vector is its scores
    assert onnx_backbone.overlap(scores, scores, items) == 1
    assert onnx_backbone.overlap(other, scores, items) == (1 + 0.7) / 2
