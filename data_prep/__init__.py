"""Getting, verifying, quantizing, randomizing and generating data."""
