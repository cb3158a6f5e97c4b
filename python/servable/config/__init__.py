"""Intent as values: flags and configuration files, read once, frozen."""
