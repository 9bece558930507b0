"""Stores that fail: servers, the proxy before them, and a job that has to come through."""
