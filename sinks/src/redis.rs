//! Redis: a key for each user, under the number of a generation; a key says which generation readers read.
//!
//! ```text
//! NAME:current           the number of the generation that readers read, G
//! NAME:G:user:ID         {"item_ids":[…],"cosine_similarity":[…]} of a user, best first
//! NAME:G:run             a hash: the run, its counts, when it was written
//! NAME:G:parts           while it is written: the parts that are complete
//! NAME:generations       the numbers of all generations
//! NAME:sequence          the last number that was given
//! NAME:lock              who writes, for a minute from his last sign of life
//! ```

use crate::{Begun, GoOn, Night, Settings, Sink, SinkError};
use redis::{Cmd, Connection, ConnectionInfo, ErrorKind, FromRedisValue, Pipeline, RedisError, cmd};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use twotower_artifacts::neighbours_file::NeighbourTable;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the lock outlives its holder's last sign of life.
const LOCK_SECONDS: u64 = 60;
/// The most bytes and users of a pipeline.
const PIPELINE: (usize, usize) = (1 << 20, 512);
/// How many keys are looked at in one step where old ones are removed.
const SCAN: usize = 2000;

/// Takes the lock, or takes it over from `ARGV[3]`, a holder that is known to be dead.
const LOCK: &str = "
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] and held ~= ARGV[3] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return ''";
/// Shows life.
const REFRESH: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1";
/// Points readers at a generation, if it is locked by this process and all its parts are there.
const SWITCH: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lock' end
if redis.call('SCARD', KEYS[2]) ~= tonumber(ARGV[2]) then return 'parts' end
redis.call('HSET', KEYS[3], 'state', 'complete', 'finished', redis.call('TIME')[1])
redis.call('SET', KEYS[4], ARGV[3])
redis.call('DEL', KEYS[2])
return 'done'";
/// Frees the lock.
const UNLOCK: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end";

/// Lists in Redis.
pub struct RedisSink {
    info: ConnectionInfo,
    server: String,
    night: Night,
    settings: Settings,
    connection: Option<Connection>,
    /// What this process writes into the lock.
    token: String,
    /// The generation that is written, and when its keys end, in seconds since 1970.
    generation: Option<(u64, Option<u64>)>,
    /// Keys that the server has thrown out for want of memory, when this export began.
    evicted: Option<u64>,
    /// Text of keys and values.
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A holder of the lock.
#[derive(Serialize, Deserialize)]
struct Holder {
    host: String,
    pid: u32,
    /// Tells two exports of one process apart.
    begun: u128,
}

impl Holder {
    fn own() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self { host: host(), pid: std::process::id(), begun: now.map_or(0, |now| now.as_nanos()) }
    }

    /// Whether it is a process of this machine that has ended.
    fn is_dead(&self) -> bool {
        self.host == host() && !Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string()
}

impl RedisSink {
    /// A sink that is not connected yet.
    pub fn new(info: ConnectionInfo, server: String, night: Night, settings: Settings) -> Self {
        let token = serde_json::to_string(&Holder::own()).unwrap_or_default();
        let (key, value) = (Vec::new(), Vec::new());
        Self { info, server, night, settings, connection: None, token, generation: None, evicted: None, key, value }
    }

    fn name(&self, rest: &str) -> String {
        format!("{}:{rest}", self.settings.name)
    }

    fn of(&self, generation: u64, rest: &str) -> String {
        format!("{}:{generation}:{rest}", self.settings.name)
    }

    fn ask<T: FromRedisValue>(&mut self, action: &'static str, command: &Cmd) -> Result<T, SinkError> {
        let Some(connection) = &mut self.connection else { return Err(self.gone(action, "not connected".into())) };
        let answer = command.query(connection);
        answer.map_err(|error| self.failed(action, &error))
    }

    fn ask_all<T: FromRedisValue>(&mut self, action: &'static str, pipeline: &Pipeline) -> Result<T, SinkError> {
        let Some(connection) = &mut self.connection else { return Err(self.gone(action, "not connected".into())) };
        let answer = pipeline.query(connection);
        answer.map_err(|error| self.failed(action, &error))
    }

    fn gone(&self, action: &'static str, reason: String) -> SinkError {
        SinkError::Gone { action, server: self.server.clone(), reason }
    }

    fn failed(&self, action: &'static str, error: &RedisError) -> SinkError {
        let of_server = error.clone().into_server_errors().and_then(|all| all.first().map(|(_, one)| one.clone()));
        let (code, said) = match &of_server {
            Some(one) => (one.code().to_string(), format!("{} {}", one.code(), one.details().unwrap_or_default())),
            None => (error.code().unwrap_or_default().to_string(), error.to_string()),
        };
        let server = self.server.clone();
        let usage = |advice: &str| SinkError::Usage(format!("{action} {server}: {said}; {advice}"));
        let refused = |advice| SinkError::Refused { action, server: server.clone(), reason: said.clone(), advice };
        match code.as_str() {
            "NOAUTH" | "WRONGPASS" => usage("give the password in the URL or in REDISCLI_AUTH"),
            "NOPERM" => usage("the user's rights (ACL) lack this command or these keys"),
            "READONLY" => usage("this is a replica; name the primary"),
            "MOVED" | "ASK" | "CROSSSLOT" => {
                usage("this is a Redis Cluster, which is not supported; name a single primary")
            }
            "OOM" => refused(
                "the server is full: raise its maxmemory, or lower --keep or --expire-hours; readers still have what they had",
            ),
            "MISCONF" => refused("the server cannot save to its disk; readers still have what they had"),
            "LOADING" | "MASTERDOWN" | "TRYAGAIN" | "CLUSTERDOWN" | "BUSY" => self.gone(action, said),
            _ if error.kind() == ErrorKind::AuthenticationFailed => {
                usage("give the right user and password in the URL, or the password in REDISCLI_AUTH")
            }
            _ if error.is_timeout() => self.gone(action, format!("no answer within {} s", ANSWER.as_secs())),
            _ if matches!(error.kind(), ErrorKind::Io) || error.is_connection_dropped() => self.gone(action, said),
            _ => refused("the server's log may tell more"),
        }
    }

    /// The values that INFO tells.
    fn info(&mut self, section: &str) -> Result<BTreeMap<String, String>, SinkError> {
        let text: String = self.ask("ask", cmd("INFO").arg(section))?;
        let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Ok(pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    fn check_server(&mut self) -> Result<(), SinkError> {
        let server = self.info("server")?;
        let version = server.get("redis_version").cloned().unwrap_or_default();
        let mut numbers = version.split('.').map_while(|n| n.parse::<u32>().ok());
        let known = (numbers.next(), numbers.next());
        if let (Some(major), Some(minor)) = known
            && (major, minor) < (6, 2)
        {
            return Err(SinkError::Usage(format!(
                "{}: Redis {version}; 6.2 or newer is needed (SET with EXAT)",
                self.server
            )));
        }
        if server.get("redis_mode").is_some_and(|mode| mode == "cluster") {
            return Err(SinkError::Usage(format!(
                "{}: this is a Redis Cluster, which is not supported; name a single primary",
                self.server
            )));
        }
        let memory = self.info("memory")?;
        let of = |name: &str| memory.get(name).map(String::as_str).unwrap_or_default();
        if self.evicted.is_none() && of("maxmemory") != "0" && of("maxmemory_policy") != "noeviction" {
            tracing::warn!(
                "export-results: {}: its maxmemory-policy is {}, so it may throw out lists; `noeviction` keeps what readers see whole",
                self.server,
                of("maxmemory_policy")
            );
        }
        Ok(())
    }

    fn evictions(&mut self) -> Result<u64, SinkError> {
        Ok(self.info("stats")?.get("evicted_keys").and_then(|n| n.parse().ok()).unwrap_or(0))
    }

    fn lock(&mut self) -> Result<(), SinkError> {
        let key = self.name("lock");
        let mut dead = String::new();
        loop {
            let token = self.token.clone();
            let held: String =
                self.ask("lock", cmd("EVAL").arg(LOCK).arg(1).arg(&key).arg(token).arg(LOCK_SECONDS).arg(&dead))?;
            let holder = serde_json::from_str::<Holder>(&held).ok();
            match holder {
                _ if held.is_empty() => return Ok(()),
                Some(holder) if holder.is_dead() && dead != held => dead = held,
                holder => {
                    let holder = holder.map_or_else(
                        || "another process".to_string(),
                        |holder| format!("process {} on {}", holder.pid, holder.host),
                    );
                    let (name, server) = (self.settings.name.clone(), self.server.clone());
                    return Err(SinkError::InUse { name, server, holder });
                }
            }
        }
    }

    fn refresh(&self) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(REFRESH).arg(1).arg(self.name("lock")).arg(&self.token).arg(LOCK_SECONDS);
        command
    }

    fn lost(&self) -> SinkError {
        let (name, server) = (self.settings.name.clone(), self.server.clone());
        SinkError::InUse { name, server, holder: "another process, which took the lock over".into() }
    }

    /// What is known of a generation; nothing where it is gone.
    fn described(&mut self, generation: u64) -> Result<BTreeMap<String, String>, SinkError> {
        let key = self.of(generation, "run");
        self.ask("read", cmd("HGETALL").arg(key))
    }

    fn generations(&mut self) -> Result<Vec<u64>, SinkError> {
        let key = self.name("generations");
        self.ask("read", cmd("ZREVRANGE").arg(key).arg(0).arg(-1))
    }

    fn time(&mut self) -> Result<u64, SinkError> {
        let (seconds, _): (u64, u64) = self.ask("ask", &cmd("TIME"))?;
        Ok(seconds)
    }

    /// Whether a described generation is of this night.
    fn is_this(&self, described: &BTreeMap<String, String>) -> bool {
        described.get("fingerprint") == Some(&self.night.fingerprint) && described.get("run") == Some(&self.night.run)
    }

    /// Begins a generation; returns it with the end of its keys.
    fn create(&mut self, now: u64) -> Result<(u64, Option<u64>), SinkError> {
        let sequence = self.name("sequence");
        let generation: u64 = self.ask("write to", cmd("INCR").arg(sequence))?;
        let end = self.settings.expire.map(|expire| now + expire.as_secs());
        let key = self.of(generation, "run");
        let Night { run, fingerprint, parts, users, pairs, inner_product_scale, made_by, .. } = &self.night;
        let mut describe = cmd("HSET");
        describe.arg(&key).arg("state").arg("writing").arg("run").arg(run).arg("fingerprint").arg(fingerprint);
        describe.arg("parts").arg(parts).arg("users").arg(users).arg("pairs").arg(pairs);
        describe.arg("started").arg(now).arg("made_by").arg(made_by);
        if let Some(scale) = inner_product_scale {
            describe.arg("inner_product_scale").arg(scale);
        }
        if let Some(end) = end {
            describe.arg("expires").arg(end);
        }
        let mut pipeline = redis::pipe();
        pipeline.atomic().add_command(describe).ignore();
        if let Some(end) = end {
            pipeline.cmd("EXPIREAT").arg(&key).arg(end).ignore();
        }
        pipeline.cmd("ZADD").arg(self.name("generations")).arg(generation).arg(generation).ignore();
        self.ask_all::<()>("write to", &pipeline)?;
        Ok((generation, end))
    }

    fn send(&mut self, pipeline: &mut Pipeline) -> Result<(), SinkError> {
        let (alive,): (u8,) = self.ask_all("write to", pipeline)?;
        if alive == 0 {
            return Err(self.lost());
        }
        pipeline.clear();
        Ok(())
    }

    /// Text of a user's key and list, in `key` and `value`.
    fn lay_out(&mut self, generation: u64, lists: &NeighbourTable, user: usize) -> Result<(), SinkError> {
        let Self { key, value, settings, night, .. } = self;
        let pairs = lists.offsets[user]..lists.offsets[user + 1];
        key.clear();
        value.clear();
        let write = || -> std::io::Result<()> {
            write!(key, "{}:{generation}:user:{}", settings.name, lists.users.get(user))?;
            value.write_all(b"{\"item_ids\":[")?;
            for pair in pairs.clone() {
                value.write_all(if pair == pairs.start { b"" } else { b"," })?;
                serde_json::to_writer(&mut *value, &lists.items.get(pair))?;
            }
            value.write_all(b"],\"cosine_similarity\":")?;
            serde_json::to_writer(&mut *value, &lists.scores[pairs.clone()])?;
            if let Some(scale) = night.inner_product_scale {
                let products: Vec<f32> = lists.scores[pairs].iter().map(|cosine| scale * cosine).collect();
                value.write_all(b",\"score\":")?;
                serde_json::to_writer(&mut *value, &products)?;
            }
            value.write_all(b"}")
        };
        write()
            .map_err(|e| SinkError::Data(format!("the list of user {} as JSON: {e}", lists.users.get(user).quoted())))
    }

    /// Removes all keys of a generation.
    fn remove(&mut self, generation: u64, go_on: GoOn<'_>) -> Result<(), SinkError> {
        // Names hold nothing that a pattern reads as more than itself.
        let pattern = self.of(generation, "user:*");
        let mut cursor = 0u64;
        loop {
            let (next, keys): (u64, Vec<Vec<u8>>) =
                self.ask("remove from", cmd("SCAN").arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN))?;
            let mut pipeline = redis::pipe();
            pipeline.add_command(self.refresh());
            if !keys.is_empty() {
                pipeline.cmd("UNLINK").arg(&keys).ignore();
            }
            self.send(&mut pipeline)?;
            if !go_on() {
                return Err(SinkError::Stopped);
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("DEL").arg(self.of(generation, "parts")).arg(self.of(generation, "run")).ignore();
        pipeline.cmd("ZREM").arg(self.name("generations")).arg(generation).ignore();
        self.ask_all::<()>("remove from", &pipeline)
    }

    fn written(&self) -> Result<(u64, Option<u64>), SinkError> {
        self.generation.ok_or_else(|| self.gone("write to", "no generation was begun".into()))
    }
}

impl Sink for RedisSink {
    fn connect(&mut self) -> Result<(), SinkError> {
        self.connection = None;
        let opened = redis::Client::open(self.info.clone()).and_then(|client| {
            let connection = client.get_connection_with_timeout(CONNECT)?;
            connection.set_read_timeout(Some(ANSWER))?;
            connection.set_write_timeout(Some(ANSWER))?;
            Ok(connection)
        });
        self.connection = Some(opened.map_err(|error| self.failed("connect to", &error))?);
        self.check_server()
    }

    fn begin(&mut self) -> Result<Begun, SinkError> {
        self.lock()?;
        let evicted = self.evictions()?;
        self.evicted.get_or_insert(evicted);
        let current = self.name("current");
        let current: Option<u64> = self.ask("read", cmd("GET").arg(current))?;
        // One that this export has switched to, and did not hear of, is not written again.
        let own = self.generation.map(|(generation, _)| generation);
        if let Some(generation) = current.filter(|current| !self.settings.again || Some(*current) == own) {
            let described = self.described(generation)?;
            if self.is_this(&described) && described.get("state").is_some_and(|state| state == "complete") {
                return Ok(Begun::Current { generation });
            }
        }
        let now = self.time()?;
        let mut found = None;
        for generation in self.generations()? {
            let described = self.described(generation)?;
            let number = |name: &str| described.get(name).and_then(|n| n.parse::<u64>().ok());
            let end = number("expires");
            let expires = match (self.settings.expire, end) {
                (None, None) => true,
                // One that has used up half of its life begins anew.
                (Some(expire), Some(end)) => end.saturating_sub(now) >= expire.as_secs() / 2,
                _ => false,
            };
            if self.is_this(&described) && described.get("state").is_some_and(|state| state == "writing") && expires {
                found = Some((generation, end));
                break;
            }
        }
        let (generation, end) = match found {
            Some(found) => found,
            None => self.create(now)?,
        };
        self.generation = Some((generation, end));
        let parts = self.of(generation, "parts");
        let done: BTreeSet<u32> = self.ask("read", cmd("SMEMBERS").arg(parts))?;
        Ok(Begun::Due { generation, done })
    }

    fn begin_part(&mut self, _part: u32) -> Result<(), SinkError> {
        Ok(())
    }

    fn write(&mut self, lists: &NeighbourTable) -> Result<(), SinkError> {
        let (generation, end) = self.written()?;
        let (most_bytes, most_users) = PIPELINE;
        let mut pipeline = redis::pipe();
        let (mut bytes, mut users) = (0, 0);
        for user in 0..lists.users.len() {
            if users == 0 {
                pipeline.add_command(self.refresh());
            }
            self.lay_out(generation, lists, user)?;
            let command = pipeline.cmd("SET").arg(&self.key).arg(&self.value);
            if let Some(end) = end {
                command.arg("EXAT").arg(end);
            }
            command.ignore();
            bytes += self.key.len() + self.value.len();
            users += 1;
            if bytes >= most_bytes || users >= most_users {
                self.send(&mut pipeline)?;
                (bytes, users) = (0, 0);
            }
        }
        if users > 0 {
            self.send(&mut pipeline)?;
        }
        Ok(())
    }

    fn end_part(&mut self, part: u32, _users: u64) -> Result<(), SinkError> {
        let (generation, end) = self.written()?;
        let key = self.of(generation, "parts");
        let mut pipeline = redis::pipe();
        pipeline.cmd("SADD").arg(&key).arg(part).ignore();
        if let Some(end) = end {
            pipeline.cmd("EXPIREAT").arg(&key).arg(end).ignore();
        }
        self.ask_all::<()>("write to", &pipeline)
    }

    fn switch(&mut self, _go_on: GoOn<'_>) -> Result<(), SinkError> {
        let (generation, _) = self.written()?;
        let evicted = self.evictions()?;
        if self.evicted.is_some_and(|before| before < evicted) {
            return Err(SinkError::Refused {
                action: "switch",
                server: self.server.clone(),
                reason: format!("it has thrown out keys during this export (evicted_keys is {evicted}), maybe lists"),
                advice: "raise its maxmemory or lower --keep, and set maxmemory-policy to noeviction; readers still have what they had",
            });
        }
        let keys = [self.name("lock"), self.of(generation, "parts"), self.of(generation, "run"), self.name("current")];
        let (token, parts) = (self.token.clone(), self.night.parts);
        let done: String = self
            .ask("switch", cmd("EVAL").arg(SWITCH).arg(keys.len()).arg(&keys).arg(token).arg(parts).arg(generation))?;
        match done.as_str() {
            "done" => Ok(()),
            "lock" => Err(self.lost()),
            // A server that was started anew from an earlier copy; the next `begin` finds what is left.
            _ => Err(self.gone("switch", "parts that were written are no longer there".into())),
        }
    }

    fn remove_old(&mut self, go_on: GoOn<'_>) -> Result<Vec<u64>, SinkError> {
        let current = self.name("current");
        let current: Option<u64> = self.ask("read", cmd("GET").arg(current))?;
        let own = self.generation.map(|(generation, _)| generation);
        let (mut kept, mut removed) = (0, Vec::new());
        for generation in self.generations()? {
            let is_complete = self.described(generation)?.get("state").is_some_and(|state| state == "complete");
            kept += u32::from(is_complete);
            let stays =
                Some(generation) == current || Some(generation) == own || (is_complete && kept <= self.settings.keep);
            if !stays {
                self.remove(generation, go_on)?;
                removed.push(generation);
            }
        }
        Ok(removed)
    }

    fn end(&mut self) {
        let (key, token) = (self.name("lock"), self.token.clone());
        let freed: Result<(), SinkError> = self.ask("unlock", cmd("EVAL").arg(UNLOCK).arg(1).arg(key).arg(token));
        if let Err(error) = freed {
            tracing::debug!("export-results: {error}");
        }
    }
}
