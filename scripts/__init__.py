"""Programs for those who work on fusedml; not installed."""
