//! The page about a run: that browsers can read it, that nothing of the data steers it, and what it says.

mod fixture;

use fixture::sheet::Column;
use fixture::{ITEMS, Job, items, no_server};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Titles that would break a page that did not escape or bound them.
const HOSTILE: [&str; 6] = [
    "</script></style><img src=x onerror=alert(1)>",
    "\"'><b>&amp;",
    "مرحبا \u{202e}txt.exe",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "bell\u{7}and\u{1b}[31m\nline",
    "{{ 7 * 7 }}{% raw %}",
];
/// A folder's name that is markup.
const MARKUP: &str = "runs/b<i>&\"x\"";

/// A small job with such titles and two complete runs.
fn job() -> &'static Job {
    static JOB: OnceLock<Job> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::small("report");
        let title = |i: usize| match HOSTILE.get(i % 8) {
            Some(title) => title.to_string(),
            None => "verylongwordwithoutanyspace".repeat(400),
        };
        let titled = items().with("name", Column::Text((0..ITEMS).map(|i| Some(title(i))).collect()));
        titled.write_parquet(&job.path("items.parquet"));
        let text = std::fs::read_to_string(job.path("pipeline.toml")).unwrap();
        let off = "[\"lists\", \"coverage\", \"overlap\", \"users\", \"drift\"]";
        job.write("pipeline.toml", &format!("{text}\n[gates]\noff = {off}\n"));
        job.ok("run --run runs/a --accept metric --quiet");
        job.ok(&format!("run --run {MARKUP} --accept metric --set train.seed=7 --quiet"));
        job
    })
}

fn page(job: &Job, options: &str, name: &str) -> String {
    job.ok(&format!("report {options} --quiet --output {name}"));
    std::fs::read_to_string(job.path(name)).unwrap()
}

/// Panics unless every element of the page ends in the order in which it began; the names of all.
fn elements(page: &str) -> Vec<String> {
    const VOID: [&str; 3] = ["meta", "br", "!DOCTYPE"];
    let (mut open, mut found): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut rest = page;
    while let Some(begin) = rest.find('<') {
        let end = begin + rest[begin..].find('>').expect("a tag ends");
        let tag = &rest[begin + 1..end];
        rest = &rest[end + 1..];
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop().as_deref(), Some(name), "before {}", &rest[..rest.len().min(80)]),
            None => {
                assert!(tag.matches('"').count().is_multiple_of(2) && !tag.contains('<'), "{tag}");
                let name = tag.trim_end_matches('/').split_whitespace().next().unwrap().to_string();
                if !tag.ends_with('/') && !VOID.contains(&name.as_str()) {
                    open.push(name.clone());
                }
                found.push(name);
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
    found
}

#[test]
fn a_page_is_whole_in_both_languages_and_says_the_same_figures() {
    let job = job();
    let [en, zh] = ["en", "zh"].map(|lang| page(job, &format!("runs/a --lang {lang}"), &format!("whole-{lang}.html")));
    assert_eq!(elements(&en), elements(&zh));
    assert!(en.contains("<html lang=\"en\">") && zh.contains("<html lang=\"zh-CN\">"));
    assert!(en.contains("Verdict of the gates") && zh.contains("检查结论") && !zh.contains("Verdict of the gates"));
    let metrics = std::fs::read(job.path("runs/a/evaluation/metrics.json")).unwrap();
    let metrics: serde_json::Value = serde_json::from_slice(&metrics).unwrap();
    for model in ["model", "popularity"] {
        let value = format!("{:.4}", metrics["models"][model]["ndcg@10"].as_f64().unwrap());
        assert!(en.contains(&value) && zh.contains(&value), "{model} {value}");
    }
    assert_eq!(en, page(job, "runs/a", "again.html"), "the bytes follow from the run");
}

#[test]
fn nothing_of_the_data_steers_the_page_and_nothing_is_fetched() {
    let job = job();
    let page = page(job, &format!("{MARKUP} --compare runs/a"), "hostile.html");
    let elements = elements(&page);
    for name in ["script", "img", "link", "iframe", "object"] {
        assert!(!elements.iter().any(|element| element == name), "{name}");
    }
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("url(") && !page.contains("@import"));
    assert!(page.contains("onerror") && page.contains("&lt;img"), "a title with markup is shown as text");
    assert!(page.contains("b&lt;i&gt;&amp;&quot;x&quot;"), "the folder's name is shown as text");
    assert!(page.contains("{{ 7 * 7 }}"), "text of the data is no template");
    for hidden in ['\u{7}', '\u{1b}', '\u{202e}'] {
        assert!(!page.contains(hidden), "{hidden:?}");
    }
}

#[test]
fn the_figures_are_told_as_json_and_no_page_is_written_unless_it_is_named() {
    let job = job().copy("report-json");
    let figures = job.json(&format!("report {MARKUP} --compare runs/a"));
    assert!(!job.path("report.html").exists());
    let stages: Vec<&str> =
        figures["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    let all = ["encode-features", "train", "infer items", "infer users", "recall", "evaluate", "check"];
    assert_eq!(stages, all);
    assert_eq!(figures["served"]["users"], 150);
    assert_eq!(figures["data"]["compared_with"], "a");
    // Both runs read the same tables.
    let age = figures["data"]["features"].as_array().unwrap().iter().find(|f| f["name"] == "age").unwrap();
    assert_eq!((age["drift"].as_f64(), age["missing"] == age["missing_before"]), (Some(0.0), true));
    assert_eq!(figures["nights"].as_array().unwrap().len(), 2);
    let shown = figures["users"].as_array().unwrap();
    assert!(shown.len() == 20 && shown.iter().all(|user| user["history"][0]["title"].is_string()));
    let lists = &figures["lists"];
    assert!(lists["distinct"].as_u64() <= lists["sampled"].as_u64() && lists["distinct"].as_u64() > Some(0));
}

#[test]
fn what_a_run_does_not_have_is_said_and_what_is_no_run_is_refused() {
    let job = job().copy("report-less");
    for folder in ["evaluation", "gates", "recall", "manifests/recall"] {
        std::fs::remove_dir_all(job.path("runs/a").join(folder)).unwrap();
    }
    let page = page(&job, "runs/a", "less.html");
    elements(&page);
    for said in ["it was not evaluated.", "its results are not complete.", "The gates were not asked", "Not checked"] {
        assert!(page.contains(said), "{said}");
    }
    std::fs::create_dir(job.path("runs/empty")).unwrap();
    job.refused("report runs/empty", 1, &["report", "twotower run --run runs/empty"]);
    job.refused("report runs/a --output runs/a/page.html", 2, &["--output runs/a/page.html", "name a file elsewhere"]);
}

#[test]
fn no_page_overflows_its_window_in_a_browser() {
    let job = job();
    for lang in ["en", "zh"] {
        page(job, &format!("{MARKUP} --compare runs/a --lang {lang}"), &format!("screen-{lang}.html"));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/report_screens.py");
    let pages = ["en", "zh"].map(|lang| job.path(&format!("screen-{lang}.html")));
    let done = Command::new("python3").arg(script).args(pages).arg("--dark").output().unwrap();
    match done.status.code() {
        Some(0) => {}
        Some(3) => no_server("there is no Chromium, in which pages are looked at (scripts/test_services.sh)"),
        _ => panic!("{}", String::from_utf8_lossy(&done.stderr)),
    }
}
