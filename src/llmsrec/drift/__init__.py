"""Whether those whom a version answers are still like those that it was trained on."""
