//! Clients of the providers, from settings and environment.

use crate::error::{ErrorKind, StoreError};
use crate::profile;
use crate::settings::{ConditionalPut, StoreSettings};
use crate::url::{Scheme, StoreUrl};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a request is repeated; signatures hold for a quarter of an hour.
pub const RETRY_TIMEOUT: Duration = Duration::from_secs(180);
/// How many times the time without a byte a whole request may take.
const WHOLE: u32 = 10;

/// The client of a bucket.
pub struct Client {
    /// Repeats requests that failed for a reason that may pass.
    pub objects: Arc<dyn ObjectStore>,
    /// Sends each request once: of conditional writes it matters how often they were sent.
    pub once: Arc<dyn ObjectStore>,
    /// Uploads in parts; none where nothing can be written.
    pub parts: Option<Arc<dyn MultipartStore>>,
    /// What lists unfinished uploads.
    pub s3: Option<Arc<AmazonS3>>,
}

/// The client of the bucket of `url`.
///
/// # Errors
/// [`ErrorKind::Settings`] or [`ErrorKind::Credentials`].
pub fn open(url: &StoreUrl, settings: &StoreSettings) -> Result<Client, StoreError> {
    // Fails where a provider is chosen already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    refuse_plain(url, settings)?;
    match url.scheme() {
        Scheme::S3 => {
            let open = |retries| Ok(Arc::new(s3(url, settings, retries).build().map_err(failed(url))?));
            let (many, once) = (open(settings.retries)?, open(0)?);
            Ok(Client { objects: many.clone(), once, parts: Some(many.clone()), s3: Some(many) })
        }
        Scheme::Azure => {
            let open = |retries| Ok(Arc::new(azure(url, settings, retries).build().map_err(failed(url))?));
            let (many, once) = (open(settings.retries)?, open(0)?);
            Ok(Client { objects: many.clone(), once, parts: Some(many), s3: None })
        }
        Scheme::Gcs => {
            let open = |retries| Ok(Arc::new(gcs(url, settings, retries).build().map_err(failed(url))?));
            let (many, once) = (open(settings.retries)?, open(0)?);
            Ok(Client { objects: many.clone(), once, parts: Some(many), s3: None })
        }
        Scheme::Http => {
            let builder = HttpBuilder::new()
                .with_url(url.root().to_string())
                .with_client_options(options(settings, true))
                .with_retry(retry(settings.retries));
            let objects: Arc<dyn ObjectStore> = Arc::new(builder.build().map_err(failed(url))?);
            Ok(Client { objects: objects.clone(), once: objects, parts: None, s3: None })
        }
    }
}

fn s3(url: &StoreUrl, settings: &StoreSettings, retries: u32) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(url.bucket())
        .with_retry(retry(retries))
        .with_conditional_put(match settings.conditional_put {
            ConditionalPut::Etag => S3ConditionalPut::ETagMatch,
            ConditionalPut::Disabled => S3ConditionalPut::Disabled,
        });
    let is_given = |builder: &AmazonS3Builder, key| builder.get_config_value(&key).is_some();
    let others = [
        AmazonS3ConfigKey::AccessKeyId,
        AmazonS3ConfigKey::WebIdentityTokenFile,
        AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
    ];
    if !others.into_iter().any(|key| is_given(&builder, key))
        && let Some(key) = profile::access_key()
    {
        builder = builder.with_access_key_id(key.id).with_secret_access_key(key.secret);
        if let Some(token) = key.token {
            builder = builder.with_token(token);
        }
    }
    let allow_http = settings.allow_http || env_is_true("AWS_ALLOW_HTTP");
    builder = builder.with_client_options(options(settings, allow_http));
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    if let Some(virtual_hosted) = settings.virtual_hosted_style {
        builder = builder.with_virtual_hosted_style_request(virtual_hosted);
    }
    if settings.unsigned {
        builder = builder.with_skip_signature(true);
    }
    // Requests that delete many objects differ between what speaks the interface of S3.
    let is_amazon =
        !is_given(&builder, AmazonS3ConfigKey::Endpoint) && !is_given(&builder, AmazonS3ConfigKey::S3Endpoint);
    builder.with_disable_bulk_delete(!is_amazon)
}

fn azure(url: &StoreUrl, settings: &StoreSettings, retries: u32) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::from_env().with_url(url.root().to_string()).with_retry(retry(retries));
    let emulator = builder.get_config_value(&AzureConfigKey::UseEmulator).is_some_and(|value| is_true(&value));
    builder = builder.with_client_options(options(settings, settings.allow_http || emulator));
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if settings.unsigned { builder.with_skip_signature(true) } else { builder }
}

fn gcs(url: &StoreUrl, settings: &StoreSettings, retries: u32) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(url.bucket())
        .with_retry(retry(retries))
        .with_client_options(options(settings, settings.allow_http));
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if settings.unsigned { builder.with_skip_signature(true) } else { builder }
}

fn options(settings: &StoreSettings, allow_http: bool) -> ClientOptions {
    let stalled = Duration::from_secs(settings.timeout_seconds.into());
    ClientOptions::new()
        .with_allow_http(allow_http)
        .with_connect_timeout(CONNECT.min(stalled))
        .with_read_timeout(stalled)
        .with_timeout(stalled * WHOLE)
}

fn retry(retries: u32) -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(10), base: 2.0 };
    RetryConfig { backoff, max_retries: retries as usize, retry_timeout: RETRY_TIMEOUT }
}

/// Refuses an endpoint without TLS that is not allowed, which would fail at the first request, less clearly.
fn refuse_plain(url: &StoreUrl, settings: &StoreSettings) -> Result<(), StoreError> {
    let names: &[&str] = match url.scheme() {
        Scheme::S3 => &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"],
        Scheme::Azure => &["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"],
        Scheme::Gcs | Scheme::Http => &[],
    };
    let of_env = || names.iter().find_map(|name| std::env::var(name).ok());
    let endpoint = settings.endpoint.clone().or_else(of_env);
    let is_plain = endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let is_allowed = settings.allow_http || (url.scheme() == Scheme::S3 && env_is_true("AWS_ALLOW_HTTP"));
    if is_plain && !is_allowed && url.scheme() != Scheme::Http {
        let said = format!("the endpoint {} has no TLS; set `store.allow_http = true`", endpoint.unwrap_or_default());
        return Err(StoreError::new(ErrorKind::Settings, "open", url.root(), said));
    }
    Ok(())
}

fn env_is_true(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| is_true(&value))
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on" | "y")
}

fn failed(url: &StoreUrl) -> impl Fn(object_store::Error) -> StoreError {
    let url = url.root();
    move |error| {
        let said = error.to_string();
        let names_credentials = ["ccount must be", "redential", "ccess key", "AccessKey", "SecretAccessKey"];
        let kind = match names_credentials.iter().any(|part| said.contains(part)) {
            true => ErrorKind::Credentials,
            false => ErrorKind::Settings,
        };
        StoreError::new(kind, "open", &url, said)
    }
}
