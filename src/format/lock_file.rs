//! Lock files: the digest of each model's manifest, so that machines run the same.

use crate::core::digest::Digest;
use crate::core::name::Name;

/// Reads lines of a name and a digest, with white space between; skips empty lines and comments.
///
/// # Errors
/// The number of a line that is none of these.
pub fn parse(text: &str) -> Result<Vec<(Name, Digest)>, String> {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let one = |(at, line): (usize, &str)| {
        let mut words = line.split_whitespace();
        let name = words.next().and_then(|name| Name::parse(name).ok());
        let digest = words.next().and_then(|digest| Digest::parse(digest).ok());
        let wrong = || format!("line {}: expected a name, a tab and a digest", at + 1);
        name.zip(digest).ok_or_else(wrong)
    };
    lines.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_name_and_a_digest() {
        let digest = Digest::compute(b"x");
        let text = format!("# mine\n\nsmol\t{digest}\nlib/tiny:q4 {digest} 12 MB\n");
        let names: Vec<String> = parse(&text)
            .unwrap()
            .into_iter()
            .map(|(name, found)| {
                assert_eq!(found, digest);
                name.to_string()
            })
            .collect();
        assert_eq!(names, ["smol:latest", "lib/tiny:q4"]);
        assert!(parse("smol\n").unwrap_err().starts_with("line 1: expected"));
        assert!(
            parse("\nsmol sha256:1\n")
                .unwrap_err()
                .starts_with("line 2")
        );
    }
}
