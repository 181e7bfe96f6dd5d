-- A registry as version 0001 of the tables kept it. Never to be changed: it stands for what is on disks.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE credentials (
	id INTEGER NOT NULL,
	login_id INTEGER NOT NULL,
	kind TEXT NOT NULL,
	public TEXT NOT NULL,
	sealed BLOB,
	fingerprint TEXT,
	created_at FLOAT NOT NULL,
	CONSTRAINT pk_credentials PRIMARY KEY (id),
	CONSTRAINT fk_credentials_login_id_logins FOREIGN KEY(login_id) REFERENCES logins (id),
	CONSTRAINT uq_credentials_login_id_kind UNIQUE (login_id, kind)
);
INSERT INTO "credentials" VALUES(1,1,'password','$argon2id$v=19$m=65536,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g',NULL,NULL,1700000200.0);
INSERT INTO "credentials" VALUES(2,1,'key','ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA shop-web-1',X'010070726976617465','SHA256:example',1700000000.25);
INSERT INTO "credentials" VALUES(3,3,'key','ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA gone-web-1',NULL,'SHA256:example',1600000000.0);
CREATE TABLE grants (
	id INTEGER NOT NULL,
	volume_id INTEGER NOT NULL,
	mode TEXT NOT NULL,
	identity TEXT NOT NULL,
	granted_at FLOAT NOT NULL,
	granted_by TEXT NOT NULL,
	CONSTRAINT pk_grants PRIMARY KEY (id),
	CONSTRAINT fk_grants_volume_id_volumes FOREIGN KEY(volume_id) REFERENCES volumes (id) ON DELETE CASCADE,
	CONSTRAINT uq_grants_volume_id UNIQUE (volume_id)
);
INSERT INTO "grants" VALUES(1,1,'rw','volume:local:shop_data:2024-01-01T00:00:00Z',1700000000.25,'root');
INSERT INTO "grants" VALUES(2,2,'ro','tmpfs:None',1700000100.0,'uid 1000');
CREATE TABLE instances (
	id INTEGER NOT NULL,
	environment TEXT NOT NULL,
	container TEXT NOT NULL,
	number INTEGER NOT NULL,
	created_at FLOAT NOT NULL,
	changed_at FLOAT NOT NULL,
	CONSTRAINT pk_instances PRIMARY KEY (id),
	CONSTRAINT uq_instances_environment_container_number UNIQUE (environment, container, number)
);
INSERT INTO "instances" VALUES(1,'shop','web',1,1700000000.25,1700000100.0);
INSERT INTO "instances" VALUES(2,'shop','db',1,1700000500.0,1700000600.0);
CREATE TABLE logins (
	id INTEGER NOT NULL,
	name TEXT NOT NULL,
	uid BIGINT NOT NULL,
	instance_id INTEGER,
	created_at FLOAT NOT NULL,
	CONSTRAINT pk_logins PRIMARY KEY (id),
	CONSTRAINT fk_logins_instance_id_instances FOREIGN KEY(instance_id) REFERENCES instances (id) ON DELETE SET NULL,
	CONSTRAINT uq_logins_instance_id UNIQUE (instance_id),
	CONSTRAINT uq_logins_name UNIQUE (name),
	CONSTRAINT uq_logins_uid UNIQUE (uid)
);
INSERT INTO "logins" VALUES(1,'shop-web-1',1900100000,1,1700000000.25);
INSERT INTO "logins" VALUES(2,'shop-db-1',1900100001,2,1700000500.0);
INSERT INTO "logins" VALUES(3,'gone-web-1',1900100002,NULL,1600000000.0);
CREATE TABLE sessions (
	id TEXT NOT NULL,
	login_id INTEGER NOT NULL,
	opened_at FLOAT NOT NULL,
	closed_at FLOAT,
	address TEXT NOT NULL,
	method TEXT NOT NULL,
	credential TEXT,
	CONSTRAINT pk_sessions PRIMARY KEY (id),
	CONSTRAINT fk_sessions_login_id_logins FOREIGN KEY(login_id) REFERENCES logins (id)
);
INSERT INTO "sessions" VALUES('s-1',1,1700000100.0,1700000200.0,'192.0.2.7','publickey','SHA256:example');
INSERT INTO "sessions" VALUES('s-2',1,1700000300.0,NULL,'2001:db8::1','password',NULL);
CREATE TABLE volumes (
	id INTEGER NOT NULL,
	instance_id INTEGER NOT NULL,
	path TEXT NOT NULL,
	name TEXT NOT NULL,
	kind TEXT NOT NULL,
	driver TEXT NOT NULL,
	created TEXT NOT NULL,
	source TEXT,
	CONSTRAINT pk_volumes PRIMARY KEY (id),
	CONSTRAINT fk_volumes_instance_id_instances FOREIGN KEY(instance_id) REFERENCES instances (id) ON DELETE CASCADE,
	CONSTRAINT uq_volumes_instance_id_path UNIQUE (instance_id, path)
);
INSERT INTO "volumes" VALUES(1,1,'/data','shop_data','volume','local','2024-01-01T00:00:00Z','/var/lib/docker/volumes/shop_data/_data');
INSERT INTO "volumes" VALUES(2,1,'/tmp/it''s','','tmpfs','','',NULL);
CREATE INDEX ix_sessions_closed_at ON sessions (closed_at);
COMMIT;
