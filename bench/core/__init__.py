"""What every part of the suite rests on; nothing here imports another part of it."""
