"""The file system a session sees of one volume, and the process that serves it.

From the disk up: `ownership` (whose files they are), `nodes` (which object a FUSE node id means), `finder` (that object
again, checked), `handles` (what is open), `tree` (every operation, without FUSE), `adapter` (pyfuse3's view of it,
`serve`), `worker` (the confined process). `names` and `fault` hold what a name is and what an error becomes.

It knows one directory, which it was handed as a descriptor, and neither paths, registry, credentials nor the container
engine. The container is hostile: whatever was true of a name a moment ago may be false now, so everything goes by
descriptor, one component at a time, and nothing found by name is believed before it was checked.
"""
