"""Foreign conventions: a file each."""
