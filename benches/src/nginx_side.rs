//! nginx, in each of the ways in which a node could serve blobs with it: one worker, no access log, connections kept
//! for as long as a client likes.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::process::Command;

use anyhow::Context;
use darter::demo::registry::Blob;
use tempfile::TempDir;

use crate::server::{Server, free_address};
use crate::suites::blob_path;

/// nginx and its directory; the server goes first.
#[derive(Debug)]
pub(crate) struct Nginx {
    server: Server,
    _home: TempDir,
}

impl Nginx {
    /// A registry of blobs that are static files, as quick as it can be.
    pub(crate) fn of_files(blobs: &[Blob]) -> anyhow::Result<Self> {
        Self::of_static(blobs, true)
    }

    /// Blobs as static files that are kept open, which a server of many files would not always have.
    pub(crate) fn of_static(blobs: &[Blob], sendfile: bool) -> anyhow::Result<Self> {
        let home = TempDir::with_prefix("darter-bench-nginx-")?;
        for blob in blobs {
            let file = home.path().join("root").join(blob_path(blob.digest()).trim_start_matches('/'));
            fs::create_dir_all(file.parent().context("a blob's path has a parent")?)?;
            write(blob, BufWriter::with_capacity(1 << 20, File::create(&file)?))?;
        }
        let sending = match sendfile {
            true => "sendfile on;\n  tcp_nopush on;",
            // Read in large parts, and without a copy into smaller ones.
            false => "sendfile off;\n  output_buffers 2 1m;",
        };
        let http = format!("{sending}\n  open_file_cache max=16 inactive=600s;");
        Self::start(home, &http, "root root;")
    }

    /// A cache in slices of 1 MiB before a registry, as one would configure it for blobs. `cache_bytes` is what it may
    /// hold.
    pub(crate) fn of_cache(registry: &str, cache_bytes: u64) -> anyhow::Result<Self> {
        let home = TempDir::with_prefix("darter-bench-nginx-")?;
        let upstream = registry.trim_start_matches("http://");
        let http = format!(
            "sendfile on;
  tcp_nopush on;
  open_file_cache max=4096 inactive=600s;
  proxy_cache_path cache levels=1:2 keys_zone=blobs:16m inactive=1h max_size={}m use_temp_path=off;
  upstream registry {{ server {upstream}; keepalive 16; }}",
            cache_bytes >> 20
        );
        let server = "location / {
      slice 1m;
      proxy_cache blobs;
      proxy_cache_key $uri$slice_range;
      proxy_cache_valid 200 206 1h;
      proxy_cache_lock on;
      proxy_set_header Range $slice_range;
      proxy_set_header Connection \"\";
      proxy_http_version 1.1;
      proxy_pass http://registry;
    }";
        Self::start(home, &http, server)
    }

    fn start(home: TempDir, http: &str, server: &str) -> anyhow::Result<Self> {
        let address = free_address()?;
        let configuration = home.path().join("nginx.conf");
        // As root its worker would be another user, who may not read a temporary directory.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let text = format!(
            "daemon off;
worker_processes 1;
pid nginx.pid;
{user}
events {{ worker_connections 512; }}
http {{
  access_log off;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  default_type application/octet-stream;
  client_body_temp_path client_body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  {http}
  server {{
    listen {address};
    {server}
  }}
}}
"
        );
        fs::write(&configuration, text)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(home.path()).arg("-c").arg(&configuration).args(["-e", "stderr"]);
        let server = Server::start(command, address, address, &home.path().join("log"));
        Ok(Self { server: server.context("nginx is needed: apt-get install nginx-light")?, _home: home })
    }

    /// The running server.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
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
