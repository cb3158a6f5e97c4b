"""Samples of requests with their answers, written where people want them."""
