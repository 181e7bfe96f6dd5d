"""What Hatchway remembers: instances, their logins, grants, credentials and sessions, in one database.

Knows how to keep things and in which combinations they may exist; decides nothing. Who may do what is `admin`'s
business, who may enter `access`'s, and what containers there are the catalog's. Secrets come here hashed or sealed.
SQLAlchemy is known here only. SQLite keeps it; no statement here is one that PostgreSQL could not run, so that many
hosts can share one registry later: what is SQLite's alone stands in `opening`.
"""
