//! Opens what has to be a regular file: a FIFO would block for ever, and a device has no end.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::{Error, Result};

/// Opens a regular file to read it, without waiting for a writer if it is a FIFO.
///
/// # Errors
/// `InvalidData` for a directory, FIFO, socket or device.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        // A socket cannot be opened.
        Some(number) if number == rustix::io::Errno::NXIO.raw_os_error() => wrong(),
        _ => error,
    })?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(wrong())
    }
}

/// The same, with the error that names the file.
///
/// # Errors
/// As [`open`].
pub fn named(path: &Path) -> Result<File> {
    open(path).map_err(|error| Error::io("read", path, error))
}

/// Reads a regular file of text.
///
/// # Errors
/// As [`open`]; if it is no UTF-8.
pub fn text(path: &Path) -> io::Result<String> {
    io::read_to_string(open(path)?)
}

fn wrong() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a regular file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let folder = std::env::temp_dir().join(format!("puna-regular-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder); // Of a test that failed earlier.
        std::fs::create_dir(&folder).unwrap();
        let [file, fifo, socket] = ["file", "fifo", "socket"].map(|name| folder.join(name));
        std::fs::write(&file, "words").unwrap();
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(text(&file).unwrap(), "words");
        for path in [&folder, &fifo, &socket, Path::new("/dev/null")] {
            let error = open(path).unwrap_err();
            assert_eq!(
                error.kind(),
                io::ErrorKind::InvalidData,
                "{}: {error}",
                path.display()
            );
        }
        assert_eq!(
            open(&folder.join("none")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
