"""The recommender that a bundle wraps; imports neither dvc, mlflow nor training."""
