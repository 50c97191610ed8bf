"""Times that a model predicts for the kernels on an A100 and an H100; nothing here was measured."""
