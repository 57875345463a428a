//! Sessions in which something goes wrong: the conversation stays.

use crate::cli::session::Terminal;
use crate::support::Sandbox;

/// The contents of an exported conversation.
fn exported(terminal: &Terminal, sandbox: &Sandbox, name: &str) -> Vec<String> {
    terminal.says(&format!("/export {name}"));
    terminal.sees(&format!("Wrote {name}."));
    let text = std::fs::read_to_string(sandbox.home.join(name)).unwrap();
    let content = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        message["content"].as_str().unwrap().to_string()
    };
    text.lines().map(content).collect()
}

#[test]
fn a_wrong_byte_and_another_model_keep_the_conversation() {
    let sandbox = Sandbox::with_smol();
    sandbox.puna(&["cp", "smol", "other"], "").ok();
    let line = "puna run smol --temperature 0 -n 8";
    let terminal = Terminal::new(&sandbox, (80, 24), line);
    terminal.sees(">>>");
    terminal.says("My name is Bob.");
    terminal.rests_at(">>>");
    // A byte of Latin-1, as a terminal of another encoding sends it.
    terminal.tmux(&["send-keys", "-H", "63", "e9", "0d"]);
    terminal.sees("is not UTF-8 and was dropped");
    terminal.says("/load other");
    terminal.sees("Loading model 'other'");
    terminal.rests_at(">>>");
    let kept = exported(&terminal, &sandbox, "kept.jsonl");
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(kept[0], "My name is Bob.");
    for (line, text) in [
        ("/set verbose false", "takes no value"),
        ("/undo 3", "takes no operand"),
        ("/help nonsense", "no help on 'nonsense'"),
    ] {
        terminal.says(line);
        terminal.sees(text);
    }
    terminal.says("/bye");
    terminal.sees("status 0");
}

#[test]
fn an_answer_stays_until_there_is_another_whole_one() {
    let sandbox = Sandbox::with_smol();
    let line = "puna run smol --temperature 0 -n 8 --num-ctx 8000 -o stop=zzz";
    let terminal = Terminal::new(&sandbox, (80, 24), line);
    terminal.sees(">>>");
    terminal.says("Write a long story about the sea, in ten chapters.");
    terminal.rests_at(">>>");
    let before = exported(&terminal, &sandbox, "before.jsonl");
    terminal.says("/set parameter num_predict 4000");
    terminal.sees("Set parameter 'num_predict'");
    terminal.says("/retry");
    terminal.fills(14);
    terminal.press("C-c");
    terminal.sees("the earlier answer stays");
    assert_eq!(exported(&terminal, &sandbox, "after.jsonl"), before);
}

#[test]
fn a_prompt_that_a_server_did_not_answer_is_sent_again() {
    let (here, there) = (Sandbox::new(), Sandbox::with_smol());
    let server = there.serve(&[("PUNA_SOCKET", "")]);
    let at = server.at.clone();
    let line = format!("puna run smol --temperature 0 -n 8 --host {at}");
    let terminal = Terminal::new(&here, (80, 24), &line);
    terminal.sees(">>>");
    terminal.says("One");
    terminal.rests_at(">>>");
    server.end("-KILL");
    terminal.says("Two");
    terminal.sees("error: no server at");
    // Its answer would take the place of a whole one: that one stays.
    let before = exported(&terminal, &here, "before.jsonl");
    assert_eq!(before.len(), 2, "{before:?}");
    let mut command = there.command(&["serve", "--host", &at]);
    let again = crate::support::Server::start({
        command.env("PUNA_SOCKET", "");
        command
    });
    terminal.says("/retry");
    terminal.rests_at(">>>");
    let after = exported(&terminal, &here, "after.jsonl");
    assert_eq!((after.len(), after[2].as_str()), (4, "Two"), "{after:?}");
    again.end("-KILL");
    terminal.says("/retry");
    terminal.sees("the earlier answer stays");
    assert_eq!(exported(&terminal, &here, "last.jsonl"), after);
    terminal.says("/bye");
    terminal.sees("status 0");
}
