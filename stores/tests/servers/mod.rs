//! Servers that tests of object stores run against: SeaweedFS for S3 and Azurite for Azure Blob Storage, on loopback and
//! free ports, in a temporary folder; and a proxy that makes faults. They end with the process that started them.

#![allow(dead_code, reason = "every test file uses its own part of this module")]

pub mod proxy;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use twotower_stores::{Store, StoreSettings, StoreUrl, Stores};

/// The bucket, and the container.
pub const BUCKET: &str = "test";
const ACCESS_KEY: &str = "test-key";
const SECRET: &str = "test-secret";
/// The account that every Azurite has, and its key, which its documentation names.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const PATIENCE: Duration = Duration::from_secs(120);

/// A server that runs.
pub struct Server {
    /// Its port on loopback.
    pub port: u16,
    /// The shell that ends it when its standard input is closed, as it is when this process ends.
    _keeper: Child,
}

/// The servers, started by the first test that needs them; none, with the reason, where they are not there.
pub static SERVERS: LazyLock<Result<Servers, String>> = LazyLock::new(Servers::start);

/// Both of them.
pub struct Servers {
    /// SeaweedFS.
    pub s3: Server,
    /// Azurite.
    pub azure: Server,
}

/// The servers. Where there are none, that is a failure with `TWOTOWER_REQUIRE_SERVERS=1` or
/// `TWOTOWER_REQUIRE_ALL=1`, and said elsewhere.
pub fn servers() -> Option<&'static Servers> {
    match &*SERVERS {
        Ok(servers) => Some(servers),
        Err(why) => {
            let is_set = |name: &str| std::env::var(name).is_ok_and(|value| value == "1");
            let required = is_set("TWOTOWER_REQUIRE_SERVERS") || is_set("TWOTOWER_REQUIRE_ALL");
            assert!(!required, "everything must be tested, and {why}");
            eprintln!("not tested: {why}");
            None
        }
    }
}

impl Servers {
    fn start() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let script = [root, root.parent().unwrap()].map(|root| root.join("scripts/object_stores.sh"));
        let script = script.into_iter().find(|script| script.exists()).unwrap();
        let made = Command::new("bash").arg(&script).output().map_err(|e| format!("no bash: {e}"))?;
        let said = String::from_utf8_lossy(&made.stdout).into_owned();
        if !made.status.success() {
            let error = String::from_utf8_lossy(&made.stderr).into_owned();
            return Err(format!("{} found no servers of object stores: {error}", script.display()));
        }
        let program = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_string();
        let servers = Self { s3: seaweedfs(&program("WEED=")), azure: azurite(&program("AZURITE=")) };
        // Tests that run at the same time wait for this.
        for (name, value) in servers.environment() {
            // SAFETY: no other thread of this process reads or writes its environment before the servers are there.
            unsafe { std::env::set_var(name, value) };
        }
        Ok(servers)
    }

    /// What the environment must hold for the stores to be reached.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
            ("AWS_ENDPOINT_URL_S3", self.s3_endpoint()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.into()),
            ("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY.into()),
            ("AZURE_STORAGE_ENDPOINT", self.azure_endpoint()),
        ]
    }

    /// Its URL.
    pub fn s3_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.s3.port)
    }

    /// Its URL.
    pub fn azure_endpoint(&self) -> String {
        azure_endpoint(self.azure.port)
    }

    /// The S3 bucket.
    pub fn s3(&self) -> Store {
        store("s3", &StoreSettings { endpoint: Some(self.s3_endpoint()), ..settings() })
    }

    /// The Azure container.
    pub fn azure(&self) -> Store {
        store("az", &StoreSettings { endpoint: Some(self.azure_endpoint()), ..settings() })
    }

    /// Both.
    pub fn both(&self) -> [Store; 2] {
        [self.s3(), self.azure()]
    }
}

/// The URL of an Azurite.
pub fn azure_endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}/{ACCOUNT}")
}

/// Settings for servers on loopback.
pub fn settings() -> StoreSettings {
    StoreSettings { allow_http: true, timeout_seconds: 20, ..StoreSettings::default() }
}

/// The bucket, reached by some settings.
pub fn store(scheme: &str, settings: &StoreSettings) -> Store {
    let url = StoreUrl::parse(&format!("{scheme}://{BUCKET}")).unwrap().unwrap();
    Stores::new(settings.clone()).open(&url).unwrap()
}

/// A folder of a bucket that no other test has.
pub fn folder(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// Starts a server in a new folder, which goes when the server has ended.
fn keep(command: Command, folder: &Path) -> Child {
    // `cat` ends when the test does, however that ends.
    let script = r#"dir="$1"; shift; "$@" >"$dir/log" 2>&1 & pid=$!; cat; kill $pid; wait $pid 2>/dev/null; rm -rf "$dir" $(cat "$dir/sockets" 2>/dev/null)"#;
    let (program, arguments) = (command.get_program().to_owned(), command.get_args().map(ToOwned::to_owned));
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(folder).arg(program).args(arguments.collect::<Vec<_>>());
    shell.env("TMPDIR", folder);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn temporary(name: &str) -> PathBuf {
    tempfile::Builder::new().prefix(name).tempdir().unwrap().keep()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port that is free, as are those behind it and those 10,000 above, which SeaweedFS takes as well.
fn free_ports(number: u16) -> u16 {
    let start = 12_000 + (std::process::id() % 1_000) as u16 * 8;
    let fits = |first: &u16| (*first..first + number).all(|port| is_free(port) && is_free(port + 10_000));
    (start..22_000).step_by(8).chain((12_000..start).step_by(8)).find(fits).expect("free ports")
}

fn seaweedfs(program: &str) -> Server {
    let dir = temporary("seaweedfs");
    let keys = format!(
        r#"{{"identities": [{{"name": "test", "credentials": [{{"accessKey": "{ACCESS_KEY}", "secretKey": "{SECRET}"}}], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}}]}}"#
    );
    fs::write(dir.join("s3.json"), keys).unwrap();
    let first = free_ports(4);
    let [master, volume, filer, s3] = [0, 1, 2, 3].map(|by| first + by);
    // It leaves its sockets behind.
    let sockets = [master, volume, filer, s3]
        .map(|port| format!("/tmp/seaweedfs-*-{port}.sock /tmp/seaweedfs-*-{}.sock", port + 10_000));
    fs::write(dir.join("sockets"), sockets.join(" ")).unwrap();
    let mut command = Command::new(program);
    command
        .args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"])
        .args([
            "-master.volumeSizeLimitMB=128",
            "-volume.max=64",
            "-filer",
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ])
        .arg(format!("-dir={}", dir.display()))
        .arg(format!("-filer.localSocket={}", dir.join("filer.sock").display()))
        .arg(format!("-s3.localSocket={}", dir.join("s3.sock").display()))
        .arg(format!("-s3.config={}", dir.join("s3.json").display()))
        .arg(format!("-master.port={master}"))
        .arg(format!("-volume.port={volume}"))
        .arg(format!("-filer.port={filer}"))
        .arg(format!("-s3.port={s3}"));
    let server = Server { port: s3, _keeper: keep(command, &dir) };
    wait_until(&dir, || status(s3, "GET", "/status") == Some(200));
    // A bucket is a folder of the filer.
    wait_until(&dir, || status(filer, "POST", &format!("/buckets/{BUCKET}/")).is_some_and(|status| status < 300));
    server
}

fn azurite(program: &str) -> Server {
    let dir = temporary("azurite");
    let port = free_ports(1);
    let mut command = Command::new(program);
    command
        .args(["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobHost", "127.0.0.1"])
        .arg("--location")
        .arg(&dir)
        .arg("--blobPort")
        .arg(port.to_string());
    let server = Server { port, _keeper: keep(command, &dir) };
    wait_until(&dir, || status(port, "GET", "/").is_some());
    let create = r#"
import base64, datetime, hashlib, hmac, sys, urllib.request
endpoint, account, key, container = sys.argv[1:]
now = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
headers = {"x-ms-date": now, "x-ms-version": "2023-11-03", "Content-Length": "0"}
resource = f"/{account}/{account}/{container}\nrestype:container"
text = "PUT" + "\n" * 12 + f"x-ms-date:{now}\nx-ms-version:2023-11-03\n" + resource
sign = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
headers["Authorization"] = f"SharedKey {account}:{sign}"
urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{container}?restype=container", method="PUT", headers=headers))
"#;
    let made = Command::new("python3")
        .args(["-c", create, &azure_endpoint(port), ACCOUNT, ACCOUNT_KEY, BUCKET])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    server
}

fn wait_until(dir: &Path, ready: impl Fn() -> bool) {
    let begun = Instant::now();
    while !ready() {
        let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(begun.elapsed() < PATIENCE, "the server did not start: {}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The status that a server answers by.
fn status(port: u16, method: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).ok()?;
    std::str::from_utf8(&answer[9..]).ok()?.parse().ok()
}
