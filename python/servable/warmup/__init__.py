"""Requests that a version answers before it is published: where they lie, how they are sent, where they come from."""
