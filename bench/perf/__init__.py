"""Speed, measured: every number is a median of interleaved rounds in one process."""
