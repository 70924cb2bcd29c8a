//! The one network link between the host and a node's network namespace: a veth pair with a /30 of its own.
//! Everything else of the node's network (bridge, pods, rules) is inside the namespace and ends with it.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A link in place.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// The host's end.
    pub(crate) host: Ipv4Addr,
    /// The node's end: the address of its API server and its kubelet.
    pub(crate) node: Ipv4Addr,
}

impl Link {
    /// The host's interface of cluster `id`.
    pub(crate) fn interface(id: &str) -> String {
        format!("vnpu{id}")
    }

    /// Joins the host and the network namespace of process `init`.
    ///
    /// # Errors
    /// When `ip` is missing or refuses.
    pub(crate) fn create(id: &str, init: i32) -> Result<Self> {
        let interface = Self::interface(id);
        ip(&["link", "add", &interface, "type", "veth", "peer", "name", "eth0", "netns", &init.to_string()])?;
        let taken = ip(&["-o", "-4", "addr", "show"])?;
        let seed = u32::from_str_radix(id, 16).unwrap_or_default();
        for attempt in 0..64 {
            // 198.18.0.0/15 is set apart for tests of network devices (RFC 2544): no one's home or office
            // network lies there. 32768 blocks of four addresses.
            let block = seed.wrapping_add(attempt * 7919) % 32768;
            let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + block * 4;
            let link = Self { host: Ipv4Addr::from(base + 1), node: Ipv4Addr::from(base + 2) };
            if !taken.contains(&format!("{}/", link.host)) {
                ip(&["addr", "add", &format!("{}/30", link.host), "dev", &interface])?;
                ip(&["link", "set", &interface, "up"])?;
                return Ok(link);
            }
        }
        bail!("no free addresses in 198.18.0.0/15 for the node's link")
    }

    /// The `ip` commands that set up the node's side, run inside its namespace.
    pub(crate) fn inside(&self, service: Ipv4Addr) -> Vec<Vec<String>> {
        let line = |text: String| text.split(' ').map(str::to_owned).collect();
        vec![
            line("link set lo up".to_owned()),
            line(format!("addr add {}/30 dev eth0", self.node)),
            line("link set eth0 up".to_owned()),
            line(format!("route add default via {}", self.host)),
            // The API server's service address: pods reach it here without any kube-proxy.
            line(format!("addr add {service}/32 dev lo")),
        ]
    }

    /// Removes the host's end, and with it the node's. It is no error when there is none.
    pub(crate) fn remove(id: &str) {
        if super::is_root() {
            let _ = Command::new("ip").args(["link", "del", &Self::interface(id)]).output();
        }
    }
}

/// Runs `ip` in the caller's network namespace.
pub(crate) fn ip(arguments: &[&str]) -> Result<String> {
    let output =
        Command::new("ip").args(arguments).output().context("running ip (Debian package iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
