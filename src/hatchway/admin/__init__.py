"""Every operation on grants and credentials, once: resolved, carried out and answered here, for all faces.

Knows registry, credentials and what hostd can be asked; never Docker, mounts or a volume's contents.
"""
