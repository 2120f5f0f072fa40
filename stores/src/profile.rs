//! Access keys of S3 from the files that the AWS command line writes.

use std::path::{Path, PathBuf};

/// An access key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
}

/// The access key of the profile that the environment names (`AWS_PROFILE`, else `default`), where the file of shared
/// credentials has one. Profiles that name other sources of credentials are none.
pub fn access_key() -> Option<AccessKey> {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let home = || Some(PathBuf::from(var("HOME")?).join(".aws/credentials"));
    let file = var("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(home)?;
    let profile = var("AWS_PROFILE").unwrap_or_else(|| "default".to_string());
    of_file(&file, &profile)
}

fn of_file(file: &Path, profile: &str) -> Option<AccessKey> {
    of_text(&std::fs::read_to_string(file).ok()?, profile)
}

fn of_text(text: &str, profile: &str) -> Option<AccessKey> {
    let mut inside = false;
    let (mut id, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let name = name.trim();
            inside = name.strip_prefix("profile ").unwrap_or(name) == profile;
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| inside && !line.starts_with('#')) else { continue };
        match key.trim() {
            "aws_access_key_id" => id = Some(value.trim().to_string()),
            "aws_secret_access_key" => secret = Some(value.trim().to_string()),
            "aws_session_token" => token = Some(value.trim().to_string()),
            _ => {}
        }
    }
    Some(AccessKey { id: id?, secret: secret?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_named_profile_is_found() {
        let text = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key=B=C\n\n[other]\naws_access_key_id=D\naws_secret_access_key=E\naws_session_token=F\n[role]\nrole_arn=x\n";
        let key = |id: &str, secret: &str, token: Option<&str>| AccessKey {
            id: id.into(),
            secret: secret.into(),
            token: token.map(Into::into),
        };
        assert_eq!(of_text(text, "default"), Some(key("A", "B=C", None)));
        assert_eq!(of_text(text, "other"), Some(key("D", "E", Some("F"))));
        assert_eq!(of_text(text, "role"), None);
        assert_eq!(of_text(text, "none"), None);
    }
}
