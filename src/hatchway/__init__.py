"""Hatchway: SFTP access to the volumes of containers, without touching the containers."""
