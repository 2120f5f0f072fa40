//! Following `latest`: a new run is opened beside the one that is served, which it then replaces.

use crate::Options;
use crate::metrics::Metrics;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use twotower_pipeline::config::RecallConfig;
use twotower_pipeline::results::served::{Published, ServedRun};
use twotower_pipeline::watch::allocator;

/// How long after a run could not be opened that is tried again, if it is still the same.
const RETRY: Duration = Duration::from_secs(30);

/// What is served, as one request sees it.
#[derive(Clone, Default)]
pub struct State {
    /// The run; none as long as none could be opened.
    pub run: Option<Arc<ServedRun>>,
    /// Why that is not the run that `latest` names, for people.
    pub behind: Option<Arc<str>>,
}

/// The run that is served, kept current by a thread.
#[derive(Clone)]
pub struct Follower(Arc<RwLock<State>>);

/// What the thread needs.
struct Thread {
    state: Weak<RwLock<State>>,
    metrics: Arc<Metrics>,
    runs: PathBuf,
    recall: Option<RecallConfig>,
    workers: usize,
    poll: Duration,
}

impl Follower {
    /// Begins to follow the link.
    pub fn start(options: &Options, metrics: Arc<Metrics>) -> Self {
        let behind: Arc<str> = "the run is being opened".into();
        let follower = Self(Arc::new(RwLock::new(State { run: None, behind: Some(behind) })));
        let thread = Thread {
            state: Arc::downgrade(&follower.0),
            metrics,
            runs: options.runs.clone(),
            recall: options.recall.clone(),
            workers: options.workers,
            poll: options.poll,
        };
        let spawned = thread::Builder::new().name("follow latest".into()).spawn(move || thread.follow());
        if let Err(error) = spawned {
            follower.0.write().unwrap_or_else(PoisonError::into_inner).behind =
                Some(format!("no thread could be started: {error}").into());
        }
        follower
    }

    /// What is served now.
    pub fn state(&self) -> State {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Thread {
    /// Looks after the link until nobody asks for the state any more.
    fn follow(self) {
        let (mut served, mut failed) = (None::<Published>, None::<(Published, Instant)>);
        loop {
            match Published::now(&self.runs) {
                None if served.is_none() => self.behind("there is no published run: `latest` names none"),
                // Withdrawn while it is changed: what is open stays as it was.
                None => self.behind("`latest` names no run now"),
                Some(now) if served.as_ref() == Some(&now) => self.change(|state| state.behind = None),
                Some(now) => {
                    let is_due = |(tried, at): &(Published, Instant)| *tried != now || at.elapsed() >= RETRY;
                    if failed.as_ref().is_none_or(is_due) {
                        match self.open(&now) {
                            true => (served, failed) = (Some(now), None),
                            false => failed = Some((now, Instant::now())),
                        }
                    }
                }
            }
            if self.state.strong_count() == 0 {
                return;
            }
            sleep(self.poll);
        }
    }

    /// Opens a run and puts it in the place of the one before, which its last request lets go.
    fn open(&self, published: &Published) -> bool {
        let started = Instant::now();
        let opened = ServedRun::open(published, self.recall.as_ref(), self.workers);
        self.metrics.run(opened.is_ok());
        match opened {
            Ok(run) => {
                let (name, users, items) = (run.name().to_string(), run.users(), run.items());
                let before = self.change(|state| {
                    state.behind = None;
                    state.run.replace(Arc::new(run))
                });
                tracing::info!(
                    "serve: run {name}, {users} users, {items} items, opened in {:.1} s",
                    started.elapsed().as_secs_f64()
                );
                drop(before);
                allocator::give_back();
                true
            }
            Err(error) => {
                let path = published.path.display();
                tracing::error!("serve: {path} cannot be served; what was served before stays: {error}");
                let name = published.path.file_name().unwrap_or_default().to_string_lossy();
                self.behind(&format!("the run {name} cannot be opened; the log says why"));
                false
            }
        }
    }

    fn behind(&self, why: &str) {
        self.change(|state| state.behind = Some(why.into()));
    }

    fn change<T: Default>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let Some(state) = self.state.upgrade() else { return T::default() };
        let mut state = state.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut state)
    }
}
