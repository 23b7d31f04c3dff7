"""Tracking, ONNX export, bundles and versions; the only room that imports mlflow."""
