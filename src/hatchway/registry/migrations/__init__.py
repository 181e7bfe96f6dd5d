"""How the tables came to be: an Alembic environment that `opening` runs, without a configuration file or a log.

A new version is a file in `versions`, named after its number. It runs with foreign keys unchecked, so that a table
can be rebuilt (SQLite cannot change a column in place), and inside the one transaction that `opening` holds: it must
not commit. What it left dangling is found before anything is kept. Each version a release shipped has a dump in the
tests that must still upgrade.
"""
