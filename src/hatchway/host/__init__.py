"""hatchway-hostd, the privileged half: mounts, workers, user records, sessions.

It knows nothing of registry, credentials or the container engine, and checks whatever the core asks: see `policy`.
"""
