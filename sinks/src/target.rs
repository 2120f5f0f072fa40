//! Addresses of databases.

use crate::postgres::PostgresSink;
use crate::redis::RedisSink;
use crate::{Night, Settings, Sink, SinkError};
use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use std::str::FromStr;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// The longest name of keys and tables: PostgreSQL has 63 bytes for it and what is added.
const LONGEST_NAME: usize = 40;

/// A database that was named by its URL. Its `Debug` form holds no password.
pub enum Target {
    /// `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]`, `redis+unix:///SOCKET`.
    Redis(Box<ConnectionInfo>),
    /// `postgres://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE`.
    Postgres(Box<Config>),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.server())
    }
}

impl Target {
    /// Reads a URL. A password that it lacks is that of `variable`: `REDISCLI_AUTH` and `PGPASSWORD`, as the clients of both
    /// databases have it.
    ///
    /// # Errors
    /// [`SinkError::Usage`], which does not repeat the URL.
    pub fn parse(url: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, SinkError> {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme {
            "redis" | "redis+unix" | "unix" => {
                let info = url.into_connection_info().map_err(|_| {
                    SinkError::Usage(
                        "--to: not a URL of Redis; expected redis://[USER[:PASSWORD]@]HOST[:PORT][/DB] or redis+unix:///SOCKET, with special characters of a password as %XX".into(),
                    )
                })?;
                let own = info.redis_settings().clone();
                let own = match (own.password(), variable("REDISCLI_AUTH")) {
                    (None, Some(password)) => own.set_password(password),
                    _ => own,
                };
                Ok(Self::Redis(Box::new(info.set_redis_settings(own))))
            }
            "rediss" => Err(no_tls("rediss://", "redis://127.0.0.1:PORT")),
            "postgres" | "postgresql" => {
                let wants_tls = ["sslmode=require", "sslmode=verify-ca", "sslmode=verify-full"];
                if wants_tls.iter().any(|mode| url.contains(mode)) {
                    return Err(no_tls("sslmode=require", "postgres://127.0.0.1:PORT/DATABASE"));
                }
                let mut config = Config::from_str(url).map_err(|_| {
                    SinkError::Usage(
                        "--to: not a URL of PostgreSQL; expected postgres://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE, with special characters of a password as %XX".into(),
                    )
                })?;
                if config.get_hosts().is_empty() {
                    return Err(SinkError::Usage(
                        "--to: the URL of PostgreSQL names no host; expected postgres://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE".into(),
                    ));
                }
                if let (None, Some(password)) = (config.get_password(), variable("PGPASSWORD")) {
                    config.password(password);
                }
                config.ssl_mode(SslMode::Disable);
                Ok(Self::Postgres(Box::new(config)))
            }
            _ => Err(SinkError::Usage("--to: expected a URL that begins with redis:// or postgres://".into())),
        }
    }

    /// The server as messages name it.
    pub fn server(&self) -> String {
        match self {
            Self::Redis(info) => match info.addr() {
                ConnectionAddr::Unix(path) => format!("redis+unix://{}", path.display()),
                addr => format!("redis://{addr}/{}", info.redis_settings().db()),
            },
            Self::Postgres(config) => {
                let host = match config.get_hosts().first() {
                    Some(Host::Tcp(host)) => host.clone(),
                    Some(Host::Unix(path)) => path.display().to_string(),
                    None => String::new(),
                };
                let port = config.get_ports().first().copied().unwrap_or(5432);
                format!("postgres://{host}:{port}/{}", config.get_dbname().or(config.get_user()).unwrap_or_default())
            }
        }
    }

    /// The database, not connected yet.
    ///
    /// # Errors
    /// [`SinkError::Usage`] for a name that keys and tables cannot have; no runtime to wait with.
    pub fn open(&self, night: Night, settings: Settings) -> Result<Box<dyn Sink>, SinkError> {
        check_name(&settings.name)?;
        Ok(match self {
            Self::Redis(info) => Box::new(RedisSink::new(info.as_ref().clone(), self.server(), night, settings)),
            Self::Postgres(config) => {
                Box::new(PostgresSink::new(config.as_ref().clone(), self.server(), night, settings)?)
            }
        })
    }
}

fn check_name(name: &str) -> Result<(), SinkError> {
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let ours = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if begins && name.len() <= LONGEST_NAME && name.chars().all(ours) {
        return Ok(());
    }
    Err(SinkError::Usage(format!(
        "--name {name}: expected at most {LONGEST_NAME} of a to z, 0 to 9 and _, not beginning with a digit, as tables and keys are called by it"
    )))
}

fn no_tls(what: &str, instead: &str) -> SinkError {
    SinkError::Usage(format!(
        "--to: {what}: this program speaks no TLS to databases; run a proxy that does on this machine, such as stunnel, and give {instead} (docs/SINKS.md#tls)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Target, SinkError> {
        Target::parse(url, |_| None)
    }

    #[test]
    fn servers_are_named_without_user_and_password() {
        for (url, server) in [
            ("redis://:hunter2@10.0.0.1:7000/3", "redis://10.0.0.1:7000/3"),
            ("redis://u:hunter2@cache", "redis://cache:6379/0"),
            ("postgres://u:hunter2@db:5433/night", "postgres://db:5433/night"),
            ("postgresql://hunter2@db", "postgres://db:5432/hunter2"),
        ] {
            let target = parse(url).unwrap();
            assert_eq!(target.server(), server);
            assert_eq!(format!("{target:?}"), server);
        }
    }

    #[test]
    fn wrong_addresses_are_refused_without_repeating_them_and_tls_with_the_way_round_it() {
        for url in ["redis://:hunter2@:::/x", "postgres://u:hunter2@db:port/x", "mysql://u:hunter2@db", "hunter2"] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.category().exit_code(), 2, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        for url in ["rediss://h", "postgres://h/d?sslmode=require", "postgres://h/d?sslmode=verify-full"] {
            assert!(parse(url).unwrap_err().to_string().contains("stunnel"), "{url}");
        }
    }

    #[test]
    fn a_password_of_the_environment_counts_where_the_url_has_none() {
        let variable = |name: &str| Some(format!("of {name}"));
        for (url, expected) in [("redis://h", "of REDISCLI_AUTH"), ("redis://:own@h", "own")] {
            let Target::Redis(info) = Target::parse(url, variable).unwrap() else { panic!("{url}") };
            assert_eq!(info.redis_settings().password(), Some(expected));
        }
        for (url, expected) in [("postgres://u@h/d", "of PGPASSWORD"), ("postgres://u:own@h/d", "own")] {
            let Target::Postgres(config) = Target::parse(url, variable).unwrap() else { panic!("{url}") };
            assert_eq!(config.get_password(), Some(expected.as_bytes()));
        }
    }

    #[test]
    fn names_are_those_that_tables_and_keys_can_have() {
        for name in ["recall", "_x9", &"a".repeat(40)] {
            check_name(name).unwrap();
        }
        for name in ["", "Recall", "9a", "a-b", "a b", "a\"", "a:b", &"a".repeat(41)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
