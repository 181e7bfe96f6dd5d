"""The tables, and what each column and each NULL means. `migrations` must produce exactly these (a test compares).

Times are Unix seconds and named `*_at`. Text from containers (names, paths) is data.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

# Migrations name what they change, so no name may be left to the database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# A row means: access to a volume of this instance was enabled at least once. Its key is model.InstanceKey.
instances = Table(
    "instances",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("environment", Text, nullable=False),
    Column("container", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    # Which container of the engine it was when a grant was last made. '': none, or not known.
    Column("runtime_id", Text, nullable=False),
    # When a grant was last made, changed or taken away.
    Column("changed_at", Float, nullable=False),
    # When the catalog last had it, to SEEN_EVERY_S of admin.core; at first when it was made.
    Column("seen_at", Float, nullable=False),
    UniqueConstraint("environment", "container", "number"),
)

# Somebody who has a login of their own, and through it what several instances share with them. What they are called is
# the name of that login.
people = Table(
    "people",
    metadata,
    Column("id", Integer, primary_key=True),
    # For people to read. '': nothing more is known than the login.
    Column("full_name", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

# A name and a uid once given. Rows are never deleted: files on disk and lines in logs name them for good, and whoever
# got a used uid would own what its predecessor left.
logins = Table(
    "logins",
    metadata,
    Column("id", Integer, primary_key=True),
    # The login grammar of model.valid_login.
    Column("name", Text, nullable=False, unique=True),
    # Unsigned 32 bit, which Integer is not on PostgreSQL.
    Column("uid", BigInteger, nullable=False, unique=True),
    # Whose it is: an instance's or a person's. Both NULL: their row is gone; the name and the uid stay taken. Unique:
    # each has one login.
    Column("instance_id", ForeignKey("instances.id", ondelete="SET NULL"), nullable=True, unique=True),
    Column("person_id", ForeignKey("people.id", ondelete="SET NULL"), nullable=True, unique=True),
    Column("created_at", Float, nullable=False),
    # Who may enter by it: registry.records.Conditions. NULL: it does not expire.
    Column("expires_at", Float, nullable=True),
    # Networks in CIDR notation, with a space between two. '': from anywhere.
    Column("allowed_from", Text, nullable=False),
    # NULL: it is not locked.
    Column("locked_at", Float, nullable=True),
    # Why, and by whom; for people to read. '': it is not locked.
    Column("locked_why", Text, nullable=False),
    # NULL: as configured.
    Column("sessions_max", Integer, nullable=True),
    # Keys that the instance keeps in a volume at a path ending in /.ssh are valid.
    Column("volume_keys", Boolean, nullable=False),
)

# A volume of an instance as it was when access to it was last given: model.VolumeInfo. Exists as long as its grants.
# Two at one path: the later came when the other was gone, and there are grants for both.
volumes = Table(
    "volumes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("instance_id", ForeignKey("instances.id", ondelete="CASCADE"), nullable=False),
    # Absolute, inside the container.
    Column("path", Text, nullable=False),
    # VolumeInfo.identity: if the instance shows another one there, grants of this row are not for that volume.
    Column("identity", Text, nullable=False),
    # '': it has no name.
    Column("name", Text, nullable=False),
    # model.VolumeKind.
    Column("kind", Text, nullable=False),
    # '': no driver (a bind, a directory).
    Column("driver", Text, nullable=False),
    # Which directory of the host it is, opaque: see wire.host.Births. '': it has none.
    Column("created", Text, nullable=False),
    # The directory on the host. NULL: there was none (a tmpfs, a volume mounted on demand).
    Column("source", Text, nullable=True),
    UniqueConstraint("instance_id", "path", "identity"),
)

# The instance's login may use the volume: one row for each place where that is said. No row: access is off. At one path
# there is at most one of each origin.
grants = Table(
    "grants",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("volume_id", ForeignKey("volumes.id", ondelete="CASCADE"), nullable=False),
    # model.Origin.
    Column("origin", Text, nullable=False),
    # model.Mode.
    Column("mode", Text, nullable=False),
    # The volume was anonymous, and the grant is for whichever anonymous one the instance has at that path.
    Column("follows", Boolean, nullable=False),
    # model.Ownership. NULL: it says nothing.
    Column("owner", Text, nullable=True),
    Column("umask", Integer, nullable=True),
    # Whom `owner` meant when it was granted, as the host counts. NULL: nobody.
    Column("owner_uid", BigInteger, nullable=True),
    Column("owner_gid", BigInteger, nullable=True),
    # model.Limits, in bytes and files. NULL: it says nothing.
    Column("size", BigInteger, nullable=True),
    Column("files", BigInteger, nullable=True),
    Column("granted_at", Float, nullable=False),
    # Who did it, as the admin socket names its callers, or the rule or label; for people to read.
    Column("granted_by", Text, nullable=False),
    UniqueConstraint("volume_id", "origin"),
)

# A person may use the volume, or one directory of it. At one path of an instance a person has at most one grant.
# Columns that grants have too mean the same.
person_grants = Table(
    "person_grants",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("person_id", ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
    Column("volume_id", ForeignKey("volumes.id", ondelete="CASCADE"), nullable=False),
    # Relative to the volume's root, names with a slash between two. '': all of it.
    Column("folder", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("owner", Text, nullable=True),
    Column("umask", Integer, nullable=True),
    Column("owner_uid", BigInteger, nullable=True),
    Column("owner_gid", BigInteger, nullable=True),
    Column("size", BigInteger, nullable=True),
    Column("files", BigInteger, nullable=True),
    Column("granted_at", Float, nullable=False),
    Column("granted_by", Text, nullable=False),
    UniqueConstraint("person_id", "volume_id"),
)

# The rules of the access files as they were applied last: model.AccessRule.
rules = Table(
    "rules",
    metadata,
    # Their order.
    Column("id", Integer, primary_key=True),
    # Which rule of which file; for people to read.
    Column("place", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("service", Text, nullable=False),
    # NULL: any.
    Column("replica", Integer, nullable=True),
    # A JSON list of texts.
    Column("volumes", Text, nullable=False),
    Column("read_only", Boolean, nullable=False),
    Column("follow", Boolean, nullable=False),
    # model.Ownership. NULL: it says nothing.
    Column("owner", Text, nullable=True),
    Column("umask", Integer, nullable=True),
    # model.Limits, in bytes and files. NULL: it says nothing.
    Column("size", BigInteger, nullable=True),
    Column("files", BigInteger, nullable=True),
)

# What hostd counted last in a volume: wire.host.Usage. Only of volumes there is a grant for, and some seconds old: it
# saves counting all of them after a start.
sizes = Table(
    "sizes",
    metadata,
    Column("id", Integer, primary_key=True),
    # model.Directory.
    Column("source", Text, nullable=False),
    Column("birth", Text, nullable=False),
    # In bytes.
    Column("size", BigInteger, nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("measured_at", Float, nullable=False),
    UniqueConstraint("source", "birth"),
)

# What lets a login in: one generated key, one password, any number of keys that were added. A new key or password is a
# new row, and no row's id is ever used again: sessions name by it what they came in with.
credentials = Table(
    "credentials",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("login_id", ForeignKey("logins.id"), nullable=False),
    # registry.records.CredentialKind.
    Column("kind", Text, nullable=False),
    # A key: a line of authorized_keys without options. A password: its hash (credentials.passwords).
    Column("public", Text, nullable=False),
    # The private key or the password, sealed (credentials.sealing). NULL: it cannot be shown again.
    Column("sealed", LargeBinary, nullable=True),
    # A key: "SHA256:…". NULL: a password, which has none.
    Column("fingerprint", Text, nullable=True),
    # From where it may be used: a list as in from= of sshd(8). '': from anywhere.
    Column("sources", Text, nullable=False),
    # NULL: it does not expire.
    Column("expires_at", Float, nullable=True),
    # Whoever uses it must have been asked by their hardware key (verify-required of sshd(8)).
    Column("verify_required", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("login_id", "fingerprint"),
    sqlite_autoincrement=True,
)

# Where a login's generated private key was put, in a volume of its instance, or is being put.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("login_id", ForeignKey("logins.id"), nullable=False),
    # Of the volume, in the container, and of the directory in it; '': its root.
    Column("path", Text, nullable=False),
    Column("directory", Text, nullable=False),
    # model.Directory of the volume.
    Column("source", Text, nullable=False),
    Column("birth", Text, nullable=False),
    # The SHA-256 of each key that may lie there, hex digits, with a space between two. The last is the latest.
    Column("hashes", Text, nullable=False),
    # It is to be there. Else it is to be taken away, and so is this row.
    Column("wanted", Boolean, nullable=False),
    # The latest lies there, as far as is known.
    Column("done", Boolean, nullable=False),
)

# The volumes of an instance, when the catalog last had it, in which keys may lie that let somebody in by its login. Of
# instances that were never shared as well: they may be.
key_sources = Table(
    "key_sources",
    metadata,
    Column("id", Integer, primary_key=True),
    # model.InstanceKey.
    Column("environment", Text, nullable=False),
    Column("container", Text, nullable=False),
    Column("number", Integer, nullable=False),
    # model.Directory.
    Column("source", Text, nullable=False),
    Column("birth", Text, nullable=False),
    UniqueConstraint("environment", "container", "number", "source", "birth"),
)

# Links that show whoever opens them how to connect to an instance: see admin.share_links.
share_links = Table(
    "share_links",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("instance_id", ForeignKey("instances.id", ondelete="CASCADE"), nullable=False),
    # What it is called, by operators and in the record. It opens nothing.
    Column("name", Text, nullable=False, unique=True),
    # The SHA-256 of its token, hex digits. The token is nowhere.
    Column("digest", Text, nullable=False, unique=True),
    # The hash of a passphrase that is asked for besides. NULL: none is.
    Column("passphrase", Text, nullable=True),
    # For whom; for people to read.
    Column("note", Text, nullable=False),
    Column("made_at", Float, nullable=False),
    # As granted_by of grants.
    Column("made_by", Text, nullable=False),
    Column("expires_at", Float, nullable=False),
    # How often it may be opened, how often it was, and with how many wrong passphrases somebody tried.
    Column("uses_max", Integer, nullable=False),
    Column("uses", Integer, nullable=False),
    Column("wrong", Integer, nullable=False),
    # No row's id is ever used again: who is in by one is known by it.
    sqlite_autoincrement=True,
)

# Keys of a login that were renewed or taken away: an instance cannot bring them back by having them in a volume.
ended_keys = Table(
    "ended_keys",
    metadata,
    Column("login_id", ForeignKey("logins.id"), primary_key=True),
    Column("fingerprint", Text, primary_key=True),
)

# Sessions that are open. One that has ended has no row: that it was there is in the record.
sessions = Table(
    "sessions",
    metadata,
    # Whoever opens the session names it.
    Column("id", Text, primary_key=True),
    Column("login_id", ForeignKey("logins.id"), nullable=False),
    Column("opened_at", Float, nullable=False),
    # The client's, as sshd writes it. '': unknown.
    Column("address", Text, nullable=False),
    # sshd's word for how it came in: 'publickey', 'password', 'keyboard-interactive'.
    Column("method", Text, nullable=False),
    # The key's fingerprint. NULL: no key was used, or it is not known which.
    Column("credential", Text, nullable=True),
    # Which row of credentials it was, perhaps one that is gone. NULL: a key of a volume's, or it is not known.
    Column("credential_id", Integer, nullable=True),
)

# What happened: logins, failures, ends of sessions and every change. Rows are added and, the oldest first, trimmed;
# none is ever changed.
events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    # When it happened; of several that are counted in one row, the first.
    Column("at", Float, nullable=False),
    # model.EventKind.
    Column("kind", Text, nullable=False),
    # The instance's key, or the person's login, which has no slash; and the login. '': none, or none that exists.
    Column("instance", Text, nullable=False),
    Column("login", Text, nullable=False),
    # The client's. '': not known, or there is no client.
    Column("address", Text, nullable=False),
    # Who did it: a session's credential, or who made the change. '': nobody known.
    Column("who", Text, nullable=False),
    # What was done and with what outcome, for people to read.
    Column("what", Text, nullable=False),
    # Whether it was done, or let in.
    Column("done", Boolean, nullable=False),
    # How many of the same this row stands for.
    Column("times", Integer, nullable=False),
    # Bytes that the client of a session that ended has got and sent. NULL: not known, or no session ended.
    Column("read", BigInteger, nullable=True),
    Column("written", BigInteger, nullable=True),
    # How many there are of each instance, and which are its oldest.
    Index(None, "kind", "instance", "id"),
    # Orders those of the same time, and is not used again.
    sqlite_autoincrement=True,
)
