"""All requests, each once. The admin socket is root's alone: whoever can mount and kill already rules the host."""

from __future__ import annotations

from hatchway.admin.admission import Admission
from hatchway.admin.auditing import audited
from hatchway.admin.callers import Requests
from hatchway.admin.conditions import ConditionRequests
from hatchway.admin.connecting import Connecting
from hatchway.admin.core import Core
from hatchway.admin.deliveries import Deliveries
from hatchway.admin.finding import Finding
from hatchway.admin.granting import Granting
from hatchway.admin.measuring import Measuring
from hatchway.admin.open_sessions import SessionRequests
from hatchway.admin.operations import Operations
from hatchway.admin.people import PeopleRequests
from hatchway.admin.reconcile import Reconciler
from hatchway.admin.secrets import Secrets
from hatchway.admin.share_links import LinkRequests
from hatchway.admin.statuses import Statuses
from hatchway.admin.volume_keys import VolumeKeys


def table(
    core: Core,
    granting: Granting,
    reconciler: Reconciler,
    measuring: Measuring,
    admission: Admission,
    volume_keys: VolumeKeys,
    deliveries: Deliveries,
) -> Requests:
    """Every request, each told to the record if it changes something."""
    finding = Finding(core)
    conditions = ConditionRequests(core, finding, admission)
    statuses = Statuses(core, reconciler, conditions)
    parts = (
        Operations(core, finding, granting, reconciler, measuring, statuses, deliveries).table(),
        Connecting(core, finding, measuring, statuses, conditions, volume_keys).table(),
        Secrets(core, finding, granting, admission, volume_keys, deliveries).table(),
        conditions.table(),
        PeopleRequests(core, finding, granting, measuring, statuses).table(),
        SessionRequests(core, finding).table(),
        LinkRequests(core, finding).table(),
    )
    rows = {kind: row for part in parts for kind, row in part.items()}
    return audited(rows, core.journal, finding.subject, core.now)
