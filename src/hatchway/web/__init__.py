"""The web process: pages for whoever is signed in. It has no rights of its own and asks the core for everything."""
