"""`hatchway doctor`: what is right and wrong with this host, each finding with its fix. It changes nothing."""
