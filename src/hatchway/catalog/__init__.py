"""Where instances come from: a container engine and a static file, read and fed to the core one way.

The process `hatchway-catalog` (see `main`) is alone in the engine's group, which is as good as root on the host:
hence it listens on nothing, takes no requests, makes reading calls only, and the blocking `docker` SDK, which only
`docker_engine` knows, stays out of the core. What the core hears is whole snapshots (`wire.feed`), and only data:
names, labels and paths come from containers and are hostile until shown otherwise.

Layers, each of which knows only those after it: `main` wires; `docker_source` and `static_source` follow their
source; `docker_engine` talks to the engine; `feeder` sends; `docker_instances` and `names` are pure.
"""
