//! What a host does not hear, as text for `iptables-restore`.

use std::fmt::{self, Display, Formatter};
use std::net::Ipv4Addr;

use super::host::Host;

/// What is dropped of the packets that come over the link.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// All from these hosts.
    pub(super) deaf_to: Vec<Ipv4Addr>,
    /// Everything in UDP.
    pub(super) udp: bool,
    /// From these hosts, each packet with this chance in percent.
    pub(super) lossy: Option<(Vec<Ipv4Addr>, u8)>,
}

/// The whole table, which replaces the one before at once.
impl Display for Filter {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let link = Host::LINK;
        writeln!(out, "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]")?;
        for host in &self.deaf_to {
            writeln!(out, "-A INPUT -i {link} -s {host} -j DROP")?;
        }
        if self.udp {
            writeln!(out, "-A INPUT -i {link} -p udp -j DROP")?;
        }
        if let Some((hosts, percent)) = &self.lossy {
            let chance = f64::from(*percent) / 100.0;
            for host in hosts {
                writeln!(
                    out,
                    "-A INPUT -i {link} -s {host} -m statistic --mode random --probability {chance} -j DROP"
                )?;
            }
        }
        writeln!(out, "COMMIT")
    }
}

/// The packets that its rules have dropped, in what `iptables-save --counters` says: `[packets:bytes] -A … -j DROP`.
pub(super) fn dropped_packets(table: &str) -> u64 {
    let rules = table.lines().filter(|line| line.ends_with("-j DROP"));
    let packets = rules.filter_map(|rule| rule.strip_prefix('[')?.split_once(':')?.0.parse::<u64>().ok());
    packets.sum()
}
