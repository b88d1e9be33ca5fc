"""Thin scripts around the library: train, attack, measure, and all of it as a blueprint."""
