"""Kinds of models: how a folder becomes something that answers requests."""
