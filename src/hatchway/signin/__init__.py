"""Whether somebody is an operator of this host, by PAM and name services. Knows nothing of Hatchway's own logins."""
