"""Hatchway: SFTP access to the volumes of containers, without touching the containers."""

__version__ = "0.1.0"
