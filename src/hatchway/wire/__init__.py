"""Frames, peer credentials and request tables of Hatchway's unix sockets."""
