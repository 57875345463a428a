//! NO_PROXY: which hosts are reached without a proxy, by the usual rules.

use std::net::IpAddr;

/// True if a host is reached without a proxy. A name matches its domain and all subdomains; addresses
/// and networks (`10.0.0.0/8`) match addresses; an entry may end in a port.
pub fn is_direct(no_proxy: &[String], host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']).to_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    no_proxy.iter().any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Some((network, bits)) = entry.split_once('/') {
            return address.is_some_and(|address| is_in(address, network, bits));
        }
        let (name, wanted) = with_port(entry);
        if wanted.is_some_and(|wanted| wanted != port) {
            return false;
        }
        match (name.parse::<IpAddr>(), address) {
            (Ok(entry), Some(address)) => entry == address,
            (Ok(_), None) | (Err(_), Some(_)) => false,
            (Err(_), None) => match name.strip_prefix('.') {
                Some(_) => host.ends_with(name),
                None => host == name || host.ends_with(&format!(".{name}")),
            },
        }
    })
}

fn with_port(entry: &str) -> (&str, Option<u16>) {
    if let Some(rest) = entry.strip_prefix('[') {
        let (host, port) = rest.split_once(']').unwrap_or((rest, ""));
        return (host, port.trim_start_matches(':').parse().ok());
    }
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, port.parse().ok()),
        _ => (entry, None),
    }
}

fn is_in(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let same = |a: u128, b: u128, width: u32| {
        bits <= width && (bits == 0 || (a ^ b) >> (width - bits) == 0)
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.into(), b.into(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_domains_and_networks_are_distinguished() {
        let list = [
            "example.com",
            ".inner.org",
            "10.0.0.0/8",
            "1.2.3.4",
            "host:81",
            "fd00::/8",
        ];
        let list: Vec<String> = list.map(String::from).to_vec();
        for (host, port) in [
            ("example.com", 443),
            ("a.example.com", 443),
            ("a.inner.org", 443),
            ("10.9.8.7", 80),
            ("1.2.3.4", 80),
            ("host", 81),
            ("localhost", 80),
            ("127.0.0.9", 80),
            ("[::1]", 80),
            ("fd12::1", 80),
        ] {
            assert!(is_direct(&list, host, port), "{host}");
        }
        for (host, port) in [
            ("notexample.com", 443),
            ("inner.org", 443),
            ("11.0.0.1", 80),
            ("host", 80),
            ("fe80::1", 80),
        ] {
            assert!(!is_direct(&list, host, port), "{host}");
        }
        assert!(is_direct(&["*".to_string()], "any.thing", 1));
        assert!(!is_direct(&[], "10.0.0.1", 1));
    }
}
