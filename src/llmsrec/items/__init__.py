"""Items that a registered version never saw: read, given vectors by their titles, and registered as a new version."""
