//! Inputs that are longer than a context, and much longer.

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
