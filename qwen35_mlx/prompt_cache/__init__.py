"""Snapshots of a network's cache, stored under the tokens they belong to: in memory and on disk."""
