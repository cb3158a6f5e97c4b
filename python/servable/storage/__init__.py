"""Where versions lie: folders on this machine, and object stores of which copies are kept on it."""
