"""Configurations: plain `ml_collections`, readable without the library."""
