//! A reverse proxy as in `puna-scripting(7)`: nginx terminates TLS in front of the loopback address,
//! and the server behind it requires API keys.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cli::manual::recipes;
use crate::support::{Done, Sandbox, Server, eventually, run};

const KEY: &str = "root-key-0123456789";
const HOST: &str = "llm.example.org";

/// An nginx in a sandbox, on a Unix socket, so that no port has to be chosen.
struct Nginx {
    child: Child,
    socket: PathBuf,
    certificate: PathBuf,
}

impl Nginx {
    fn start(sandbox: &Sandbox, location: &str) -> Self {
        let home = sandbox.home.display();
        let certificate = sandbox.home.join("cert.pem");
        sandbox
            .shell(&format!(
                "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={HOST} \
                 -addext subjectAltName=DNS:{HOST} -keyout key.pem -out cert.pem 2> /dev/null"
            ))
            .ok();
        let socket = sandbox.home.join("nginx.sock");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {home}/nginx-{kind};\n"))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {home}/nginx.pid;\nevents {{}}\nhttp {{\n\
             access_log off;\n{temporary}server {{\nlisten unix:{} ssl;\nserver_name {HOST};\n\
             ssl_certificate {home}/cert.pem;\nssl_certificate_key {home}/key.pem;\n{location}\n}}\n}}\n",
            socket.display()
        );
        let path = format!("{}:/usr/sbin", std::env::var("PATH").expect("a PATH"));
        let child = Command::new("nginx")
            .env("PATH", path)
            .args(["-e", "stderr", "-c"])
            .arg(sandbox.file("nginx.conf", config))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("nginx starts: `make test-deps` installs it");
        let nginx = Nginx {
            child,
            socket,
            certificate,
        };
        let limit = Duration::from_secs(20);
        eventually("nginx listens", limit, || {
            nginx.ask(&["-f", "/health"]).status == Some(0)
        });
        nginx
    }

    /// A curl command through the proxy; the last word is the path.
    fn curl(&self, words: &[&str]) -> Command {
        let (path, flags) = words.split_last().expect("a path");
        let mut curl = Command::new("curl");
        curl.args(["-sSN", "--max-time", "120", "--unix-socket"]);
        curl.arg(&self.socket)
            .arg("--cacert")
            .arg(&self.certificate);
        curl.args(flags).arg(format!("https://{HOST}{path}"));
        curl
    }

    fn ask(&self, words: &[&str]) -> Done {
        run(&mut self.curl(words), "")
    }

    /// The status of a response.
    fn status(&self, words: &[&str]) -> String {
        let flags = [&["-o", "/dev/null", "-w", "%{http_code}"], words].concat();
        self.ask(&flags).ok()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It may not have started.
        let _ = self.child.wait();
    }
}

#[test]
fn nginx_of_the_manual_stands_in_front() {
    let sandbox = Sandbox::with_smol();
    let keys = sandbox.file("keys", format!("root manage {KEY}\n"));
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    let words = ["serve", "--host", "127.0.0.1:0", "--api-key-file", "keys"];
    let server = Server::start(sandbox.command(&words));
    let page = sandbox.puna(&["man", "scripting.7"], "").ok();
    let location = recipes(&page)
        .into_iter()
        .find(|recipe| recipe.starts_with("location "))
        .expect("the manual shows nginx");
    let location = location.replace("127.0.0.1:11434", &server.at);
    let nginx = Nginx::start(&sandbox, &location);

    let bearer = format!("Authorization: Bearer {KEY}");
    assert_eq!(nginx.status(&["/api/tags"]), "401");
    assert_eq!(
        nginx.status(&["-H", &format!("{bearer}x"), "/api/tags"]),
        "401"
    );
    let list = nginx.ask(&["-H", &bearer, "/api/tags"]).ok();
    assert!(list.contains("smol:latest"), "{list}");

    // A body larger than nginx's default limit.
    let blob = sandbox.file("blob", vec![7; 3 << 20]);
    let sum = sandbox.shell("sha256sum blob | cut -d' ' -f1").ok();
    let route = format!("/api/blobs/sha256:{}", sum.trim_end());
    let body = format!("@{}", blob.display());
    let sent = ["-H", &bearer, "--data-binary", &body, &route];
    assert_eq!(nginx.status(&sent), "201");

    // A stream of OpenAI's API, up to its end.
    let chat = r#"{"model":"smol","stream":true,"max_tokens":4,"messages":[{"role":"user","content":"Hi"}]}"#;
    let stream = nginx
        .ask(&["-H", &bearer, "-d", chat, "/v1/chat/completions"])
        .ok();
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");

    // The first record arrives long before the last; a disconnect reaches the server through nginx.
    let endless = r#"{"model":"smol","raw":true,"prompt":"1 2","options":{"num_predict":8000,"temperature":0}}"#;
    let mut curl = nginx
        .curl(&["-H", &bearer, "-d", endless, "/api/generate"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(curl.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(first.contains(r#""done":false"#), "{first}");
    curl.kill().unwrap();
    curl.wait().unwrap();
    eventually("the work is freed", Duration::from_secs(20), || {
        let metrics = nginx.ask(&["-H", &bearer, "/metrics"]).ok();
        metrics.contains("puna_cancelled_total 1\n")
    });
}
