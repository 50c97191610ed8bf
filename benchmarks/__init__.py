"""Time and memory of the fused losses against others, on this machine."""
