//! A transport of HTTP requests to one Unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

/// Connects to one Unix socket, whatever the URL says.
#[derive(Debug)]
pub struct SocketConnector {
    path: PathBuf,
    stall_timeout: Option<Duration>,
}

impl SocketConnector {
    /// Connections to the socket at `path`; `stall_timeout` limits each wait for an answer.
    pub fn new(path: &Path, stall_timeout: Option<Duration>) -> Self {
        let path = path.to_path_buf();
        SocketConnector {
            path,
            stall_timeout,
        }
    }
}

impl Connector for SocketConnector {
    type Out = SocketTransport;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _: Option<()>,
    ) -> Result<Option<SocketTransport>, ureq::Error> {
        let stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(self.stall_timeout)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        Ok(Some(SocketTransport { stream, buffers }))
    }
}

/// A connection to a Unix socket.
#[derive(Debug)]
pub struct SocketTransport {
    stream: UnixStream,
    buffers: LazyBuffers,
}

impl Transport for SocketTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let count = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        false // Connections are not reused: each command sends one request.
    }
}
