//! The stores of a job, each opened once.

use crate::blocks::Cache;
use crate::budget::Budget;
use crate::error::StoreError;
use crate::settings::StoreSettings;
use crate::store::Store;
use crate::url::StoreUrl;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Opens stores by the settings of a job; clones share what is open and how much of it may be in flight.
#[derive(Clone)]
pub struct Stores(Arc<Shared>);

struct Shared {
    settings: StoreSettings,
    /// By scheme and bucket.
    open: Mutex<HashMap<StoreUrl, Store>>,
    ahead: Budget,
    waiting: Budget,
    cache: Arc<Cache>,
}

impl Stores {
    /// Stores with these settings. Nothing is opened yet.
    pub fn new(settings: StoreSettings) -> Self {
        let bytes = |mib: u32| usize::try_from(mib).unwrap_or(usize::MAX).saturating_mul(1 << 20);
        // Half for objects that are read from beginning to end, half for those that are read at many places.
        let half = bytes(settings.read_ahead_mib) / 2;
        let (ahead, waiting) = (Budget::new(half), Budget::new(bytes(settings.upload_mib)));
        let cache = Arc::new(Cache::new(half as u64));
        Self(Arc::new(Shared { settings, open: Mutex::default(), ahead, waiting, cache }))
    }

    /// The settings.
    pub fn settings(&self) -> &StoreSettings {
        &self.0.settings
    }

    /// The store that holds a place. No request is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`](crate::ErrorKind::Settings) or [`ErrorKind::Credentials`](crate::ErrorKind::Credentials)
    /// for settings, or variables of the environment, that make no client.
    pub fn open(&self, url: &StoreUrl) -> Result<Store, StoreError> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = open.get(&url.root()) {
            return Ok(store.clone());
        }
        let Shared { settings, ahead, waiting, cache, .. } = &*self.0;
        let store = Store::new(url.root(), settings, ahead.clone(), waiting.clone(), cache.clone())?;
        Ok(open.entry(url.root()).or_insert(store).clone())
    }
}

impl Default for Stores {
    fn default() -> Self {
        Self::new(StoreSettings::default())
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stores")
    }
}

/// How stores are reached changes nothing of what they hold: any two are the same.
impl PartialEq for Stores {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Stores {}
