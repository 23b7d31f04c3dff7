"""Which d', loss weights and other settings validate best: an Optuna study over keys of params.yaml."""
