//! Interactive sessions in a real terminal (tmux): keyboard input and screen content.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{PUNA, Sandbox};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Longest wait for screen content: a model loads while other tests compute.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A terminal that runs one line of shell.
pub struct Terminal {
    server: String,
}

impl Terminal {
    pub fn new(sandbox: &Sandbox, (columns, rows): (u32, u32), line: &str) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let terminal = Terminal {
            server: format!("puna-{}-{number}", std::process::id()),
        };
        let folder = std::path::Path::new(PUNA).parent().unwrap().display();
        let shell = format!(
            "cd {home}; export HOME={home} PATH={folder}:/usr/bin:/bin; {line}; echo status $?; cat",
            home = sandbox.home.display()
        );
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["new-session", "-d", "-x", &columns, "-y", &rows, &shell]);
        terminal
    }

    pub fn tmux(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command
            .args(["-L", &self.server, "-f", "/dev/null"])
            .args(words);
        command.env("TERM", "xterm").env_remove("TMUX");
        let done = command.output().expect("tmux is there");
        assert!(done.status.success(), "{words:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    pub fn types(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    pub fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Types a line.
    pub fn says(&self, line: &str) {
        self.types(line);
        self.press("Enter");
    }

    /// The screen's content with its scrollback.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-200"])
    }

    /// Waits until the screen satisfies `wanted`; returns its content.
    pub fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(started.elapsed() < WAIT_MAX, "no {what}:\n{screen}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the screen contains these words.
    pub fn sees(&self, words: &str) -> String {
        self.shows(words, |screen| screen.contains(words))
    }

    /// Waits until the last non-empty line equals this.
    pub fn rests_at(&self, line: &str) -> String {
        self.shows(line, |screen| {
            screen.trim_end().lines().last().map(str::trim_end) == Some(line)
        })
    }

    /// Waits until more than this many lines are there.
    pub fn fills(&self, lines: usize) {
        self.shows("further lines", |screen| {
            screen.trim_end().lines().count() > lines
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The session may have ended by itself.
        let server = ["-L", &self.server, "kill-server"];
        let _ = Command::new("tmux").args(server).output();
    }
}

const RUN: &str = "puna run smol --temperature 0 --seed 1 -n 24";

#[test]
fn a_session_answers_remembers_and_leaves() {
    let sandbox = Sandbox::with_smol();
    let terminal = Terminal::new(&sandbox, (80, 24), RUN);
    terminal.sees(">>> Send a message (/? for help)");
    terminal.says("Say hello to Anna.");
    terminal.rests_at(">>>");
    terminal.says("/export chat.jsonl");
    terminal.sees("Wrote chat.jsonl.");
    let chat = std::fs::read_to_string(sandbox.home.join("chat.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = chat
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["content"], "Say hello to Anna.");
    let answer = lines[1]["content"].as_str().unwrap();
    // The screen shows the answer once, however it is wrapped.
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(flat(&terminal.screen()).matches(&flat(answer)).count(), 1);
    terminal.says("/byebye");
    terminal.sees("error: unknown command '/byebye'");
    terminal.says("/undo");
    terminal.sees("Dropped the last prompt.");
    terminal.says("/retry");
    terminal.sees("error: no prompt to answer again");
    terminal.press("C-d");
    terminal.sees("status 0");
    let history = std::fs::read_to_string(sandbox.home.join(".local/state/puna/history"));
    assert!(history.unwrap().contains("Say hello to Anna."));
}

#[test]
fn ctrl_c_ends_the_answer_and_keeps_the_session() {
    let sandbox = Sandbox::with_smol();
    let line = "puna run smol --temperature 0 -o stop=zzz -n 4000 --num-ctx 8000";
    let terminal = Terminal::new(&sandbox, (80, 24), line);
    terminal.sees(">>>");
    terminal.says("Write a long story about the sea, in ten chapters.");
    terminal.fills(4);
    terminal.press("C-c");
    terminal.rests_at(">>>");
    terminal.says("/export exported.md");
    terminal.sees("Wrote exported.md.");
    terminal.says("/export exported.md");
    terminal.sees("error: cannot write exported.md: File exists");
    let exported = std::fs::read_to_string(sandbox.home.join("exported.md")).unwrap();
    assert!(
        exported.contains("## Assistant\n\n"),
        "the conversation is exported: {exported}"
    );
    terminal.press("C-c");
    terminal.sees("Use Ctrl + d or /bye to exit.");
    terminal.says("/bye");
    terminal.sees("status 0");
}

#[test]
fn settings_last_and_models_are_saved_and_loaded() {
    let sandbox = Sandbox::with_smol();
    let terminal = Terminal::new(&sandbox, (100, 40), RUN);
    terminal.sees(">>>");
    terminal.says("/set system Answer like a pirate.");
    terminal.sees("Set system message.");
    terminal.says("/set parameter top_k 3");
    terminal.sees("Set parameter 'top_k' to '3'");
    terminal.says("/set parameter nonsense 3");
    terminal.sees("unknown option");
    terminal.types("/set verb");
    terminal.press("Tab");
    terminal.press("Enter");
    terminal.sees("Set 'verbose' mode.");
    terminal.types("\"\"\"one line");
    terminal.press("Enter");
    terminal.sees("... (\"\"\" ends the prompt)");
    terminal.says("and another\"\"\"");
    terminal.sees("eval rate:");
    terminal.sees("device:");
    terminal.says("/save pirate");
    terminal.sees("Created new model 'pirate'");
    let shown = sandbox.puna(&["show", "pirate", "--modelfile"], "").ok();
    assert!(shown.contains("SYSTEM Answer like a pirate."), "{shown}");
    assert!(
        shown.contains("MESSAGE user \"one line\nand another\""),
        "{shown}"
    );
    assert!(shown.contains("PARAMETER top_k 3"), "{shown}");
    terminal.says("/load nowhere");
    terminal.sees("model 'nowhere' not found");
    terminal.types("/load pir");
    terminal.press("Tab");
    terminal.press("Enter");
    terminal.sees("Loading model 'pirate");
    terminal.rests_at(">>>"); // Type-ahead is limited to one line.
    terminal.says("/show system");
    terminal.sees("Answer like a pirate.");
    terminal.says("/show parameters");
    let screen = terminal.sees("User defined parameters:");
    assert!(!screen.contains("num_ctx"), "{screen}");
    terminal.says("/clear");
    terminal.sees("Cleared session context");
    terminal.press("C-d");
    terminal.sees("status 0");
}

#[test]
fn keys_of_an_answer_do_not_get_into_it_and_ctrl_j_starts_a_line() {
    let sandbox = Sandbox::with_smol();
    let line = "puna run smol --temperature 0 -n 150";
    let terminal = Terminal::new(&sandbox, (100, 40), line);
    terminal.sees(">>>");
    terminal.types("Tell me about the sea.");
    terminal.press("C-j");
    terminal.says("In two sentences.");
    terminal.fills(2);
    terminal.types("QQQQ");
    let screen = terminal.shows("the keys at the next prompt", |screen| {
        screen.contains(">>> QQQQ")
    });
    assert_eq!(screen.matches('Q').count(), 4, "{screen}");
    terminal.press("C-u");
    terminal.says("/export chat.jsonl");
    terminal.sees("Wrote chat.jsonl.");
    let chat = std::fs::read_to_string(sandbox.home.join("chat.jsonl")).unwrap();
    let prompt: serde_json::Value = serde_json::from_str(chat.lines().next().unwrap()).unwrap();
    assert_eq!(
        prompt["content"],
        "Tell me about the sea.\nIn two sentences."
    );
    terminal.says("/set think");
    terminal.sees("error: smol does not support thinking");
    terminal.says("/bye");
    terminal.sees("status 0");
}

#[test]
fn one_shots_break_lines_between_words_too() {
    let sandbox = Sandbox::with_smol();
    let prompt = "puna run smol 'Tell me about the sea.' --temperature 0 -n 60 -q";
    let whole = sandbox.shell(prompt).ok();
    let terminal = Terminal::new(&sandbox, (30, 40), prompt);
    let screen = terminal.sees("status 0");
    for word in whole.split_whitespace().filter(|word| word.len() < 30) {
        let seen = screen.split_whitespace().any(|seen| seen == word);
        assert!(seen, "{word:?} is whole: {screen}");
    }
}

#[test]
fn a_long_wait_is_explained_on_a_terminal() {
    let sandbox = Sandbox::with_smol();
    sandbox.file("long.txt", "The sea is wide and deep. ".repeat(600));
    let line = "puna run smol - 'Sum up.' -n 4 --no-cache < long.txt";
    let terminal = Terminal::new(&sandbox, (100, 30), line);
    terminal.shows("the share of the prompt", |screen| {
        screen.contains("reading the prompt: ")
    });
    let screen = terminal.sees("status 0");
    assert!(!screen.contains("reading the prompt"), "{screen}");
}

#[test]
fn files_are_attached_when_asked_and_never_by_themselves() {
    let sandbox = Sandbox::with_smol();
    let notes = sandbox.file("my notes.txt", "The password is rosebud.\n");
    let terminal = Terminal::new(&sandbox, (100, 40), RUN);
    terminal.sees(">>>");
    terminal.says("/file my notes.txt");
    terminal.sees("Attached my notes.txt to the next prompt.");
    terminal.says("What is in it?");
    terminal.rests_at(">>>");
    terminal.says(&format!("'{}'", notes.display()));
    terminal.sees("to the next prompt? [y/N]");
    terminal.says("y");
    terminal.says("And now?");
    terminal.rests_at(">>>");
    terminal.says("/export chat.jsonl");
    terminal.sees("Wrote chat.jsonl.");
    let chat = std::fs::read_to_string(sandbox.home.join("chat.jsonl")).unwrap();
    let line = |number: usize| -> serde_json::Value {
        serde_json::from_str(chat.lines().nth(number).unwrap()).unwrap()
    };
    assert_eq!(
        line(0)["content"],
        "==> my notes.txt <==\nThe password is rosebud.\n\nWhat is in it?"
    );
    assert!(
        line(2)["content"]
            .as_str()
            .unwrap()
            .ends_with("rosebud.\n\nAnd now?")
    );
    terminal.says("/file /dev/null/x");
    terminal.sees("error: cannot read /dev/null/x");
}

#[test]
fn narrow_dumb_and_colourless_terminals_show_the_same() {
    let sandbox = Sandbox::with_smol();
    let plain = |variables: &str, columns: u32| {
        let line = format!("env {variables} {RUN}");
        let terminal = Terminal::new(&sandbox, (columns, 24), &line);
        terminal.sees(">>>");
        // A file that is there is never overwritten.
        let _ = std::fs::remove_file(sandbox.home.join("chat.md"));
        terminal.says("Why is the sky blue?");
        terminal.rests_at(">>>");
        terminal.says("/export chat.md");
        terminal.sees("Wrote chat.md.");
        let screen = terminal.screen();
        terminal.says("/bye");
        terminal.sees("status 0");
        let text = std::fs::read_to_string(sandbox.home.join("chat.md")).unwrap();
        let answer = text
            .split("## Assistant\n\n")
            .nth(1)
            .unwrap()
            .trim()
            .to_string();
        for word in answer.split_whitespace() {
            let whole = screen.split_whitespace().any(|seen| seen == word);
            assert!(
                whole,
                "{word:?} is whole with {variables} on {columns} columns: {screen}"
            );
        }
        answer
    };
    let wide = plain("X=1", 200);
    assert_eq!(plain("X=1", 40), wide);
    assert_eq!(plain("TERM=dumb", 80), wide);
    assert_eq!(plain("NO_COLOR=1", 80), wide);
}

#[test]
fn a_resize_while_it_streams_changes_only_where_lines_break() {
    let sandbox = Sandbox::with_smol();
    let line = "puna run smol --temperature 0 -n 120";
    let terminal = Terminal::new(&sandbox, (100, 24), line);
    terminal.sees(">>>");
    terminal.says("Tell me about the sea.");
    terminal.fills(1);
    terminal.tmux(&["resize-window", "-x", "50"]);
    terminal.rests_at(">>>");
    terminal.says("/export chat.md");
    terminal.sees("Wrote chat.md.");
    let text = std::fs::read_to_string(sandbox.home.join("chat.md")).unwrap();
    let answer = text.split("## Assistant\n\n").nth(1).unwrap().trim();
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    assert!(bare(&terminal.screen()).contains(&bare(answer)));
}

#[test]
fn a_session_with_a_server_is_the_same() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    let line = format!("{RUN} --host {}", server.at);
    let terminal = Terminal::new(&sandbox, (80, 30), &line);
    terminal.sees(">>>");
    terminal.says("Say hello to Anna.");
    terminal.rests_at(">>>");
    terminal.says("/set system Be brief.");
    terminal.says("/save brief");
    terminal.sees("Created new model 'brief'");
    terminal.says("/list br");
    terminal.sees("brief:latest");
    terminal.says("/show system");
    // It was typed before: keys that come while a command works are lost.
    terminal.shows("system text", |screen| {
        screen.matches("Be brief.").count() > 1 && screen.trim_end().ends_with(">>>")
    });
    terminal.says("/load nowhere");
    terminal.sees("not found");
    terminal.says("/bye");
    terminal.sees("status 0");
}

#[test]
fn a_transcript_grows_by_turns_and_is_gone_on_with() {
    let sandbox = Sandbox::with_smol();
    let run = |words: &[&str]| {
        let common = ["run", "smol", "-n", "8", "--temperature", "0"];
        sandbox.puna(&[&common, words].concat(), "")
    };
    let first = run(&["-s", "Be brief.", "--continue", "chat.jsonl", "I am Anna."]).ok();
    let path = sandbox.home.join("chat.jsonl");
    let messages = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let roles = |messages: &[serde_json::Value]| -> Vec<String> {
        messages
            .iter()
            .map(|message| message["role"].as_str().unwrap().to_string())
            .collect()
    };
    assert_eq!(roles(&messages()), ["system", "user", "assistant"]);
    assert_eq!(messages()[2]["content"].as_str().unwrap(), first.trim_end());
    run(&["--continue", "chat.jsonl", "Who am I?"]).ok();
    assert_eq!(roles(&messages())[3..], ["user", "assistant"]);
    // The same in a pipe; a missing newline at the end of the file is added.
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.trim_end()).unwrap();
    let piped = ["run", "smol", "-n", "4", "--continue", "chat.jsonl"];
    sandbox.puna(&piped, "And why?\n").ok();
    let all = messages();
    assert_eq!(all[all.len() - 2]["content"], "And why?");
    assert_eq!(all.len(), 7);
    // With another transcript, the original file stays unchanged.
    run(&[
        "--continue",
        "chat.jsonl",
        "--transcript",
        "other.jsonl",
        "Again?",
    ])
    .ok();
    assert_eq!(messages().len(), 7);
    std::fs::write(&path, "{\"role\":\"user\",\"content\":\"a\"}\nnonsense\n").unwrap();
    run(&["--continue", "chat.jsonl", "x"]).fails(2, "chat.jsonl, line 2: not a message");
    run(&["--transcript", "/nowhere/x", "hi"]).fails(1, "cannot write /nowhere/x");
}

#[test]
fn attached_files_come_before_the_prompt_and_are_texts() {
    let sandbox = Sandbox::with_smol();
    sandbox.file("a.txt", "alpha\n");
    sandbox.file("b.txt", "beta");
    sandbox.file("c.bin", [0u8, 159, 146, 150]);
    let render = [
        "run",
        "smol",
        "-a",
        "a.txt",
        "-a",
        "b.txt",
        "-n",
        "1",
        "--transcript",
        "t.jsonl",
    ];
    sandbox
        .puna(&[&render[..], &["Compare."]].concat(), "")
        .ok();
    let transcript = std::fs::read_to_string(sandbox.home.join("t.jsonl")).unwrap();
    let first: serde_json::Value =
        serde_json::from_str(transcript.lines().next().unwrap()).unwrap();
    assert_eq!(
        first["content"],
        "==> a.txt <==\nalpha\n\n==> b.txt <==\nbeta\n\nCompare."
    );
    for (file, status, words) in [
        ("c.bin", 2, "c.bin is not text"),
        ("none.txt", 1, "cannot read none.txt"),
        (".", 1, "cannot read .: "),
    ] {
        sandbox
            .puna(&["run", "smol", "-a", file, "hi"], "")
            .fails(status, words);
    }
    // A path within a prompt is plain text.
    let plain = sandbox.puna(
        &[
            "run",
            "smol",
            "-n",
            "1",
            "--transcript",
            "u.jsonl",
            "see ./a.txt",
        ],
        "",
    );
    plain.ok();
    let transcript = std::fs::read_to_string(sandbox.home.join("u.jsonl")).unwrap();
    assert!(!transcript.contains("alpha"), "{transcript}");
}
