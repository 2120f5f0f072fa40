//! What a terminal of 80 columns shows of the commands that people type, kept as text in `tests/terminal/`.
//!
//! `TWOTOWER_WRITE_GOLDEN=1 cargo test --release --workspace --test terminal` writes the texts anew. What differs from
//! machine to machine is replaced in them: seconds and MiB, the digits of fractions, recalled items, and the lines of
//! the log, of which each has a time.

mod fixture;

use fixture::Job;
use fixture::system::in_terminal;
use fixture::terminal::{Line, edges, screen, width};
use std::path::Path;
use std::sync::OnceLock;

/// Columns of the terminal.
const COLUMNS: usize = 80;

/// A data set as a company exports it, with Chinese titles, its job by `init`, and what the terminal showed of that.
fn exported() -> &'static (Job, Vec<Line>) {
    static JOB: OnceLock<(Job, Vec<Line>)> = OnceLock::new();
    JOB.get_or_init(|| {
        let job = Job::empty("terminal-exported");
        job.ok("synth data --exported --users 3000 --items 150 --quiet");
        let tables = "--users data/users --items data/items.csv --interactions data/interactions";
        let shown = show(&job, &format!("init {tables} --output pipeline.toml"));
        (job, shown)
    })
}

/// Runs the binary in a terminal, where it must succeed; returns what that shows in the end.
fn show(job: &Job, line: &str) -> Vec<Line> {
    let mut command = job.command(line);
    command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("COLUMNS");
    let (status, written) = in_terminal(command, COLUMNS as u16);
    assert!(status.success(), "twotower {line}\n{written}");
    let lines = screen(&written, COLUMNS);
    for line in &lines {
        let is_bar = ["ETA", "█", "░"].iter().any(|part| line.text.contains(part));
        assert!(!is_bar, "a bar is left: {}", line.text);
    }
    lines.into_iter().filter(|line| !is_log(&line.text)).collect()
}

/// Whether a line is one of the log.
fn is_log(line: &str) -> bool {
    [" INFO ", " WARN "].iter().any(|level| line.contains(level))
}

/// Whether a line may take several rows: a command to be copied is one line however long.
fn is_command(line: &str) -> bool {
    ["  python3 ", "  twotower "].iter().any(|begin| line.starts_with(begin))
}

/// Asserts that each line, but for those of commands and of whole paths, takes one row of the screen.
fn assert_fits(job: &Job, lines: &[Line]) {
    let folder = job.dir.display().to_string();
    for line in lines.iter().filter(|line| !is_command(&line.text) && !line.text.contains(&folder)) {
        assert!(line.rows == 1 && width(&line.text) <= COLUMNS, "{} columns: {}", width(&line.text), line.text);
    }
}

/// Asserts that the rows of the table of metrics end at the same columns, and those of each list begin at the same.
fn assert_aligned(lines: &[Line]) {
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    let (mut tables, mut lists) = (0, 0);
    for (at, text) in texts.iter().enumerate() {
        if text.starts_with(' ') && text.trim_start().starts_with("recall@") {
            let ends = |line: &str| edges(line).into_iter().map(|(_, end)| end).collect::<Vec<_>>();
            for row in &texts[at + 1..at + 6] {
                assert_eq!(ends(row)[1..], ends(text), "\n{text}\n{row}");
            }
            tables += 1;
        }
    }
    let is_listed = |text: &&str| ["  had  ", "  gets ", "  near "].iter().any(|begin| text.starts_with(begin));
    for list in texts.chunk_by(|a, b| is_listed(a) && is_listed(b)).filter(|list| is_listed(&list[0])) {
        let begins = |line: &str| edges(line).into_iter().map(|(begin, _)| begin).take(4).collect::<Vec<_>>();
        let longest = list.iter().map(|line| begins(line)).max_by_key(Vec::len).unwrap();
        for line in list {
            // One without a title has a cell less.
            assert_eq!(begins(line), longest[..begins(line).len()], "\n{}", list.join("\n"));
        }
        lists += 1;
    }
    assert!(tables + lists > 0, "neither a table nor a list: {texts:?}");
}

/// A word without what differs from machine to machine.
fn without_chance(word: &str) -> String {
    let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let number = word.trim_matches(|c: char| !c.is_ascii_digit());
    let is_fraction = number.contains('.') && number.parse::<f64>().is_ok();
    if is_fraction { word.replace('-', "+").chars().map(digits).collect() } else { word.to_string() }
}

/// The lines of a stage as one, which says no seconds and MiB of this machine: where a line ends depends on these.
fn stage_line(lines: &str) -> String {
    let words: Vec<&str> = lines.split(' ').collect();
    // Which epoch is the best may differ in the last digits of a machine's arithmetic.
    let is_epoch = |at: usize| at > 0 && words[at - 1] == "epoch";
    let word = |at: usize| match words.get(at + 1).map(|next| next.trim_end_matches([',', ')'])) {
        Some("s") if words[at].starts_with('(') => "(0.0",
        Some("MiB") => "000",
        Some("of") if is_epoch(at) => "0",
        _ => words[at],
    };
    (0..words.len()).map(word).collect::<Vec<_>>().join(" ")
}

/// Lines without what differs from machine to machine.
fn settled(job: &Job, lines: &[Line]) -> String {
    let folder = job.dir.display().to_string();
    let mut settled: Vec<String> = Vec::new();
    let mut lines = lines.iter().map(|line| line.text.as_str()).peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("Warning: ") {
            // Whether a baseline is better is chance on so little data.
            while lines.peek().is_some_and(|line| !line.is_empty()) {
                lines.next();
            }
            continue;
        }
        if line.split_once(": ").is_some_and(|(stage, _)| STAGES.contains(&stage)) {
            let mut whole = line.to_string();
            while !whole.ends_with(')') {
                whole = format!("{whole} {}", lines.next().unwrap_or(")").trim());
            }
            settled.push(stage_line(&whole));
            continue;
        }
        let line = line.replace(&folder, "FOLDER");
        let line = line.split(' ').map(without_chance).collect::<Vec<_>>().join(" ");
        // Which items are recalled may differ in the last digits of a machine's arithmetic.
        let is_recalled = ["  gets  ", "  near  "].iter().any(|begin| line.starts_with(begin));
        settled.push(match edges(&line).get(2).filter(|_| is_recalled) {
            // All before the title is ASCII, a byte a column.
            Some((begin, end)) => format!("{}{}  TITLE", &line[..*begin], "#".repeat(end - begin)),
            None => line,
        });
    }
    format!("{}\n", settled.join("\n").trim_end())
}

/// The stages of which lines tell.
const STAGES: [&str; 7] = ["encode-features", "train", "infer-items", "infer-users", "recall", "evaluate", "check"];

/// Asserts that lines are those that are kept.
fn assert_kept(job: &Job, name: &str, lines: &[Line]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/terminal").join(name);
    let found = settled(job, lines);
    if std::env::var_os("TWOTOWER_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &found).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        kept == found,
        "{} differs from what is shown now (TWOTOWER_WRITE_GOLDEN=1 keeps it):\n{found}",
        path.display()
    );
}

#[test]
fn the_screen_shows_what_is_left_after_returns_and_erased_lines() {
    let texts = |written: &str| -> Vec<(String, usize)> {
        screen(written, 10).into_iter().map(|line| (line.text, line.rows)).collect()
    };
    let shown =
        |lines: &[(&str, usize)]| lines.iter().map(|(text, rows)| (text.to_string(), *rows)).collect::<Vec<_>>();
    assert_eq!(
        texts("bar 1/9\r\u{1b}[2Klog\r\nbar 2/9\r\u{1b}[2Kdone\r\n"),
        shown(&[("log", 1), ("done", 1), ("", 1)])
    );
    assert_eq!(texts("bar 1/9 ETA 5 s\r\u{1b}[2K"), shown(&[("bar 1/9 ET", 1), ("", 1)]), "one row of two is erased");
    assert_eq!(texts("一二三四五\r\n一二三四五六\r\n"), shown(&[("一二三四五", 1), ("一二三四五六", 2), ("", 1)]));
    assert_eq!(edges("  had  北京  a b"), [(2, 5), (7, 11), (13, 16)]);
}

#[test]
fn demo_is_shown_as_it_is_kept() {
    let job = Job::empty("terminal-demo");
    let lines = show(
        &job,
        "demo demo --users 6000 --items 100 --engine native --set train.epochs=3 --set gates.off=[\"metric\"]",
    );
    assert_fits(&job, &lines);
    assert_aligned(&lines);
    assert_kept(&job, "demo.txt", &lines);
}

#[test]
fn tables_with_chinese_names_are_shown_as_it_is_kept_from_init_to_lookup() {
    let (job, init) = exported();
    assert_kept(job, "init.txt", init);
    let run = show(job, "run --run runs/day --engine native --set train.epochs=3 --set gates.off=[\"metric\"]");
    assert_fits(job, &run);
    assert_aligned(&run);
    assert_kept(job, "run.txt", &run);
    let again = show(job, "run --run runs/day --engine native --set train.epochs=3 --set gates.off=[\"metric\"]");
    assert_fits(job, &again);
    assert_kept(job, "run-again.txt", &again);
    for (name, line) in
        [("lookup-user.txt", "lookup runs/day --user USER"), ("lookup-item.txt", "lookup runs/day --item 000004")]
    {
        let user = run.iter().find_map(|line| line.text.strip_prefix("user ")).unwrap().split(' ').next().unwrap();
        let lines = show(job, &line.replace("USER", user));
        assert_fits(job, &lines);
        assert_aligned(&lines);
        assert_kept(job, name, &lines);
    }
}
