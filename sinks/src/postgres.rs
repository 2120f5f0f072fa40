//! PostgreSQL: a table for each generation; a view of one of them is what readers read.
//!
//! ```text
//! NAME          the view: user_id, item_ids, cosine_similarity, score
//! NAME_G        the table of generation G
//! NAME_runs     a row for each generation: the run, its counts, when it was written, whether the view shows it
//! NAME_parts    while one is written: the parts that are complete
//! ```
//!
//! A part is one transaction, so that it is there whole or not at all.

mod rows;

use crate::{Begun, GoOn, Night, Settings, Sink, SinkError};
use bytes::{Bytes, BytesMut};
use futures_util::SinkExt;
use rows::Rows;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, CopyInSink, Error, NoTls, Row};
use twotower_artifacts::IdKind;
use twotower_artifacts::neighbours_file::NeighbourTable;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take that is not the end of long work.
const ANSWER: Duration = Duration::from_secs(60);
/// After how long a connection without traffic is looked at.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How often is asked whether to go on, while the server works.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes of rows that are sent at once.
const SENT: usize = 256 << 10;
/// What the advisory lock's first number is: it tells the locks of this program from others'.
const LOCK_CLASS: i32 = 0x7477_6f74;

/// Lists in PostgreSQL.
pub struct PostgresSink {
    config: Config,
    server: String,
    night: Night,
    settings: Settings,
    runtime: Runtime,
    client: Option<Client>,
    copy: Option<Pin<Box<CopyInSink<Bytes>>>>,
    rows: BytesMut,
    /// The generation that is written.
    generation: Option<u64>,
}

impl PostgresSink {
    /// A sink that is not connected yet.
    ///
    /// # Errors
    /// [`SinkError::Refused`] when there can be no runtime to wait with.
    pub fn new(mut config: Config, server: String, night: Night, settings: Settings) -> Result<Self, SinkError> {
        config.connect_timeout(CONNECT).keepalives_idle(KEEPALIVE).tcp_user_timeout(ANSWER);
        config.application_name("twotower export-results");
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| SinkError::Refused {
            action: "prepare to talk to",
            server: server.clone(),
            reason: e.to_string(),
            advice: "see to the limits of open files and of threads",
        })?;
        let rows = BytesMut::new();
        Ok(Self { config, server, night, settings, runtime, client: None, copy: None, rows, generation: None })
    }

    /// A name of ours, quoted; it holds nothing that has to be escaped.
    fn quoted(&self, rest: &str) -> String {
        format!("\"{}{rest}\"", self.settings.name)
    }

    fn table(&self, generation: u64) -> String {
        self.quoted(&format!("_{generation}"))
    }

    fn gone(&self, action: &'static str, reason: impl ToString) -> SinkError {
        SinkError::Gone { action, server: self.server.clone(), reason: reason.to_string() }
    }

    fn failed(&self, action: &'static str, error: &Error) -> SinkError {
        match error.as_db_error() {
            Some(error) => self.refused(action, error),
            None => {
                // The cause, such as a refused connection, stands below the client's own words.
                let below = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
                let reason = format!("{error}{below}");
                match reason.contains("password missing") || reason.contains("authentication") {
                    true => SinkError::Usage(format!(
                        "{action} {}: {reason}; give the password in the URL or in PGPASSWORD",
                        self.server
                    )),
                    false => self.gone(action, reason),
                }
            }
        }
    }

    fn refused(&self, action: &'static str, error: &DbError) -> SinkError {
        let more = [error.detail(), error.hint()].into_iter().flatten().map(|text| format!(" ({text})"));
        let said = format!("{}{}", error.message(), more.collect::<String>());
        let (server, code) = (&self.server, error.code());
        let usage = |advice: &str| SinkError::Usage(format!("{action} {server}: {said}; {advice}"));
        let refused = |advice| SinkError::Refused { action, server: server.clone(), reason: said.clone(), advice };
        let passing = [
            &SqlState::ADMIN_SHUTDOWN,
            &SqlState::CRASH_SHUTDOWN,
            &SqlState::CANNOT_CONNECT_NOW,
            &SqlState::TOO_MANY_CONNECTIONS,
            &SqlState::T_R_SERIALIZATION_FAILURE,
            &SqlState::T_R_DEADLOCK_DETECTED,
            &SqlState::LOCK_NOT_AVAILABLE,
        ];
        match code {
            code if passing.contains(&code) || code.code().starts_with("08") => self.gone(action, said),
            code if code.code().starts_with("28") => {
                usage("give the right user in the URL, and the password there or in PGPASSWORD")
            }
            code if *code == SqlState::INVALID_CATALOG_NAME => usage("create the database, or name another one"),
            code if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                usage("grant the user the right to create tables in this schema (GRANT CREATE, USAGE ON SCHEMA)")
            }
            code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => usage("this is a standby; name the primary"),
            code if *code == SqlState::UNIQUE_VIOLATION => SinkError::Data(format!("{action} {server}: {said}")),
            code if ["53", "58", "54"].iter().any(|class| code.code().starts_with(class)) => refused(
                "the server is short of disk or memory: make room, or lower --keep; readers still have what they had",
            ),
            _ => refused("the server's log may tell more"),
        }
    }

    /// Waits for an answer, for as long as answers take.
    fn wait<T>(&self, action: &'static str, answer: impl Future<Output = Result<T, Error>>) -> Result<T, SinkError> {
        match self.runtime.block_on(async { timeout(ANSWER, answer).await }) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failed(action, &error)),
            Err(_) => Err(self.gone(action, format!("no answer within {} s", ANSWER.as_secs()))),
        }
    }

    fn client(&self, action: &'static str) -> Result<&Client, SinkError> {
        self.client.as_ref().ok_or_else(|| self.gone(action, "not connected"))
    }

    fn execute(&self, action: &'static str, statements: &str) -> Result<(), SinkError> {
        self.wait(action, self.client(action)?.batch_execute(statements))
    }

    fn query(&self, action: &'static str, query: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, SinkError> {
        self.wait(action, self.client(action)?.query(query, values))
    }

    /// Statements that may take hours, such as an index.
    fn execute_long(&self, action: &'static str, statements: &str, go_on: GoOn<'_>) -> Result<(), SinkError> {
        let client = self.client(action)?;
        let done = self.runtime.block_on(async {
            let work = client.batch_execute(statements);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    done = &mut work => return Ok(done),
                    () = sleep(LOOK) => {
                        if !go_on() {
                            let _ = timeout(Duration::from_secs(1), client.cancel_token().cancel_query(NoTls)).await;
                            return Err(SinkError::Stopped);
                        }
                    }
                }
            }
        })?;
        done.map_err(|error| self.failed(action, &error))
    }

    fn lock(&self) -> Result<(), SinkError> {
        // The schema tells names of one spelling apart.
        let name = &self.settings.name;
        let locked = self.query(
            "lock",
            "SELECT pg_try_advisory_lock($1, hashtext(coalesce(current_schema(), '') || '.' || $2))",
            &[&LOCK_CLASS, name],
        )?;
        if locked.first().is_some_and(|row| row.get(0)) {
            return Ok(());
        }
        let holders = self.query(
            "ask",
            "SELECT a.pid, coalesce(host(a.client_addr), 'a local socket')
             FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             WHERE l.locktype = 'advisory' AND l.granted AND l.classid::bigint = $1
               AND l.objid::bigint = hashtext(coalesce(current_schema(), '') || '.' || $2)::bigint & 4294967295",
            &[&i64::from(LOCK_CLASS), name],
        )?;
        let holder = holders.first().map_or_else(
            || "another export".to_string(),
            |row| format!("an export from {} (backend {})", row.get::<_, String>(1), row.get::<_, i32>(0)),
        );
        Err(SinkError::InUse { name: name.clone(), server: self.server.clone(), holder })
    }

    fn id_type(kind: IdKind) -> &'static str {
        match kind {
            IdKind::Int => "bigint",
            IdKind::Text => "text",
        }
    }

    /// Refuses a view of other columns than the lists have: its readers would have to change.
    fn check_view(&self) -> Result<(), SinkError> {
        let name = &self.settings.name;
        let columns = self.query(
            "read",
            "SELECT c.relkind = 'v', a.attname::text || ' ' || format_type(a.atttypid, a.atttypmod)
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             WHERE c.oid = to_regclass(quote_ident($1)) ORDER BY a.attnum",
            &[name],
        )?;
        let (users, items) = (Self::id_type(self.night.user_ids), Self::id_type(self.night.item_ids));
        let wanted = format!("user_id {users}, item_ids {items}[], cosine_similarity real[], score real[]");
        let is_view = columns.iter().all(|row| row.get(0));
        let found: Vec<String> = columns.iter().map(|row| row.get(1)).collect();
        if found.is_empty() || (is_view && found.join(", ") == wanted) {
            return Ok(());
        }
        let kind = if is_view { "view" } else { "table" };
        Err(SinkError::Mismatch(format!(
            "{}: there is a {kind} `{name}` of {}, expected a view of {wanted}; give another --name, or drop it with what reads it",
            self.server,
            found.join(", ")
        )))
    }

    /// The generation that is written.
    fn written(&self) -> Result<u64, SinkError> {
        self.generation.ok_or_else(|| self.gone("write to", "no generation was begun"))
    }

    fn done(&self, generation: u64) -> Result<BTreeSet<u32>, SinkError> {
        let query = format!("SELECT part FROM {} WHERE generation = $1", self.quoted("_parts"));
        let rows = self.query("read", &query, &[&(generation as i64)])?;
        Ok(rows.iter().map(|row| row.get::<_, i32>(0) as u32).collect())
    }

    /// Begins a generation, with its table.
    fn create(&self) -> Result<u64, SinkError> {
        let runs = self.quoted("_runs");
        let Night { run, fingerprint, parts, users, pairs, inner_product_scale, made_by, .. } = &self.night;
        // A number that was given is not given again, even if its table is gone.
        self.execute("write to", "BEGIN")?;
        let row = self.query(
            "write to",
            &format!(
                "INSERT INTO {runs} (run, fingerprint, parts, users, pairs, inner_product_scale, made_by)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING generation"
            ),
            &[run, fingerprint, &(*parts as i32), &(*users as i64), &(*pairs as i64), inner_product_scale, made_by],
        )?;
        let generation = row.first().map_or(0, |row| row.get::<_, i64>(0)) as u64;
        let (table, users, items) =
            (self.table(generation), Self::id_type(self.night.user_ids), Self::id_type(self.night.item_ids));
        self.execute(
            "create a table in",
            &format!(
                "CREATE TABLE {table} (user_id {users} NOT NULL, item_ids {items}[] NOT NULL,
                   cosine_similarity real[] NOT NULL, score real[]);
                 UPDATE {runs} SET table_name = '{}_{generation}' WHERE generation = {generation};
                 COMMIT",
                self.settings.name
            ),
        )?;
        Ok(generation)
    }

    /// Sends the rows that are laid out.
    fn send(&mut self) -> Result<(), SinkError> {
        let rows = self.rows.split().freeze();
        let Some(mut copy) = self.copy.take() else { return Err(self.gone("write to", "no part was begun")) };
        let sent = self.runtime.block_on(async { timeout(ANSWER, copy.send(rows)).await });
        match sent {
            Ok(Ok(())) => {
                self.copy = Some(copy);
                Ok(())
            }
            // What the server said of it is heard at the end of the copy.
            Ok(Err(error)) => match self.wait("write to", async { copy.as_mut().finish().await }) {
                Err(said) => Err(said),
                Ok(_) => Err(self.failed("write to", &error)),
            },
            Err(_) => Err(self.gone("write to", format!("nothing taken within {} s", ANSWER.as_secs()))),
        }
    }
}

impl Sink for PostgresSink {
    fn connect(&mut self) -> Result<(), SinkError> {
        self.copy = None;
        self.client = None;
        self.rows.clear();
        let config = self.config.clone();
        let connect = async {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!("export-results: the connection ended: {error}");
                }
            });
            Ok(client)
        };
        self.client = Some(self.wait("connect to", connect)?);
        self.execute(
            "prepare",
            "SET client_min_messages = warning; SET lock_timeout = '10s'; SET statement_timeout = 0;
             SET idle_in_transaction_session_timeout = 0; SET synchronous_commit = on",
        )
    }

    fn begin(&mut self) -> Result<Begun, SinkError> {
        self.lock()?;
        self.check_view()?;
        let (runs, parts) = (self.quoted("_runs"), self.quoted("_parts"));
        self.execute(
            "create tables in",
            &format!(
                "CREATE TABLE IF NOT EXISTS {runs} (generation bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                   run text NOT NULL, fingerprint text NOT NULL, table_name text, parts int NOT NULL,
                   users bigint NOT NULL, pairs bigint NOT NULL, inner_product_scale real,
                   started timestamptz NOT NULL DEFAULT now(), finished timestamptz,
                   is_current boolean NOT NULL DEFAULT false, made_by text NOT NULL);
                 CREATE TABLE IF NOT EXISTS {parts} (generation bigint NOT NULL, part int NOT NULL,
                   users bigint NOT NULL, PRIMARY KEY (generation, part))"
            ),
        )?;
        let found = self.query(
            "read",
            &format!(
                "SELECT generation, finished IS NOT NULL, is_current FROM {runs}
                 WHERE run = $1 AND fingerprint = $2 ORDER BY generation DESC"
            ),
            &[&self.night.run, &self.night.fingerprint],
        )?;
        let found = found.iter().map(|row| (row.get::<_, i64>(0) as u64, row.get(1), row.get(2)));
        let found: Vec<(u64, bool, bool)> = found.collect();
        // One that this export has switched to, and did not hear of, is not written again.
        let is_done = |(generation, _, current): &&(u64, bool, bool)| {
            *current && (!self.settings.again || Some(*generation) == self.generation)
        };
        if let Some((generation, ..)) = found.iter().find(is_done) {
            return Ok(Begun::Current { generation: *generation });
        }
        let generation = match found.iter().find(|(_, finished, _)| !finished) {
            Some((generation, ..)) => *generation,
            None => self.create()?,
        };
        self.generation = Some(generation);
        Ok(Begun::Due { generation, done: self.done(generation)? })
    }

    fn begin_part(&mut self, _part: u32) -> Result<(), SinkError> {
        let table = self.table(self.written()?);
        self.execute("write to", "BEGIN")?;
        let copy = format!("COPY {table} (user_id, item_ids, cosine_similarity, score) FROM STDIN (FORMAT binary)");
        let copy = self.wait("write to", self.client("write to")?.copy_in(&copy))?;
        self.copy = Some(Box::pin(copy));
        self.rows.clear();
        self.rows.extend_from_slice(rows::HEADER);
        Ok(())
    }

    fn write(&mut self, lists: &NeighbourTable) -> Result<(), SinkError> {
        for user in 0..lists.users.len() {
            Rows(&mut self.rows).add(lists, user, self.night.inner_product_scale)?;
            if self.rows.len() >= SENT {
                self.send()?;
            }
        }
        Ok(())
    }

    fn end_part(&mut self, part: u32, users: u64) -> Result<(), SinkError> {
        let generation = self.written()?;
        self.rows.extend_from_slice(rows::TRAILER);
        self.send()?;
        let Some(mut copy) = self.copy.take() else { return Err(self.gone("write to", "no part was begun")) };
        let written = self.wait("write to", async { copy.as_mut().finish().await })?;
        if written != users {
            return Err(self.gone("write to", format!("{written} of {users} rows of part {part} arrived")));
        }
        let parts = self.quoted("_parts");
        self.execute(
            "write to",
            &format!("INSERT INTO {parts} (generation, part, users) VALUES ({generation}, {part}, {users}); COMMIT"),
        )
    }

    fn switch(&mut self, go_on: GoOn<'_>) -> Result<(), SinkError> {
        let generation = self.written()?;
        let (table, runs, parts, view) =
            (self.table(generation), self.quoted("_runs"), self.quoted("_parts"), self.quoted(""));
        let done = self.done(generation)?.len();
        if done != self.night.parts as usize {
            return Err(self.gone("switch", "parts that were written are no longer there"));
        }
        let indexed =
            self.query("read", "SELECT 1 FROM pg_index WHERE indrelid = to_regclass($1) AND indisprimary", &[&table])?;
        if indexed.is_empty() {
            self.execute_long("index the table in", &format!("ALTER TABLE {table} ADD PRIMARY KEY (user_id)"), go_on)?;
        }
        self.execute_long("analyse the table in", &format!("ANALYZE {table}"), go_on)?;
        self.execute(
            "switch the view in",
            &format!(
                "BEGIN;
                 CREATE OR REPLACE VIEW {view} AS SELECT user_id, item_ids, cosine_similarity, score FROM {table};
                 UPDATE {runs} SET is_current = false WHERE is_current;
                 UPDATE {runs} SET is_current = true, finished = clock_timestamp() WHERE generation = {generation};
                 DELETE FROM {parts} WHERE generation = {generation};
                 COMMIT"
            ),
        )
    }

    fn remove_old(&mut self, go_on: GoOn<'_>) -> Result<Vec<u64>, SinkError> {
        let (runs, parts) = (self.quoted("_runs"), self.quoted("_parts"));
        let found = self.query(
            "read",
            &format!(
                "SELECT generation FROM {runs} WHERE NOT is_current AND generation <> $1 AND generation NOT IN
                   (SELECT generation FROM {runs} WHERE finished IS NOT NULL ORDER BY is_current DESC, generation DESC LIMIT $2)
                 ORDER BY generation"
            ),
            &[&self.generation.map_or(-1, |own| own as i64), &i64::from(self.settings.keep)],
        )?;
        let mut removed = Vec::new();
        for generation in found.iter().map(|row| row.get::<_, i64>(0) as u64) {
            let table = self.table(generation);
            let gone = self.execute_long(
                "drop a table in",
                &format!(
                    "BEGIN; DROP TABLE IF EXISTS {table}; DELETE FROM {parts} WHERE generation = {generation};
                     DELETE FROM {runs} WHERE generation = {generation}; COMMIT"
                ),
                go_on,
            );
            match gone {
                Ok(()) => removed.push(generation),
                Err(stopped @ SinkError::Stopped) => return Err(stopped),
                Err(error) => {
                    // Somebody reads it, or has made a view of it.
                    tracing::warn!("export-results: {error}; {table} stays until the next export");
                    self.execute("go on in", "ROLLBACK")?;
                }
            }
        }
        Ok(removed)
    }

    fn end(&mut self) {
        self.copy = None;
        self.client = None;
        // The connection's task sends its farewell.
        self.runtime.block_on(async { sleep(Duration::from_millis(20)).await });
    }
}
