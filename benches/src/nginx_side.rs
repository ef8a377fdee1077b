//! nginx with the blob as a static file: what a tuned server of files does with the same requests.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::process::Command;

use anyhow::Context;
use darter::demo::registry::Blob;
use tempfile::TempDir;

use crate::cores::Cores;
use crate::server::{Server, free_address};
use crate::workload::Subject;

/// nginx and its directory; the server goes first.
#[derive(Debug)]
pub(crate) struct Nginx {
    server: Server,
    _home: TempDir,
}

impl Nginx {
    /// Writes the blob to a file and starts one worker on it.
    pub(crate) fn start(cores: &Cores, subject: &Subject, blob: &Blob) -> anyhow::Result<Self> {
        let home = TempDir::with_prefix("darter-bench-nginx-")?;
        let file = home.path().join("root").join(subject.path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().context("a blob's path has a parent")?)?;
        write(blob, BufWriter::with_capacity(1 << 20, File::create(&file)?))?;
        let address = free_address()?;
        let configuration = home.path().join("nginx.conf");
        // As root its worker would be another user, who may not read a temporary directory.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        fs::write(&configuration, configuration_text(user, &address.to_string()))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(home.path()).arg("-c").arg(&configuration).args(["-e", "stderr"]);
        let log = home.path().join("log");
        let server = cores.on_server(|| Server::start(command, address, &log))?;
        Ok(Self { server: server.context("nginx is needed: apt-get install nginx-light")?, _home: home })
    }

    /// The running server.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
}

/// `sendfile` and `tcp_nopush` as Debian sets them; connections are kept for as long as a client likes, and the file
/// is kept open, which a server of many files would not always have.
fn configuration_text(user: &str, address: &str) -> String {
    format!(
        "daemon off;
worker_processes 1;
pid nginx.pid;
{user}
events {{ worker_connections 128; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  open_file_cache max=16 inactive=600s;
  default_type application/octet-stream;
  client_body_temp_path client_body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{ listen {address}; root root; }}
}}
"
    )
}

fn write(blob: &Blob, mut file: impl Write) -> anyhow::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < blob.len() {
        let part = buffer.len().min((blob.len() - offset) as usize);
        blob.read_exact_at(&mut buffer[..part], offset)?;
        file.write_all(&buffer[..part])?;
        offset += part as u64;
    }
    Ok(file.flush()?)
}
