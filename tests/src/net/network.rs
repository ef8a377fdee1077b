//! A switch to which hosts are attached.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::host::{Host, Port};
use super::namespace::Namespace;
use super::run::Run;
use crate::need::Need;

/// What a [`Network`] needs.
pub const NETWORK: [Need; 2] =
    [Need::Namespaces, Need::Program { name: "iptables-restore", package: "iptables" }];

/// Two networks at once would be two slow ones.
static TURN: Mutex<()> = Mutex::new(());
const BRIDGE: &str = "switch";

/// A switch. It is gone when it and its hosts are dropped and their processes have ended.
#[derive(Debug)]
pub struct Network {
    switch: Namespace,
    mtu: u32,
    attached: AtomicU8,
    run: Run,
    _turn: MutexGuard<'static, ()>,
}

impl Network {
    /// Whether this machine lets one be made.
    pub(crate) fn available() -> Result<(), String> {
        let namespace = Namespace::new().map_err(|error| format!("no network namespaces: {error}"))?;
        let made = "ip link add one type veth peer name other && ip link add three type bridge \
             && tc qdisc add dev one root tbf rate 1mbit burst 32kb limit 64kb";
        let ran = namespace.enter(|| crate::process::command("sh").args(["-c", made]).output());
        let ran = ran.map_err(|error| format!("no shell: {error}"))?;
        let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
        ran.status.success().then_some(()).ok_or_else(|| format!("no bridge, veth or tbf: {said}"))
    }

    /// A switch whose links carry packets of at most `mtu` bytes, as fast as this machine goes. Waits for the other
    /// network of this process to be dropped.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(mtu: u32) -> Network {
        // A test that failed with a network has dropped it as any other has.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let run = Run::begin();
        let switch = Namespace::new().expect("root may make namespaces");
        switch.run("ip", &format!("link add {BRIDGE} mtu {mtu} type bridge"));
        switch.run("ip", &format!("link set {BRIDGE} up"));
        // What is bridged is nobody's business but the hosts': where the kernel shows it to iptables, it costs time.
        let filtered = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
        switch.enter(|| {
            if filtered.exists() {
                fs::write(filtered, "0").expect("root may change settings");
            }
        });
        Network { switch, mtu, attached: AtomicU8::new(0), run, _turn: turn }
    }

    /// A new host, at 10.77.0.1 and up.
    ///
    /// # Panics
    /// When it cannot be made, or there are too many.
    pub fn attach(&self) -> Host {
        let number = self.attached.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(number < u8::MAX, "no addresses left");
        let namespace = Namespace::new().expect("root may make namespaces");
        let (port, address, mtu) = (format!("port{number}"), Ipv4Addr::new(10, 77, 0, number), self.mtu);
        let ends = format!(
            "link add {port} mtu {mtu} type veth peer name {} mtu {mtu} netns {}",
            Host::LINK,
            namespace.path()
        );
        self.switch.run("ip", &ends);
        self.switch.run("ip", &format!("link set {port} master {BRIDGE} up"));
        namespace.run("ip", &format!("address add {address}/16 dev {}", Host::LINK));
        namespace.run("ip", &format!("link set {} up", Host::LINK));
        Host::new(namespace, address, Port { switch: self.switch.clone(), name: port })
    }

    /// A directory for what belongs to this network; gone with it.
    pub fn directory(&self) -> &Path {
        self.run.directory()
    }
}
