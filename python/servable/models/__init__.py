"""Which versions should exist, and the work of getting there."""
