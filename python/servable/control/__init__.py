"""Calls from the network that are questions of intent: which models there should be."""
