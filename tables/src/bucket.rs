//! The objects of a bucket as files in folders. What was listed once is not asked for again.

use crate::error::TableError;
use crate::tree::{Tree, Under};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use twotower_stores::{Object, Store};

/// A bucket, and what is known of it.
pub struct Bucket {
    store: Store,
    /// The bucket as a path.
    root: PathBuf,
    /// By key, without slashes at its ends.
    folders: HashMap<String, Folder>,
    /// Objects that were looked at alone.
    found: HashMap<String, Option<Object>>,
}

#[derive(Default)]
struct Folder {
    objects: BTreeMap<String, Object>,
    folders: BTreeSet<String>,
}

impl Bucket {
    /// Nothing is asked for yet.
    pub fn new(store: Store) -> Self {
        let root = PathBuf::from(store.root().to_string());
        Self { store, root, folders: HashMap::new(), found: HashMap::new() }
    }

    /// The bucket as a path, which its files begin with.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bucket.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The object under a path that was found.
    ///
    /// # Errors
    /// [`TableError::Store`].
    pub fn object(&mut self, path: &Path) -> Result<Object, TableError> {
        let key = self.key(path);
        match self.known(&key)? {
            Some(object) => Ok(object),
            None => Ok(self.store.head(&key)?),
        }
    }

    fn key(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// The folder that holds a key, if it was listed, and the name in it.
    fn listed<'k>(&self, key: &'k str) -> Option<(&Folder, &'k str)> {
        let (folder, name) = key.rsplit_once('/').unwrap_or(("", key));
        Some((self.folders.get(folder)?, name))
    }

    /// The object under a key.
    fn known(&mut self, key: &str) -> Result<Option<Object>, TableError> {
        if key.is_empty() {
            return Ok(None);
        }
        if let Some((folder, name)) = self.listed(key) {
            return Ok(folder.objects.get(name).cloned());
        }
        if let Some(found) = self.found.get(key) {
            return Ok(found.clone());
        }
        let found = self.store.find(key)?;
        Ok(self.found.entry(key.to_string()).or_insert(found).clone())
    }

    fn folder(&mut self, key: &str) -> Result<&Folder, TableError> {
        if !self.folders.contains_key(key) {
            let found = self.store.list_folder(key)?;
            let named = found.objects.into_iter().map(|object| (object.url.file_name().to_string(), object));
            let folder = Folder { objects: named.collect(), folders: found.folders.into_iter().collect() };
            self.folders.insert(key.to_string(), folder);
        }
        Ok(&self.folders[key])
    }

    fn has_folder(&mut self, key: &str) -> Result<bool, TableError> {
        if self.folders.contains_key(key) {
            let folder = &self.folders[key];
            return Ok(!folder.objects.is_empty() || !folder.folders.is_empty());
        }
        if let Some((folder, name)) = self.listed(key).filter(|_| !key.is_empty()) {
            return Ok(folder.folders.contains(name));
        }
        let folder = self.folder(key)?;
        Ok(!folder.objects.is_empty() || !folder.folders.is_empty())
    }
}

impl Tree for Bucket {
    fn leads_on(&mut self, _: &Path) -> Result<bool, TableError> {
        Ok(true)
    }

    fn exists(&mut self, path: &Path) -> Result<bool, TableError> {
        let Under { file, folder } = self.under(path)?;
        Ok(file || folder)
    }

    fn is_folder(&mut self, path: &Path) -> Result<bool, TableError> {
        let key = self.key(path);
        self.has_folder(&key)
    }

    fn under(&mut self, path: &Path) -> Result<Under, TableError> {
        let key = self.key(path);
        let file = self.known(&key)?.is_some();
        // Below a file that was named alone, nothing is looked for.
        let folder = match file && self.listed(&key).is_none() {
            true => false,
            false => self.has_folder(&key)?,
        };
        Ok(Under { file, folder })
    }

    fn names(&mut self, folder: &Path) -> Result<Option<Vec<OsString>>, TableError> {
        let key = self.key(folder);
        if !self.has_folder(&key)? {
            return Ok(None);
        }
        let folder = self.folder(&key)?;
        let names: BTreeSet<OsString> = folder.objects.keys().chain(&folder.folders).map(OsString::from).collect();
        Ok(Some(names.into_iter().collect()))
    }

    fn all_below(&mut self, folder: &Path) -> Result<(), TableError> {
        let key = self.key(folder);
        // A folder without folders is known already.
        if self.folders.get(&key).is_some_and(|folder| {
            folder.folders.iter().all(|name| {
                let below = if key.is_empty() { name.clone() } else { format!("{key}/{name}") };
                self.folders.contains_key(&below)
            })
        }) {
            return Ok(());
        }
        let objects = self.store.list(&key)?;
        self.folders.insert(key.clone(), Folder::default());
        for object in objects {
            let whole = object.url.key().to_string();
            let mut at = whole.as_str();
            let mut object = Some(object);
            while at.len() > key.len() {
                let (above, name) = at.rsplit_once('/').unwrap_or(("", at));
                let folder = self.folders.entry(above.to_string()).or_default();
                match object.take() {
                    Some(object) => _ = folder.objects.insert(name.to_string(), object),
                    None => _ = folder.folders.insert(name.to_string()),
                }
                at = above;
            }
        }
        Ok(())
    }

    fn place(&mut self, _: &Path) -> Result<Option<(u64, u64)>, TableError> {
        Ok(None)
    }
}
