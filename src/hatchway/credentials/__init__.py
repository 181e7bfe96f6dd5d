"""How credentials are made, kept and checked: secrets that cannot be printed, sealing, passwords and key pairs.

Nothing here knows logins, instances or the database, and nothing here decides who may enter: `registry` keeps what
these modules make, and `access` asks them whether a password is right. The only file touched is the sealing key.
"""
