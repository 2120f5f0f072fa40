//! What the holders of a lock leave in its file for others: who they are.

use crate::watch::clock;
use crate::watch::stall::kernel;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;
use twotower_artifacts::open_regular;

/// Bytes of a lock's file that are read: some thousands of holders.
const LONGEST: u64 = 1 << 20;

/// A holder, a line of the file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Number of the process.
    pub pid: u32,
    host: String,
    /// Seconds since 1970.
    since: u64,
    command: String,
}

impl Holder {
    /// This process.
    pub fn own() -> Self {
        let command: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
        Self {
            pid: std::process::id(),
            host: host(),
            since: clock::now(),
            command: without_passwords(&command.join(" ")),
        }
    }

    /// The holders that a lock's file names, without processes that are known to have ended.
    pub fn of(lock: &Path) -> Vec<Self> {
        let mut text = String::new();
        let file = open_regular(lock);
        // Whatever else lies there may be long.
        let _ = file.map(|file| file.take(LONGEST).read_to_string(&mut text));
        let holders = text.lines().filter_map(|line| serde_json::from_str::<Self>(line).ok());
        holders.filter(|holder| !holder.is_here() || kernel::state(holder.pid).is_some()).collect()
    }

    /// Whether it is a process of this machine. About such a one the kernel tells more.
    pub fn is_here(&self) -> bool {
        self.host == host()
    }

    /// Whether it is known to be stopped, as by SIGSTOP.
    pub fn is_stopped(&self) -> bool {
        self.is_here() && matches!(kernel::state(self.pid), Some('T' | 't'))
    }

    /// Whether a process of this machine has not ended.
    pub fn is_alive(&self) -> bool {
        !matches!(kernel::state(self.pid), None | Some('Z' | 'X'))
    }

    /// What to do about one that is stopped, as a sentence; nothing for others.
    pub fn how_to_go_on(&self) -> String {
        match self.is_stopped() {
            true => format!(" It is stopped: `kill -CONT {}` lets it go on.", self.pid),
            false => String::new(),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pid, host, since, command } = self;
        let minutes = clock::now().saturating_sub(*since) / 60;
        write!(f, "process {pid} on {host} (`{command}`, begun {minutes} minutes ago)")
    }
}

/// Who holds a lock, and what to do.
pub fn describe(lock: &Path) -> String {
    let holders = Holder::of(lock);
    let Some(first) = holders.first() else {
        return "another process; wait for it, then give the same command again".to_string();
    };
    let others = if holders.len() > 1 { format!(" and {} more", holders.len() - 1) } else { String::new() };
    format!(
        "{first}{others}; wait for it or end it with `kill {}`, then give the same command again.{}",
        first.pid,
        first.how_to_go_on()
    )
}

/// Text in which no URL has a password: what stands before the host is left out.
fn without_passwords(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://***@{host}"),
            None => word.to_string(),
        },
        None => word.to_string(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The name of this machine.
pub fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_left_out_of_what_others_read() {
        for (command, left) in [
            ("a --to redis://:pass@h:1/2 --run r", "a --to redis://***@h:1/2 --run r"),
            ("a --to=postgres://u:p@ss@h/d", "a --to=postgres://***@h/d"),
            ("a --to redis://h user@host", "a --to redis://h user@host"),
        ] {
            assert_eq!(without_passwords(command), left);
        }
    }
}
