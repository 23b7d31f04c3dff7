"""What stands before a recommender that answers over HTTP; imports neither mlflow nor registry."""
