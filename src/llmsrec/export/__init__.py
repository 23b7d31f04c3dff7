"""From trained models to one bundle that answers without this repository."""
