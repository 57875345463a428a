//! Inputs that are longer than a context, and much longer.

use std::fs::{self, File};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::support::Sandbox;

#[test]
fn far_too_much_input_is_refused_or_cut_at_once() {
    let sandbox = Sandbox::with_smol();
    let line = "Failed password for root from 10.0.0.1 port 4711 ssh2\n";
    let (log, end) = (line.repeat(400_000), line.repeat(1000));
    let run = |flags: &[&str], input: &str| {
        let words = [
            "run",
            "smol",
            "-",
            "Sum up.",
            "-n",
            "8",
            "--temperature",
            "0",
            "--no-cache",
        ];
        sandbox.puna(&[&words, flags].concat(), input)
    };
    let refused = run(&[], &log);
    assert_eq!((refused.status, refused.stdout.as_str()), (Some(4), ""));
    assert!(refused.stderr.contains("of about "), "{refused:?}");
    // What is kept is what is kept of a text that is only too long.
    for part in ["head", "tail", "middle"] {
        let flags = ["--num-ctx", "300", "--overflow", part];
        let cut = run(&flags, &log);
        assert!(cut.stderr.contains(" tokens were dropped"), "{cut:?}");
        assert_eq!(cut.ok(), run(&flags, &end).ok(), "{part}");
    }
    let shown = sandbox.puna(&["render", "smol", "-", "--num-ctx", "64"], &end);
    assert!(shown.ok().len() > end.len());
    let server = sandbox.serve(&[]);
    let body = |prompt: &str, truncate: bool| {
        serde_json::json!({"model": "smol", "prompt": prompt, "stream": false, "truncate": truncate,
            "options": {"num_ctx": 300, "num_predict": 8, "temperature": 0}})
        .to_string()
    };
    let [long, longer] = [&end, &log].map(|text| server.post("/api/generate", &body(text, true)));
    assert_eq!(long["response"], longer["response"]);
    let refused = server.ask("POST", "/api/generate", &body(&log, false));
    assert_eq!(refused.status, 400, "{}", refused.error());
}

#[test]
fn fifty_megabytes_are_refused_in_little_memory() {
    let sandbox = Sandbox::with_smol();
    let line = "Failed password for root from 10.0.0.1 port 4711 ssh2\n";
    let log = sandbox.file("big.log", line.repeat(50_000_000 / line.len()));
    let mut command = sandbox.command(&["run", "smol", "-", "Sum up."]);
    let input = File::open(log).unwrap();
    let command = command.stdin(input).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut peak_bytes, mut samples) = (0, 0);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if let Some(bytes) = anonymous_bytes(child.id()) {
            peak_bytes = peak_bytes.max(bytes);
            samples += 1;
        }
        thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(status.code(), Some(4));
    // The text is held once: with a second copy it would be 170 MB.
    assert!(
        samples > 20 && peak_bytes > 50_000_000,
        "{samples} samples, {peak_bytes}"
    );
    assert!(
        peak_bytes <= 150_000_000,
        "{peak_bytes} bytes of anonymous memory"
    );
}

/// The anonymous memory of a process; `None` once it has ended.
fn anonymous_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}
