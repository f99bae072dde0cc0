"""Tests; what several of them share is in :mod:`tests.common`."""
