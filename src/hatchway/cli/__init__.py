"""The command line: one face of the admin socket. It decides nothing and touches no registry, mount or container."""
