"""Scripts to run, read and copy."""
