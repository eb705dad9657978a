"""The store on SQLAlchemy: SQLite by default, PostgreSQL by URL."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, insert, select, text, update

from efficientquant_controller.errors import NameTakenError, NotFoundError, StaleSessionError
from efficientquant_controller.model import (
    Artifact,
    Build,
    Campaign,
    CampaignState,
    Device,
    DeviceSnapshot,
    Event,
    Job,
    Run,
)
from efficientquant_controller.store import records, tables
from efficientquant_controller.store.comparisons import compare_again
from efficientquant_controller.store.controller_lease import ControllerLease
from efficientquant_controller.store.opening import open_engine
from efficientquant_controller.store.sql_decisions import SqlDecisions
from efficientquant_controller.store.transactions import Transaction, Transactions


def open_store(target: str | Path, read_only: bool = False, lease: ControllerLease | None = None) -> "SqlStore":
    """Open a results database by path or SQLAlchemy URL.

    The database is created or migrated unless `read_only`. With `lease` no other controller can serve it until `close`.
    Raises StoreError when it cannot be used, StoreVersionError when another version wrote it, and LeaseHeldError when
    another controller has the lease.
    """
    transactions = Transactions(open_engine(target, read_only, lease), read_only, lease)
    with ExitStack() as undo:
        undo.callback(transactions.close)
        if not read_only:
            compare_again(transactions)
        undo.pop_all()
    return SqlStore(transactions)


class SqlStore(SqlDecisions):
    """The store in SQL.

    `Store` describes what each method must do.
    """

    def close(self) -> None:
        """Release the database."""
        self._transactions.close()

    def renew(self) -> None:
        """Prove that the database can be written, and renew the lease."""
        self._transactions.renew()

    # devices

    def register_device(
        self, device_id: str, name: str, agent_version: str, session_epoch: int, snapshot: DeviceSnapshot, now_s: float
    ) -> Device:
        """Record a device's hello."""
        with self._transactions.write() as sql, sql.part():
            self._check_hello(sql, device_id, name, session_epoch)
            facts = {
                "name": name,
                "latest_name": name,
                "agent_version": agent_version,
                "session_epoch": session_epoch,
                "last_seen_unix_s": now_s,
                "snapshot_sha256": self._add_snapshot(sql, snapshot, now_s),
            }
            table = tables.devices
            if not sql.update(update(table).where(table.c.device_id == device_id).values(facts)):
                sql.execute(insert(table).values(device_id=device_id, first_seen_unix_s=now_s, **facts))
            return self._device(sql, device_id)

    @staticmethod
    def _check_hello(sql: Transaction, device_id: str, name: str, session_epoch: int) -> None:
        table = tables.devices.c
        owner = sql.scalar(select(table.device_id).where(table.name == name))
        if owner is not None and owner != device_id:
            raise NameTakenError(
                f"the device name {name!r} belongs to another device ({owner}); start the agent with another --name, "
                f"or free it with `efficientquant devices --forget {name}`"
            )
        recorded = sql.scalar(select(table.session_epoch).where(table.device_id == device_id))
        if recorded is not None and recorded >= session_epoch:
            raise StaleSessionError(f"device {device_id} has session {recorded}; session {session_epoch} is not newer")

    def touch_devices(self, device_ids: Sequence[str], now_s: float) -> None:
        """Record when devices were last heard from."""
        table = tables.devices
        statement = update(table).where(table.c.device_id == bindparam("key")).values(last_seen_unix_s=now_s)
        with self._transactions.write() as sql:
            sql.execute_all(statement, [{"key": device_id} for device_id in device_ids])

    def forget_device(self, name: str) -> Device:
        """Free a device's name."""
        table = tables.devices
        with self._transactions.write() as sql:
            device_id = sql.scalar(select(table.c.device_id).where(table.c.name == name))
            if device_id is None:
                names = ", ".join(sql.scalars(select(table.c.name).where(table.c.name.is_not(None)).order_by("name")))
                raise NotFoundError(f"no device is named {name!r} (known: {names or 'none'})")
            device = self._device(sql, device_id)
            sql.execute(update(table).where(table.c.device_id == device_id).values(name=None))
            return device

    def device_names(self) -> Mapping[str, str]:
        """Return the name of every device that has one, by id."""
        table = tables.devices.c
        with self._transactions.read() as sql:
            rows = sql.rows(select(table.device_id, table.name).where(table.name.is_not(None)))
        return {row["device_id"]: row["name"] for row in rows}

    def devices(self) -> Sequence[Device]:
        """Return every device that has a name."""
        table = tables.devices
        query = select(table, tables.device_snapshots).join(tables.device_snapshots).where(table.c.name.is_not(None))
        with self._transactions.read() as sql:
            return sorted(map(records.device_from_row, sql.rows(query)), key=lambda device: device.name or "")

    def device(self, device_id: str) -> Device:
        """Return a device."""
        with self._transactions.read() as sql:
            return self._device(sql, device_id)

    @staticmethod
    def _device(sql: Transaction, device_id: str) -> Device:
        table = tables.devices
        query = select(table, tables.device_snapshots).join(tables.device_snapshots)
        return records.device_from_row(sql.one(query.where(table.c.device_id == device_id), f"device {device_id!r}"))

    # artifacts

    def add_artifact(self, artifact: Artifact, build_key: str) -> None:
        """Record an artifact and the key of its build.

        A rebuild with the same key replaces the build's artifact.
        """
        version = artifact.recipe_version
        facts = {
            "artifact_sha256": artifact.sha256,
            "model": artifact.model,
            "recipe": artifact.recipe,
            "recipe_version": version,
            "weights": artifact.weights,
            "parity_max_abs": artifact.parity_max_abs,
            "notes": list(artifact.notes),
            "provenance": dict(artifact.provenance),
            "manifest": dict(artifact.manifest),
            "target": artifact.target,
            "builder_flags": list(artifact.builder_flags),
            "reference_sha256": artifact.reference_sha256,
            "reference_bytes": artifact.reference_bytes,
        }
        content = artifact.provenance.get("recipe", {})
        table = tables.artifact_builds
        with self._transactions.write() as sql:
            sql.insert_new(tables.artifacts, {"artifact_sha256": artifact.sha256}, {"size_bytes": artifact.size_bytes})
            sql.insert_new(tables.recipes, {"name": artifact.recipe, "version": version}, {"content": content})
            if not sql.update(update(table).where(table.c.build_key == build_key).values(facts)):
                sql.execute(insert(table).values(build_key=build_key, **facts))

    def find_artifact(self, build_key: str) -> Artifact | None:
        """Return the artifact of an earlier build with this key, or None."""
        query = select(tables.artifact_builds, tables.artifacts.c.size_bytes).join(tables.artifacts)
        with self._transactions.read() as sql:
            rows = sql.rows(query.where(tables.artifact_builds.c.build_key == build_key))
        return records.artifact_from_row(rows[0]) if rows else None

    def artifact(self, sha256: str) -> Artifact:
        """Return an artifact, as described by its latest build."""
        table = tables.artifact_builds
        query = select(table, tables.artifacts.c.size_bytes).join(tables.artifacts)
        query = query.where(table.c.artifact_sha256 == sha256).order_by(table.c.number.desc()).limit(1)
        with self._transactions.read() as sql:
            return records.artifact_from_row(sql.one(query, f"artifact {sha256!r}"))

    # campaigns

    def create_campaign(
        self, campaign: Campaign, builds: Sequence[Build], jobs: Sequence[Job], runs: Sequence[Run]
    ) -> None:
        """Record a campaign with all its parts."""
        with self._transactions.write() as sql:
            sql.execute(insert(tables.campaigns).values(records.campaign_to_row(campaign)))
            sql.insert_all(tables.builds, [{**vars(build), "ordinal": place} for place, build in enumerate(builds)])
            sql.insert_all(tables.jobs, [{**vars(job), "ordinal": place} for place, job in enumerate(jobs)])
            sql.insert_all(tables.runs, [{**vars(run), "failure_type": "", "failure_message": ""} for run in runs])

    def campaign(self, campaign_id: str) -> Campaign:
        """Return a campaign."""
        with self._transactions.read() as sql:
            return records.campaign_from_row(self.campaign_row(sql, campaign_id))

    def campaigns(self) -> Sequence[Campaign]:
        """Return all campaigns, newest first."""
        table = tables.campaigns
        with self._transactions.read() as sql:
            return list(map(records.campaign_from_row, sql.rows(select(table).order_by(table.c.number.desc()))))

    def unfinished(self) -> Sequence[str]:
        """Return the ids of the campaigns without a final state."""
        table = tables.campaigns.c
        ended = [state for state in CampaignState if state.ended]
        query = select(table.campaign_id).where(table.state.not_in(ended)).order_by(table.number)
        with self._transactions.read() as sql:
            return list(sql.scalars(query))

    def builds(self, campaign_id: str) -> Sequence[Build]:
        """Return a campaign's builds."""
        table = tables.builds
        query = select(table).order_by(table.c.ordinal)
        with self._transactions.read() as sql:
            campaign_id = self.campaign_row(sql, campaign_id)["campaign_id"]
            return list(map(records.build_from_row, sql.rows(query.where(table.c.campaign_id == campaign_id))))

    def jobs(self, campaign_id: str) -> Sequence[Job]:
        """Return a campaign's jobs."""
        table = tables.jobs
        query = select(table).order_by(table.c.ordinal)
        with self._transactions.read() as sql:
            campaign_id = self.campaign_row(sql, campaign_id)["campaign_id"]
            return list(map(records.job_from_row, sql.rows(query.where(table.c.campaign_id == campaign_id))))

    def runs(self, campaign_id: str) -> Sequence[Run]:
        """Return a campaign's runs, ordered by position."""
        table = tables.runs
        query = select(table).join(tables.jobs, tables.jobs.c.job_id == table.c.job_id)
        query = query.order_by(table.c.position, tables.jobs.c.ordinal, table.c.repeat_index)
        with self._transactions.read() as sql:
            campaign_id = self.campaign_row(sql, campaign_id)["campaign_id"]
            return list(map(records.run_from_row, sql.rows(query.where(tables.jobs.c.campaign_id == campaign_id))))

    def job(self, job_id: str) -> Job:
        """Return a job."""
        with self._transactions.read() as sql:
            query = select(tables.jobs).where(tables.jobs.c.job_id == job_id)
            return records.job_from_row(sql.one(query, f"job {job_id!r}"))

    def run(self, run_id: str) -> Run:
        """Return a run."""
        with self._transactions.read() as sql:
            return records.run_from_row(self._run_row(sql, run_id))

    # results

    def results(self, campaign_id: str | None = None) -> Sequence[Mapping[str, Any]]:
        """Return the rows of the view `results`."""
        with self._transactions.read() as sql:
            if campaign_id is None:
                return records.typed(sql.rows(text("SELECT * FROM results")))
            campaign_id = self.campaign_row(sql, campaign_id)["campaign_id"]
            query = text("SELECT * FROM results WHERE campaign_id = :campaign_id").bindparams(campaign_id=campaign_id)
            return records.typed(sql.rows(query))

    # events

    def add_event(self, event: Event) -> None:
        """Record an event."""
        with self._transactions.write() as sql:
            facts = {**vars(event), "message": records.storable(event.message)}
            sql.execute(insert(tables.events).values(facts))

    def events(self, campaign_id: str) -> Sequence[Event]:
        """Return a campaign's events, oldest first."""
        table = tables.events
        query = select(table).order_by(table.c.time_unix_s, table.c.number)
        with self._transactions.read() as sql:
            campaign_id = self.campaign_row(sql, campaign_id)["campaign_id"]
            return list(map(records.event_from_row, sql.rows(query.where(table.c.campaign_id == campaign_id))))
